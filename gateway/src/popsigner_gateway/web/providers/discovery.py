"""What an issuer says of itself (OpenID Connect Discovery 1.0), and the keys that it signs with (RFC 7517), kept for
minutes."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from popsigner_gateway.web.faults import provider_failed
from popsigner_gateway.web.providers.outbound import Outbound, web_address

KEPT = 300.0
"""Seconds that a document is believed."""
REFETCH = 30.0
"""Seconds between two looks for a key that is not there: whoever sends tokens with unknown kids does not choose how
often an issuer is asked."""
ISSUERS = 256
# Shorter keys can be forged with, and longer ones keep whoever verifies busy.
_RSA_BITS = range(2048, 8193)
_KINDS = (RSAKey, ECKey, OKPKey)
VerificationKey = RSAKey | ECKey | OKPKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuer's own document, as far as a log-in needs it. userinfo_endpoint: empty where there is none."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str
    jwks_uri: str
    token_method: str
    names_itself: bool
    """Whether every answer carries `iss` (RFC 9207 3)."""


@dataclass(slots=True)
class _Kept:
    issuer: Issuer
    until: float
    keys: tuple[VerificationKey, ...] = ()
    keys_until: float = 0.0
    keys_asked: float = float("-inf")


class Discovery:
    """Documents and keys of at most `ISSUERS` issuers. Every method raises Fault. clock: in seconds, never back."""

    def __init__(self, outbound: Outbound, clock: Callable[[], float] = time.monotonic) -> None:
        self._outbound = outbound
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def issuer(self, issuer: str) -> Issuer:
        return (await self._entry(issuer)).issuer

    async def _entry(self, issuer: str) -> _Kept:
        kept = self._kept.get(issuer)
        if kept is None or self._clock() >= kept.until:
            address = web_address(issuer, "issuer").rstrip("/") + "/.well-known/openid-configuration"
            found = _read(await self._outbound.json(address), issuer)
            kept = self._kept[issuer] = _Kept(found, self._clock() + KEPT)
        self._kept.move_to_end(issuer)
        while len(self._kept) > ISSUERS:
            self._kept.popitem(last=False)
        return kept

    async def keys(self, issuer: str, *, afresh: bool = False) -> tuple[VerificationKey, ...]:
        """The issuer's keys. afresh: the known ones did not do; the issuer is asked again if it is time to."""
        kept = await self._entry(issuer)
        now = self._clock()
        if now >= kept.keys_until or (afresh and now >= kept.keys_asked + REFETCH):
            kept.keys_asked = now
            kept.keys = _keys(await self._outbound.json(kept.issuer.jwks_uri))
            kept.keys_until = now + KEPT
        return kept.keys


def _read(document: Any, issuer: str) -> Issuer:
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        # OpenID Connect Discovery 4.3: exactly equal, or anybody could speak for anybody.
        raise provider_failed("The identity provider's document names another issuer.")
    methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    userinfo = document.get("userinfo_endpoint")
    return Issuer(
        issuer=issuer,
        authorization_endpoint=web_address(document.get("authorization_endpoint"), "authorization endpoint"),
        token_endpoint=web_address(document.get("token_endpoint"), "token endpoint"),
        userinfo_endpoint=web_address(userinfo, "userinfo endpoint") if userinfo else "",
        jwks_uri=web_address(document.get("jwks_uri"), "jwks_uri"),
        # In a body a secret is written in one way; in `Basic` some providers expect it form-encoded and some do not.
        token_method="client_secret_post"
        if isinstance(methods, list) and "client_secret_post" in methods
        else "client_secret_basic",
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
    )


def _keys(document: Any) -> tuple[VerificationKey, ...]:
    """The keys that signatures are verified with; what is none of them is passed over (RFC 7517 5)."""
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise provider_failed("The identity provider's keys are no JWK Set.")
    found = []
    for each in listed[:64]:
        # Never a symmetric key: whoever may read the set could sign with it.
        if not isinstance(each, dict) or each.get("kty") not in ("RSA", "EC", "OKP") or each.get("use", "sig") != "sig":
            continue
        try:
            key = JWKRegistry.import_key(each)
        except Exception:  # noqa: S112 - whatever is wrong with one key, the others may do
            continue
        if isinstance(key, _KINDS) and not (isinstance(key, RSAKey) and key.public_key.key_size not in _RSA_BITS):
            found.append(key)
    return tuple(found)
