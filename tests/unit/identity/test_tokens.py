"""Access tokens: what is genuine is read, and nothing else, however it was made."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.identity.token_keys import TokenKey
from popsigner_server.identity.tokens import LEEWAY, LIFE, WAITING, Tokens, UnknownKey

NOON = datetime(2031, 5, 6, 12, tzinfo=UTC)
USER, SESSION = new_id(), new_id()


def token_key(signs_from: datetime = NOON - timedelta(days=1), *, days: int = 30) -> TokenKey:
    private = Ed25519PrivateKey.generate()
    return TokenKey(
        id=new_id(),
        public=private.public_key(),
        private=private,
        signs_from=signs_from,
        signs_until=signs_from + timedelta(days=days),
    )


@dataclass(slots=True)
class Store:
    """Keys in memory, and how often they were read."""

    keys: list[TokenKey]
    reads: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> list[TokenKey]:
        self.reads += 1
        self.asked.set()
        await self.hold.wait()
        return self.keys

    async def turn(self) -> list[TokenKey]:
        return self.keys


@dataclass(slots=True)
class Clock:
    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    store = Store([token_key()])
    store.hold.set()
    return store


@pytest.fixture
def tokens(store: Store, clock: Clock) -> Tokens:
    return Tokens(store, clock=clock)


async def issued(tokens: Tokens, *, lasts: timedelta = timedelta(days=30)) -> str:
    return (await tokens.issue(user_id=USER, session_id=SESSION, ends=NOON + lasts)).text


def claims(**changed: Any) -> dict[str, Any]:
    moment = int(NOON.timestamp())
    genuine = {
        "iss": "popsigner",
        "aud": "popsigner",
        "sub": show(Prefix.USER, USER),
        "sid": show(Prefix.SESSION, SESSION),
        "iat": moment,
        "exp": moment + 600,
        "jti": "00" * 16,
    }
    return {name: value for name, value in (genuine | changed).items() if value is not None}


def forge(key: TokenKey, *, headers: dict[str, Any] | None = None, **changed: Any) -> str:
    """A token with the right signature and whatever else."""
    assert key.private is not None
    return jwt.encode(
        claims(**changed),
        key.private,
        algorithm="EdDSA",
        headers={"kid": str(key.id), "typ": "at+jwt"} | (headers or {}),
    )


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def test_a_token_is_read_back(tokens: Tokens, store: Store) -> None:
    text = await issued(tokens)
    read = await tokens.verify(text)
    assert (read.user_id, read.session_id) == (USER, SESSION)
    assert jwt.get_unverified_header(text) == {"alg": "EdDSA", "kid": str(store.keys[0].id), "typ": "at+jwt"}
    said = jwt.decode(text, options={"verify_signature": False})
    assert set(said) == {"iss", "aud", "sub", "sid", "iat", "exp", "jti"}
    assert said["exp"] - said["iat"] == LIFE.total_seconds() == 600


async def test_a_genuine_forgery_is_accepted_so_that_the_others_are_refused_for_their_fault(
    tokens: Tokens, store: Store
) -> None:
    assert (await tokens.verify(forge(store.keys[0]))).user_id == USER


async def test_no_two_tokens_are_the_same(tokens: Tokens) -> None:
    assert len({await issued(tokens) for _ in range(5)}) == 5


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://accounts.google.com"},
        {"iss": "Popsigner"},
        {"aud": "another"},
        {"aud": ["popsigner", "another"]},
        {"sub": show(Prefix.API_KEY, USER)},
        {"sub": str(USER)},
        {"sub": ""},
        {"sid": show(Prefix.USER, SESSION)},
        {"sid": 7},
        {"iat": int(NOON.timestamp()) + 60},
        {"nbf": int(NOON.timestamp()) + 60},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": 1e300},
        {"iat": "now"},
        {"jti": 5},
        *({name: None} for name in ("iss", "aud", "sub", "sid", "iat", "exp", "jti")),
    ],
    ids=str,
)
async def test_a_claim_that_is_missing_or_anothers_is_refused(
    tokens: Tokens, store: Store, changed: dict[str, Any]
) -> None:
    with pytest.raises(errors.CredentialsInvalid):
        await tokens.verify(forge(store.keys[0], **changed))


@pytest.mark.parametrize(
    "headers", [{"typ": "JWT"}, {"typ": None}, {"typ": "AT+JWT"}, {"crit": ["exp"]}, {"b64": False}, {"kid": "k1"}]
)
async def test_a_header_that_is_not_ours_is_refused(tokens: Tokens, store: Store, headers: dict[str, Any]) -> None:
    with pytest.raises(errors.CredentialsInvalid):
        await tokens.verify(forge(store.keys[0], headers=headers))


def _none(key: TokenKey) -> str:
    header = {"alg": "none", "kid": str(key.id), "typ": "at+jwt"}
    return f"{part(header)}.{part(claims())}."


def _none_named_as_ours(key: TokenKey) -> str:
    header = {"alg": "EdDSA", "kid": str(key.id), "typ": "at+jwt"}
    return f"{part(header)}.{part(claims())}."


def _public_key_as_secret(key: TokenKey) -> str:
    """The classic: a verifier that takes the header's word uses the public key as an HMAC secret."""
    header = {"alg": "HS256", "kid": str(key.id), "typ": "at+jwt"}
    signed = f"{part(header)}.{part(claims())}"
    mac = hmac.new(key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(mac.digest()).rstrip(b'=').decode()}"


def _raw_public_key_as_secret(key: TokenKey) -> str:
    return jwt.encode(
        claims(), key.public.public_bytes_raw(), algorithm="HS256", headers={"kid": str(key.id), "typ": "at+jwt"}
    )


def _rsa(key: TokenKey) -> str:
    private = generate_private_key(65537, 2048)
    return jwt.encode(claims(), private, algorithm="RS256", headers={"kid": str(key.id), "typ": "at+jwt"})


def _another_key(key: TokenKey) -> str:
    return forge(replace(token_key(), id=key.id))


def _brings_its_own_key(key: TokenKey) -> str:
    mine = token_key()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(mine.public.public_bytes_raw()).decode()}
    return forge(replace(mine, id=key.id), headers={"jwk": jwk})


@pytest.mark.parametrize(
    "forged",
    [
        _none,
        _none_named_as_ours,
        _public_key_as_secret,
        _raw_public_key_as_secret,
        _rsa,
        _another_key,
        _brings_its_own_key,
    ],
)
async def test_a_signature_that_is_none_of_ours_is_refused(
    tokens: Tokens, store: Store, forged: Callable[[TokenKey], str]
) -> None:
    with pytest.raises(errors.CredentialsInvalid):
        await tokens.verify(forged(store.keys[0]))


async def test_a_token_with_one_character_changed_is_refused(tokens: Tokens) -> None:
    text = await issued(tokens)
    for place in range(0, len(text), 7):
        other = "A" if text[place] != "A" else "B"
        with pytest.raises((errors.CredentialsInvalid, UnknownKey)):
            await tokens.verify(text[:place] + other + text[place + 1 :])


async def test_the_claims_of_one_token_do_not_stand_under_the_signature_of_another(tokens: Tokens) -> None:
    one, two = (await issued(tokens)).split("."), (await issued(tokens)).split(".")
    with pytest.raises(errors.CredentialsInvalid):
        await tokens.verify(".".join((one[0], two[1], one[2])))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "\x00.\x00.\x00",
        "é.é.é",
        "e30.e30.",
        "x" * 5000,
        ".".join(["W1tbW1tb" * 120, "e30", ""]),
    ],
)
async def test_what_is_no_token_at_all_is_refused(tokens: Tokens, text: str) -> None:
    with pytest.raises(errors.CredentialsInvalid):
        await tokens.verify(text)


async def test_a_refusal_repeats_nothing_of_the_token(tokens: Tokens, store: Store) -> None:
    with pytest.raises(errors.CredentialsInvalid) as refused:
        await tokens.verify(forge(store.keys[0], iss="somebody-else"))
    assert refused.value.detail == "The access token is not valid; log in again."


async def test_a_token_is_over_after_ten_minutes_and_a_leeway_of_five_seconds(tokens: Tokens, clock: Clock) -> None:
    text = await issued(tokens)
    clock.now = NOON + LIFE + LEEWAY - timedelta(seconds=1)
    await tokens.verify(text)
    clock.now = NOON + LIFE + LEEWAY
    with pytest.raises(errors.TokenExpired):
        await tokens.verify(text)


async def test_a_token_of_a_server_whose_clock_is_ahead_is_taken_within_the_leeway(
    tokens: Tokens, store: Store
) -> None:
    moment = int(NOON.timestamp())
    await tokens.verify(forge(store.keys[0], iat=moment + 5))
    with pytest.raises(errors.CredentialsInvalid):
        await tokens.verify(forge(store.keys[0], iat=moment + 6))


async def test_a_token_does_not_outlive_its_session(tokens: Tokens) -> None:
    token = await tokens.issue(user_id=USER, session_id=SESSION, ends=NOON + timedelta(seconds=90))
    assert token.expires_in == 90
    assert (await tokens.verify(token.text)).expires_at == (NOON + timedelta(seconds=90) + LEEWAY).timestamp()


async def test_the_newest_key_whose_time_has_come_signs(tokens: Tokens, store: Store, clock: Clock) -> None:
    following = token_key(NOON + timedelta(hours=1))
    store.keys.append(following)
    before = await issued(tokens)
    clock.now = NOON + timedelta(hours=1)
    after = await issued(tokens)
    assert jwt.get_unverified_header(before)["kid"] == str(store.keys[0].id)
    assert jwt.get_unverified_header(after)["kid"] == str(following.id)
    await tokens.verify(after)


async def test_a_key_that_cannot_be_opened_verifies_and_does_not_sign(tokens: Tokens, store: Store) -> None:
    text = await issued(tokens)
    store.keys = [replace(store.keys[0], private=None), token_key()]
    await tokens.turn()
    await tokens.verify(text)
    assert jwt.get_unverified_header(await issued(tokens))["kid"] == str(store.keys[1].id)


async def test_the_token_of_a_key_that_was_taken_back_is_refused(tokens: Tokens, store: Store) -> None:
    text = await issued(tokens)
    store.keys = [token_key()]
    await tokens.turn()
    with pytest.raises(UnknownKey):
        await tokens.verify(text)


async def test_an_unknown_key_is_looked_up_once(store: Store, clock: Clock) -> None:
    mine, theirs = Tokens(store, clock=clock), Tokens(store, clock=clock)
    text = await issued(theirs)
    await mine.verify(text)
    await mine.verify(text)
    assert store.reads == 1


async def test_a_flood_of_unknown_keys_waits_for_one_look_and_its_rest_is_sent_away(
    tokens: Tokens, store: Store
) -> None:
    store.hold.clear()
    flood = [asyncio.create_task(tokens.verify(forge(token_key()))) for _ in range(WAITING + 10)]
    await store.asked.wait()
    store.hold.set()
    ends = await asyncio.gather(*flood, return_exceptions=True)
    assert sum(isinstance(end, errors.AuthenticationBusy) for end in ends) == 10
    assert sum(isinstance(end, UnknownKey) for end in ends) == WAITING
    assert store.reads == 1


async def test_the_published_keys_verify_a_token_and_hold_nothing_private(tokens: Tokens, store: Store) -> None:
    store.keys.append(token_key(NOON + timedelta(days=20)))
    text = await issued(tokens)
    published = jwt.PyJWKSet.from_json(await tokens.key_set())
    assert [UUID(key.key_id) for key in published.keys] == [key.id for key in store.keys]
    untimely = {"verify_exp": False, "verify_iat": False}
    key = published[str(store.keys[0].id)]
    assert jwt.decode(text, key, algorithms=["EdDSA"], audience="popsigner", options=untimely)  # type: ignore[arg-type]
    for told in json.loads(await tokens.key_set())["keys"]:
        assert set(told) == {"kty", "crv", "x", "kid", "use", "alg"}


async def test_no_private_key_is_in_a_representation(store: Store) -> None:
    assert "private" not in repr(store.keys[0])
    digest = hashlib.sha256(repr(store.keys[0]).encode()).hexdigest()
    assert digest == hashlib.sha256(repr(replace(store.keys[0], private=None)).encode()).hexdigest()
