"""Where the POP is, and who is asking: from arguments and environment to a checked connection."""

import os
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from .errors import ConfigurationError

DEFAULT_ENDPOINT = "127.0.0.1:8080"
_KEY_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_-.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`target` is gRPC's name of it; `secure` means TLS; `local` that nothing leaves this machine."""

    shown: str
    target: str
    secure: bool
    local: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """An endpoint with what is presented to it. `ca_file` holds PEM certificates to trust instead of the public
    ones."""

    endpoint: Endpoint
    api_key: str = field(repr=False)
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
        return Endpoint(shown=shown, target=f"unix:{path}", secure=False, local=True)
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
    return Endpoint(
        shown=shown,
        target=f"dns:///{name}:{port or default}",
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
    raise ConfigurationError("there is no API key: set POPSIGNER_API_KEY_FILE or POPSIGNER_API_KEY, or pass one")


def connection(
    *,
    api_key: str | None,
    api_key_file: str | os.PathLike[str] | None,
    endpoint: str | None,
    ca_file: str | os.PathLike[str] | None,
    insecure: bool,
    environment: Mapping[str, str],
) -> Connection:
    """Settle where to connect and with which API key. Raises ConfigurationError.

    Plaintext to another machine would show the API key to everyone on the way; it needs `insecure`.
    """
    place = parse_endpoint(endpoint or environment.get("POPSIGNER_ENDPOINT") or DEFAULT_ENDPOINT)
    if not (place.secure or place.local or insecure):
        raise ConfigurationError(
            f"{place.shown} is another machine, and without TLS the API key would be readable on the way; "
            f"use https://, or allow it with insecure=True"
        )
    return Connection(
        endpoint=place,
        api_key=find_api_key(api_key=api_key, api_key_file=api_key_file, environment=environment),
        ca_file=Path(ca_file) if ca_file is not None else None,
    )
