"""Cookies that only this application can read: encrypted, bound to the browser by the `__Host-` prefix, and useless
anywhere else.

Every key is derived from the gateway's secret, so several gateway processes agree, and whoever knows one key knows no
other.
"""

import base64
import binascii
import hmac
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

# A cookie of this prefix is Secure, of the whole host and of no other one (RFC 6265bis 4.1.3.2).
SESSION = "__Host-popsigner-session"
LOGIN = "__Host-popsigner-login"
_NONCE_BYTES = 12
# Browsers keep cookies of 4096 bytes with their name and attributes.
_LARGEST = 3800
_WAITING = "popsigner.cookies"


def derived_key(secret: str, label: str) -> bytes:
    """32 bytes (HKDF-SHA256, RFC 5869). secret: hexadecimal. label: what the key is for."""
    info = f"popsigner gateway {label} v1".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(bytes.fromhex(secret))


@dataclass(frozen=True, slots=True)
class Jar:
    """Seals and opens the cookies of one gateway secret."""

    _ciphers: dict[str, AESGCM] = field(repr=False)

    @classmethod
    def of(cls, secret: str) -> "Jar":
        return cls({name: AESGCM(derived_key(secret, f"cookie {name}")) for name in (SESSION, LOGIN)})

    def seal(self, name: str, content: bytes) -> str:
        """AES-256-GCM with a random nonce of 96 bits and the cookie's name as associated data."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[name].encrypt(nonce, content, name.encode())
        return base64.urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()

    def open(self, name: str, text: str) -> bytes | None:
        """The content, or None for what this gateway has not sealed."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            return self._ciphers[name].decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], name.encode())
        except (binascii.Error, InvalidTag, ValueError):
            return None

    def read(self, request: Request, name: str) -> bytes | None:
        """The content of the request's cookie."""
        text = request.cookies.get(name, "")
        return self.open(name, text) if text and text.isascii() else None

    def put(self, request: Request, name: str, content: bytes, *, seconds: int) -> None:
        """Send the cookie with whatever will be the answer to this request."""
        value = self.seal(name, content)
        if len(value) > _LARGEST:
            raise ValueError(f"the cookie {name} is larger than browsers keep")
        _wait(request, name, value, max(seconds, 0))

    def clear(self, request: Request, name: str) -> None:
        _wait(request, name, "", 0)


def _wait(request: Request, name: str, value: str, seconds: int) -> None:
    response = Response()
    response.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")
    request.scope.setdefault(_WAITING, {})[name] = response.headers["set-cookie"]


def waiting(scope: Scope) -> list[bytes]:
    """The `Set-Cookie` headers that a request's answer has to carry, the last one of each name."""
    return [header.encode("latin-1") for header in scope.get(_WAITING, {}).values()]


@dataclass(frozen=True, slots=True)
class FormSeal:
    """Makes and checks the token that a form carries against cross-site request forgery.

    It is derived from the session that the cookie holds and from what the form does, so that no other session's token
    and no other form's token fits: the double submit that needs no second cookie.
    """

    _key: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: str) -> "FormSeal":
        return cls(derived_key(secret, "forms"))

    def token(self, session_id: str, action: str) -> str:
        return hmac.new(self._key, f"{session_id}\n{action}".encode(), "sha256").hexdigest()

    def fits(self, token: str, session_id: str, action: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token(session_id, action).encode())
