"""A log-in that is under way: what this application has to remember between sending a browser away and getting it back.

It lives in a cookie of the browser that began it. Who brings the answer of somebody else's log-in has not its cookie,
so the answer is refused (log-in CSRF, RFC 6749 10.12).
"""

import dataclasses
import hmac
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

LIFETIME = 600
"""Seconds from the beginning to the end."""
_LONGEST_RETURN = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """login_id: 256 random bits that the server lets complete once. state, nonce: 256 random bits each. verifier: of
    PKCE (RFC 7636 4.1), 256 bits. return_to: where the browser goes in the end. expires_at: seconds since the epoch.
    """

    provider_id: str
    login_id: str
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    return_to: str = field(repr=False)
    expires_at: float

    @classmethod
    def begun(cls, *, provider_id: str, return_to: str, now: float) -> Self:
        return cls(
            provider_id=provider_id,
            login_id=secrets.token_hex(32),
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(32),
            return_to=return_to,
            expires_at=now + LIFETIME,
        )

    def packed(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def unpacked(cls, content: bytes | None, *, now: float) -> Self | None:
        """None where there is none, or no longer. content: what the cookie held, which only this application writes."""
        if content is None:
            return None
        try:
            transaction = cls(**json.loads(content))
        except TypeError:
            # Another version of this application wrote it, with other members.
            return None
        return transaction if now < transaction.expires_at else None

    def is_answered_by(self, state: str) -> bool:
        return hmac.compare_digest(self.state.encode(), state.encode())


def place_on_this_site(wanted: str) -> str:
    """`wanted` if it is a path of this site and nothing else, or `/`.

    A browser reads `//host`, `/\\host` and (having removed tabs and line breaks) `/<tab>/host` as another site.
    """
    parts = urlsplit(wanted) if re.fullmatch(r"/[!-\[\]-~]*", wanted) and len(wanted) <= _LONGEST_RETURN else None
    if parts is None or wanted.startswith("//") or parts.scheme or parts.netloc:
        return "/"
    return wanted
