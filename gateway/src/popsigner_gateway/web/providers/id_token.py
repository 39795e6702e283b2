"""Verifies ID tokens (OpenID Connect Core 3.1.3.7, RFC 8725)."""

import base64
import binascii
import hmac
import json
from collections.abc import Iterable
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError

from popsigner_gateway.web.providers.discovery import VerificationKey

# Signatures with public keys only: no `none`, and no HS…, which a public key misused as a secret would fit.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_KEYS_OF = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
LEEWAY = 60
"""Seconds that the issuer's clock may differ from ours."""
_LONGEST = 32_768
_LONGEST_SUBJECT = 255


class TokenRefused(Exception):
    """Why a token is not acceptable, in some words without anything of its content."""


class UnknownKey(TokenRefused):
    """No known key verifies it; the issuer may have a new one."""


def verified(
    token: str, keys: Iterable[VerificationKey], *, issuer: str, client_id: str, nonce: str, now: float
) -> dict[str, Any]:
    """The claims. Raises TokenRefused, and UnknownKey where other keys might do."""
    claims = _signed(token, keys)
    registry = jwt.JWTClaimsRegistry(
        now=int(now),
        leeway=LEEWAY,
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
    )
    try:
        registry.validate(claims)
    except JoseError as error:
        # The description may quote the claim; the error's own name does not.
        raise TokenRefused(f"{error.error}: {getattr(error, 'claim', '') or ''}".rstrip(": ")) from None
    audience, party = claims["aud"], claims.get("azp")
    if party is None and isinstance(audience, list) and len(audience) > 1:
        raise TokenRefused("several audiences and no azp")
    if party is not None and party != client_id:
        raise TokenRefused("azp is another client")
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):
        raise TokenRefused("nonce is not this log-in's")
    if len(claims["sub"]) > _LONGEST_SUBJECT:
        raise TokenRefused("sub is too long")
    return claims


def _signed(token: str, keys: Iterable[VerificationKey]) -> dict[str, Any]:
    header = _header(token)
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise TokenRefused("alg is not one that is taken")
    for key in keys:
        # A provider with one key may leave the kid out, in the token or in the set.
        if key.key_type != _KEYS_OF[algorithm[:2]] or (kid is not None and key.kid is not None and key.kid != kid):
            continue
        try:
            return jwt.decode(token, key, algorithms=[algorithm]).claims
        except (JoseError, ValueError, TypeError):
            continue
    raise UnknownKey("no key of the issuer verifies it")


def _header(token: str) -> dict[str, Any]:
    first, _, _ = token.partition(".")
    try:
        if len(token) > _LONGEST or token.count(".") != 2:
            raise TokenRefused("it is no signed JWT")
        header = json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (binascii.Error, ValueError):
        raise TokenRefused("it is no signed JWT") from None
    if not isinstance(header, dict):
        raise TokenRefused("it is no signed JWT")
    return header
