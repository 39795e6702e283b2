"""Where the POP is, and who is asking: from arguments and environment to a checked connection."""

import os
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .errors import ConfigurationError

if TYPE_CHECKING:
    from .credential import Credential

DEFAULT_ENDPOINT = "127.0.0.1:8080"
_NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_-")
_KEY_CHARACTERS = _NAME_CHARACTERS | {"."}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`target` is gRPC's name of it, `http` its address for people and for OAuth (empty for a socket); `secure` means
    TLS; `local` that nothing leaves this machine."""

    shown: str
    target: str
    http: str
    secure: bool
    local: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """An endpoint with what is presented to it: an API key or, where that is empty, a person's credential.
    `organization` is the one that is meant, by id or slug; empty leaves it to the POP. `ca_file` holds PEM certificates
    to trust instead of the public ones."""

    endpoint: Endpoint
    api_key: str = field(default="", repr=False)
    credential: "Credential | None" = None
    organization: str = ""
    ca_file: Path | None = None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_endpoint(text: str) -> Endpoint:
    """Read `https://host[:port]` (TLS), `http://host[:port]` or `host:port` (plaintext), or `unix:///path/to.sock`.

    Raises ConfigurationError for anything else.
    """
    shown = text.strip()
    if shown.startswith("unix:"):
        path = shown.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise ConfigurationError(f"the endpoint {shown!r} needs an absolute path, as in unix:///run/popsigner.sock")
        return Endpoint(shown=shown, target=f"unix:{path}", http="", secure=False, local=True)
    try:
        parts = urlsplit(shown if "://" in shown else f"bare://{shown}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    default = {"http": 80, "https": 443}.get(parts.scheme)
    if (
        not host
        or parts.scheme not in ("http", "https", "bare")
        or port == 0
        or (port is None and default is None)
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
        or parts.username is not None
    ):
        raise ConfigurationError(
            "the endpoint must be https://host, http://host:port, host:port or unix:///path/to.sock, without a path"
        )
    name = f"[{host}]" if ":" in host else host
    scheme = "https" if parts.scheme == "https" else "http"
    return Endpoint(
        shown=shown,
        target=f"dns:///{name}:{port or default}",
        http=f"{scheme}://{name}" if port in (None, default) else f"{scheme}://{name}:{port}",
        secure=parts.scheme == "https",
        local=_is_loopback(host),
    )


def _checked_key(text: str, source: str) -> str:
    key = text.strip()
    if not key or not _KEY_CHARACTERS.issuperset(key):
        # The value may be a secret with a typing mistake: it is not repeated.
        raise ConfigurationError(f"{source} does not hold an API key; one looks like psk_live_<id>_<secret>")
    return key


def _read_key_file(path: Path) -> str:
    try:
        return _checked_key(path.read_text("utf-8"), f"the API key file {path}")
    except OSError as error:
        raise ConfigurationError(f"the API key file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the API key file {path} does not hold text") from None


def find_api_key(
    *, api_key: str | None, api_key_file: str | os.PathLike[str] | None, environment: Mapping[str, str]
) -> str:
    """The argument, else the file, else POPSIGNER_API_KEY, else the file that POPSIGNER_API_KEY_FILE names."""
    if api_key is not None:
        return _checked_key(api_key, "api_key")
    if api_key_file is not None:
        return _read_key_file(Path(api_key_file))
    if value := environment.get("POPSIGNER_API_KEY"):
        return _checked_key(value, "POPSIGNER_API_KEY")
    if value := environment.get("POPSIGNER_API_KEY_FILE"):
        return _read_key_file(Path(value))
    raise ConfigurationError(
        "there is no API key: set POPSIGNER_API_KEY_FILE or POPSIGNER_API_KEY, or pass one (or a credential)"
    )


def place(
    *, endpoint: str | None, credential: "Credential | None", insecure: bool, environment: Mapping[str, str]
) -> Endpoint:
    """The argument, else POPSIGNER_ENDPOINT, else the POP of the credential, else one on this machine.

    Plaintext to another machine would show the API key or session to everyone on the way; it needs `insecure`. A
    session is shown to the POP that gave it, and to no other. Raises ConfigurationError.
    """
    given = endpoint or environment.get("POPSIGNER_ENDPOINT")
    found = credential.endpoint if credential is not None and not given else parse_endpoint(given or DEFAULT_ENDPOINT)
    if not (found.secure or found.local or insecure):
        raise ConfigurationError(
            f"{found.shown} is another machine, and without TLS the API key or session would be readable on the way; "
            f"use https://, or allow it with insecure=True"
        )
    if credential is not None and (found.target, found.secure) != (
        credential.endpoint.target,
        credential.endpoint.secure,
    ):
        raise ConfigurationError(
            f"you are logged in to {credential.endpoint.shown}, and this is for {found.shown}; "
            f"log in there with `popsigner login`, or leave the endpoint out"
        )
    return found


def _organization(given: str | None, *, credential: "Credential | None", environment: Mapping[str, str]) -> str:
    if given is None:
        given = environment.get("POPSIGNER_ORGANIZATION") or (credential.organization if credential else "")
    name = given.strip()
    if not _NAME_CHARACTERS.issuperset(name):
        raise ConfigurationError(f"{given!r} is no organization; name it by its id (org_…) or its slug")
    return name


def connection(
    *,
    api_key: str | None,
    api_key_file: str | os.PathLike[str] | None,
    credential: "Credential | None",
    endpoint: str | None,
    organization: str | None,
    ca_file: str | os.PathLike[str] | None,
    insecure: bool,
    environment: Mapping[str, str],
) -> Connection:
    """Settle where to connect, as whom, and for which organization. Raises ConfigurationError."""
    if credential is not None and (api_key is not None or api_key_file is not None):
        raise ConfigurationError("give an API key or a credential, not both")
    found = place(endpoint=endpoint, credential=credential, insecure=insecure, environment=environment)
    return Connection(
        endpoint=found,
        api_key=(
            ""
            if credential is not None
            else find_api_key(api_key=api_key, api_key_file=api_key_file, environment=environment)
        ),
        credential=credential,
        organization=_organization(organization, credential=credential, environment=environment),
        ca_file=Path(ca_file) if ca_file is not None else None,
    )
