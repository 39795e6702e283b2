"""An identity provider that somebody wants to connect, checked before anything is kept of it."""

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from popsigner_server import errors
from popsigner_server.domain.people import check_name

MAX_ISSUER = 255
MAX_CLIENT_ID = 255
MAX_CLIENT_SECRET = 1024


class Kind(StrEnum):
    """What speaks with a provider."""

    GITHUB = "github"
    GOOGLE = "google"
    OIDC = "oidc"


# Where these are unless somebody runs their own.
_SITES = {Kind.GITHUB: "https://github.com", Kind.GOOGLE: "https://accounts.google.com"}
_NAMES = {"https://github.com": "GitHub", "https://accounts.google.com": "Google"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A provider to connect, checked; `client_secret` is empty for a public client."""

    kind: Kind
    name: str
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)

    @classmethod
    def of(cls, kind: Kind, *, name: str, issuer: str, client_id: str, client_secret: str) -> "Wanted":
        """Raises InvalidField."""
        issuer = issuer or _SITES.get(kind, "")
        host = _check_issuer(issuer)
        name = name.strip() or _NAMES.get(issuer, host)
        try:
            check_name(name)
        except ValueError as error:
            raise errors.InvalidField("name", str(error)) from error
        if not 0 < len(client_id) <= MAX_CLIENT_ID or not _plain(client_id):
            raise errors.InvalidField("client_id", f"must be 1 to {MAX_CLIENT_ID} printable ASCII characters.")
        if len(client_secret) > MAX_CLIENT_SECRET or not _plain(client_secret):
            raise errors.InvalidField(
                "client_secret", f"must be at most {MAX_CLIENT_SECRET} printable ASCII characters."
            )
        return cls(kind=kind, name=name, issuer=issuer, client_id=client_id, client_secret=client_secret)


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _check_issuer(issuer: str) -> str:
    """The host of an issuer identifier (OpenID Connect Core 1.0, 2: https, no query, no fragment). It is compared to
    what the provider says of itself, so it stays as it was written. Raises InvalidField."""
    if not issuer:
        raise errors.InvalidField("issuer", "is needed: the issuer identifier of the provider, an https URL.")
    try:
        parts = urlsplit(issuer)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise errors.InvalidField("issuer", "is no URL.") from error
    if len(issuer) > MAX_ISSUER or not _plain(issuer) or " " in issuer or "\\" in issuer:
        raise errors.InvalidField("issuer", f"must be a URL of at most {MAX_ISSUER} ASCII characters.")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise errors.InvalidField("issuer", "must be an https URL (http on loopback only).")
    if not host or "@" in parts.netloc or "?" in issuer or "#" in issuer:
        raise errors.InvalidField("issuer", "must have a host, and no user, query or fragment.")
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
