"""How people and organizations are called."""

import re
import secrets
import unicodedata

MAX_NAME = 100
MAX_SLUG = 63
_EMAIL = re.compile(r"""[^\s@<>()\[\],;:\\"\x00-\x1f\x7f]+@[^\s@<>()\[\],;:\\"\x00-\x1f\x7f]+""", re.ASCII)
_SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUFFIX = 4


def check_name(name: str) -> None:
    """Raises ValueError."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        raise ValueError(f"must be 1 to {MAX_NAME} printable characters, without spaces around them.")


def fold_email(text: str) -> str:
    """The address in lower case, to compare. Raises ValueError.

    ASCII alone: Unicode's lower case makes different mailboxes one (the Kelvin sign becomes k), and whoever owns the
    other one could accept this one's invitation. Names in other scripts have an ASCII form (RFC 5891's xn--).
    """
    if not 3 <= len(text) <= 254 or not text.isascii() or _EMAIL.fullmatch(text) is None:
        raise ValueError("must be one e-mail address of 3 to 254 ASCII characters.")
    return text.lower()


def check_slug(slug: str) -> None:
    """Raises ValueError."""
    if _SLUG.fullmatch(slug) is None:
        raise ValueError(f"must be 1 to {MAX_SLUG} lower-case letters, digits and -, with no - at an end.")


def slug_of(name: str) -> str:
    """The name as it may stand in an address; `organization` where nothing of it may."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:MAX_SLUG].strip("-") or "organization"


def another_slug(slug: str) -> str:
    """The slug with a random ending: one that counted would tell how many there are."""
    return f"{slug[: MAX_SLUG - 1 - 2 * _SUFFIX].rstrip('-')}-{secrets.token_hex(_SUFFIX)}"
