"""Everything that a caller can come with, right and wrong, and what each is worth."""

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.identity import PresentedKey
from popsigner_server.identity.hashing import hash_secret, new_secret
from popsigner_server.identity.sealing import Sealing
from popsigner_server.storage.tables import api_keys, token_keys
from tests.integration.access.expected import NEEDS, ROLES, SCOPES, SCOPES_OF_PEOPLE
from tests.integration.access.wires import Metadata
from tests.support.people import Session
from tests.support.pop import Pop


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a caller shows. `refusal` is the reason for which every call of it is refused, but those that no credential
    helps; `astray` that for which those of an organization's members are."""

    name: str
    metadata: Metadata = field(repr=False)
    role: str = "ROLE_UNSPECIFIED"
    scopes: frozenset[str] = frozenset()
    person: bool = False
    astray: str = ""
    gateway: bool = False
    refusal: str = ""

    def verdict(self, rpc: str) -> str:
        """The reason to refuse this caller with; empty for one that is let through."""
        kind = NEEDS[rpc].partition(" ")[0]
        if kind == "gateway":
            return "" if self.gateway else "CREDENTIALS_INVALID"
        if self.refusal or self.gateway:
            return self.refusal or "CREDENTIALS_INVALID"
        if kind == "anyone":
            return self.astray if "x-popsigner-organization" in dict(self.metadata) else ""
        if kind == "person":
            return "" if self.person else "PERSON_REQUIRED"
        if self.astray:
            return self.astray
        for need in NEEDS[rpc].split(" and "):
            kind, _, least = need.partition(" ")
            if kind == "scope" and least not in self.scopes:
                return "SCOPE_MISSING"
            if kind == "role" and ROLES.index(self.role) < ROLES.index(least):
                return "ROLE_MISSING"
        return ""


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


async def new_api_key(connection: AsyncConnection, organization_id: UUID, **values: Any) -> str:
    """The text of an API key, written into the database: the contract makes none without a right, nor expired ones."""
    key = PresentedKey(environment="live", id=new_id(), secret=new_secret())
    row = {"name": "test", "scopes": [], "role": 0, "key_hash": hash_secret(key.secret)} | values
    await connection.execute(insert(api_keys).values(id=key.id, org_id=organization_id, **row))
    return key.text


async def api_key_credentials(connection: AsyncConnection, organization_id: UUID) -> list[Credential]:
    """For every role an API key without a scope, and one for each scope."""
    made = []
    for number, role in enumerate(ROLES):
        for scopes in ([], *([scope] for scope in SCOPES)):
            text = await new_api_key(connection, organization_id, role=number, scopes=scopes)
            name = f"API key {role} {''.join(scopes) or 'without a scope'}"
            made.append(Credential(name=name, metadata=bearer(text), role=role, scopes=frozenset(scopes)))
    everything = {"role": len(ROLES) - 1, "scopes": list(SCOPES)}
    text = await new_api_key(connection, organization_id, **everything)
    made.append(
        Credential(name="API key in x-api-key", metadata=(("x-api-key", text),), role="OWNER", scopes=frozenset(SCOPES))
    )
    past = datetime.now(UTC) - timedelta(seconds=1)
    for name, values, refusal in (
        ("expired API key", {"expires_at": past}, "API_KEY_EXPIRED"),
        ("revoked API key", {"revoked_at": past}, "API_KEY_REVOKED"),
    ):
        text = await new_api_key(connection, organization_id, **everything, **values)
        made.append(Credential(name=name, metadata=bearer(text), refusal=refusal))
    return made


def wrong_credentials(api_key: str, gateway: Metadata) -> Iterator[Credential]:
    """None, and malformed ones; the gateway's own is good for the gateway's RPCs alone."""
    yield Credential(name="none", metadata=(), refusal="CREDENTIALS_MISSING")
    start, secret = api_key.rsplit("_", 1)
    for name, text in {
        "API key with another's secret": f"{start}_{secret[::-1]}",
        "API key cut off": api_key[:-1],
        "API key of the test environment": api_key.replace("psk_live_", "psk_test_"),
        "nonsense": "let me in",
        "nothing that is a token": "e30.e30.e30",
    }.items():
        yield Credential(name=name, metadata=bearer(text), refusal="CREDENTIALS_INVALID")
    (_, shown) = gateway[0]
    yield Credential(name="the gateway's secret", metadata=gateway, gateway=True)
    digit = "1" if shown[-1] == "0" else "0"
    yield Credential(
        name="nearly the gateway's secret", metadata=bearer(shown[7:-1] + digit), refusal="CREDENTIALS_INVALID"
    )


def session_credential(role: str, session: Session, *, named: str = "") -> Credential:
    """A person's of this role, in the only organization or in the one that is named."""
    metadata = (*session.metadata, *((("x-popsigner-organization", named),) if named else ()))
    name = f"person {role}{' of several organizations' * bool(named)}"
    return Credential(name=name, metadata=metadata, role=role, scopes=SCOPES_OF_PEOPLE[role], person=True)


def astray_credentials(nobody: Session, several: Session, foreign: str) -> Iterator[Credential]:
    """Good sessions that are of no organization: their person's few RPCs are all that they open."""
    away = "MEMBERSHIP_MISSING"
    elsewhere = (*several.metadata, ("x-popsigner-organization", foreign))
    yield Credential(name="person of no organization", metadata=nobody.metadata, person=True, astray=away)
    yield Credential(
        name="person who does not say which", metadata=several.metadata, person=True, astray="ORGANIZATION_REQUIRED"
    )
    yield Credential(name="person who names another's", metadata=elsewhere, person=True, astray=away)


def forged_tokens(session: Session) -> Iterator[Credential]:
    """Access tokens that nobody gave out, made from one that somebody has."""
    token = session.access_token
    header, payload, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    told = jwt.get_unverified_header(token)
    other = Ed25519PrivateKey.generate()
    public = other.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    later = claims | {"exp": int(time.time()) + 86_400}
    for name, text in {
        "token with a longer life": f"{header}.{_part(later)}.{signature}",
        "token of another person": f"{header}.{_part(claims | {'sub': 'user_' + '0' * 26})}.{signature}",
        "token without a signature": f"{header}.{payload}.",
        "token that says it needs none": f"{_part({'alg': 'none', 'typ': 'at+jwt'})}.{payload}.",
        "token of another key": jwt.encode(claims, other, algorithm="EdDSA", headers=told),
        "token of a key that it brings": jwt.encode(
            claims,
            other,
            algorithm="EdDSA",
            headers=told | {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": _b64(public)}},
        ),
        "token of an unknown key": jwt.encode(claims, other, algorithm="EdDSA", headers=told | {"kid": "nobody"}),
        "token sealed with a shared secret": jwt.encode(
            claims, "popsigner" * 8, algorithm="HS256", headers=told | {"alg": "HS256"}
        ),
        "refresh token": session.refresh_token,
        "id of the session": session.id,
    }.items():
        yield Credential(name=name, metadata=bearer(text), refusal="CREDENTIALS_INVALID")
    yield Credential(name="token in x-api-key", metadata=(("x-api-key", token),), refusal="CREDENTIALS_INVALID")
    cookies = "; ".join(f"{name}={token}" for name in ("session", "popsigner", "__Host-popsigner", "access_token"))
    yield Credential(name="token in a cookie", metadata=(("cookie", cookies),), refusal="CREDENTIALS_MISSING")


async def tokens_of_our_own(pop: Pop, connection: AsyncConnection, session: Session) -> list[Credential]:
    """Tokens that the POP's own key has signed, for something else or for another time."""
    sealing = Sealing.of((pop.data_dir / "secrets" / "sealing.key").read_text().strip())
    query = select(token_keys).order_by(token_keys.c.signs_from.desc()).limit(1)
    row = (await connection.execute(query)).mappings().one()
    opened = sealing.open(row["private_key"], table=token_keys.name, row=row["id"])
    claims = jwt.decode(session.access_token, options={"verify_signature": False})
    told, now = jwt.get_unverified_header(session.access_token), int(time.time())
    made = []
    for name, changed, refusal in (
        ("token as it was given out", {}, ""),
        ("expired token", {"iat": now - 3600, "exp": now - 3000}, "TOKEN_EXPIRED"),
        ("token of the future", {"iat": now + 3600, "exp": now + 4200}, "CREDENTIALS_INVALID"),
        ("token for another audience", {"aud": "somebody"}, "CREDENTIALS_INVALID"),
        ("token of another issuer", {"iss": "https://somebody.example"}, "CREDENTIALS_INVALID"),
        ("token without an end", {"exp": None}, "CREDENTIALS_INVALID"),
        ("token of another's session", {"sub": show(Prefix.USER, new_id())}, "SESSION_ENDED"),
        ("token of no session", {"sid": show(Prefix.SESSION, new_id())}, "SESSION_ENDED"),
    ):
        said = {key: value for key, value in (claims | changed).items() if value is not None}
        key = Ed25519PrivateKey.from_private_bytes(opened)
        text = jwt.encode(said, key, algorithm="EdDSA", headers=told)
        if refusal:
            made.append(Credential(name=name, metadata=bearer(text), refusal=refusal))
        else:
            made.append(replace(session_credential("OWNER", session), name=name, metadata=bearer(text)))
    return made


def _b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _part(values: dict[str, Any]) -> str:
    return _b64(json.dumps(values).encode())
