"""Access tokens: JWTs (RFC 7519, RFC 9068) of 10 minutes, signed with EdDSA over Ed25519 (RFC 8037).

Whoever verifies one takes no word of it before its signature: one algorithm, and a key that this POP has published
under the token's `kid`.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
from jwt.algorithms import OKPAlgorithm

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, parse, show
from popsigner_server.identity.token_keys import KeyStore, TokenKey

ISSUER = "popsigner"
AUDIENCE = "popsigner"
TYPE = "at+jwt"
ALGORITHM = "EdDSA"
LIFE = timedelta(minutes=10)
# What the clocks of two servers may differ by.
LEEWAY = timedelta(seconds=5)
# Ours have some 480 characters.
LONGEST = 1024
# Tokens of unknown keys: so many may wait for one look at the database, and looks are so many seconds apart.
WAITING = 64
PAUSE = 0.1
# Seconds that the published keys are as they were read.
FRESH = 1.0
NOT_VALID = "The access token is not valid; log in again."
_CLAIMS = ["iss", "aud", "sub", "sid", "iat", "exp", "jti"]


class UnknownKey(Exception):
    """No key has the token's `kid`. Not to be remembered: it may be made in the next moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """A token and the seconds that it lasts."""

    text: str = field(repr=False)
    expires_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a genuine token says: whose it is, of which session, and until when."""

    user_id: UUID
    session_id: UUID
    expires_at: float


class Tokens:
    """Issues and verifies access tokens. `clock` is the time of day, with its zone."""

    def __init__(self, keys: KeyStore, *, clock: Callable[[], datetime]) -> None:
        self._keys = keys
        self._clock = clock
        self._known: dict[UUID, TokenKey] = {}
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._waiting = 0

    async def turn(self) -> None:
        """Rotate where it is time, and learn what other processes did."""
        self._known = {key.id: key for key in await self._keys.turn()}

    async def issue(self, *, user_id: UUID, session_id: UUID, ends: datetime) -> AccessToken:
        """A token of 10 minutes, or of what is left of the session."""
        now = self._clock()
        key = self._signing(now)
        if key is None:
            await self.turn()
            now = self._clock()
            key = self._signing(now)
        if key is None or key.private is None:
            raise RuntimeError("no key signs although one was made")
        expires = min(now + LIFE, ends)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": show(Prefix.USER, user_id),
            "sid": show(Prefix.SESSION, session_id),
            "iat": int(now.timestamp()),
            "exp": int(expires.timestamp()),
            "jti": secrets.token_hex(16),
        }
        text = jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": str(key.id), "typ": TYPE})
        return AccessToken(text=text, expires_in=max(0, int((expires - now).total_seconds())))

    def _signing(self, now: datetime) -> TokenKey | None:
        signing = [key for key in self._known.values() if key.signs(now)]
        return max(signing, key=lambda key: key.signs_from, default=None)

    async def verify(self, text: str) -> Claims:
        """Raises CredentialsInvalid, TokenExpired, UnknownKey, and AuthenticationBusy where too many tokens of unknown
        keys wait."""
        if len(text) > LONGEST:
            raise _invalid()
        try:
            header = jwt.get_unverified_header(text)
            kid = _kid(header)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise _invalid() from error
        key = await self._key(kid)
        try:
            claims = jwt.decode(
                text,
                key.public,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                options={
                    "require": _CLAIMS,
                    "strict_aud": True,
                    # By our clock, below.
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            return self._in_time(claims)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise _invalid() from error

    def _in_time(self, claims: Mapping[str, Any]) -> Claims:
        now, leeway = self._clock().timestamp(), LEEWAY.total_seconds()
        issued, expires = _moment(claims["iat"]), _moment(claims["exp"])
        if max(issued, _moment(claims.get("nbf", 0))) > now + leeway:
            raise _invalid()
        if expires + leeway <= now:
            raise errors.TokenExpired
        return Claims(
            user_id=parse(Prefix.USER, str(claims["sub"])),
            session_id=parse(Prefix.SESSION, str(claims["sid"])),
            expires_at=expires + leeway,
        )

    async def _key(self, kid: UUID) -> TokenKey:
        """The key of this name; one look at the database for a name that this process has not heard of. A flood of made
        up names costs a look every PAUSE."""
        arrived = asyncio.get_running_loop().time()
        if kid not in self._known:
            if self._waiting >= WAITING:
                raise errors.AuthenticationBusy(
                    "Too many access tokens of unknown keys are being checked at this moment; retry.", retry_after=1.0
                )
            self._waiting += 1
            try:
                async with self._looking:
                    # Somebody else's look that began after we came is as good as ours.
                    if self._looked_at < arrived:
                        await self._look()
            finally:
                self._waiting -= 1
        try:
            return self._known[kid]
        except KeyError as error:
            raise UnknownKey from error

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._looked_at + PAUSE - loop.time()))
        self._looked_at = loop.time()
        self._known = {key.id: key for key in await self._keys.read()}

    async def key_set(self) -> str:
        """Every public key as a JWK Set (RFC 7517), JSON; as it was a second ago at most, because anybody may ask."""
        async with self._looking:
            if self._looked_at < asyncio.get_running_loop().time() - FRESH:
                await self._look()
        if self._signing(self._clock()) is None:
            await self.turn()
        keys = [
            OKPAlgorithm.to_jwk(key.public, as_dict=True) | {"kid": str(key.id), "use": "sig", "alg": ALGORITHM}
            for key in sorted(self._known.values(), key=lambda key: key.signs_from)
        ]
        return json.dumps({"keys": keys})


def _invalid() -> errors.CredentialsInvalid:
    return errors.CredentialsInvalid(NOT_VALID)


def _kid(header: Mapping[str, Any]) -> UUID:
    """Raises ValueError for a header that is not ours."""
    kid = header.get("kid")
    if header.get("alg") != ALGORITHM or header.get("typ") != TYPE or not isinstance(kid, str):
        raise ValueError("no access token")
    named = UUID(kid)
    if str(named) != kid:
        raise ValueError("no access token")
    return named


def _moment(value: object) -> float:
    """Raises ValueError for what is no number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("no moment")  # noqa: TRY004 - the token's fault, told like every other
    return float(value)
