"""Presented API keys: their shape, and the cache that makes Argon2id bearable."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.principals import ActorKind, Principal, Role, Scope
from popsigner_server.identity import PresentedKey, parse_api_key, prefix_of
from popsigner_server.identity.hashing import hash_secret, new_secret
from popsigner_server.identity.verification import WAITING, Verifier


@dataclass(slots=True)
class Records:
    """Stored keys, and how often they were asked for."""

    stored: dict[UUID, tuple[Principal, str, datetime | None]] = field(default_factory=dict)
    loads: int = 0
    uses: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def load(self, api_key_id: UUID) -> tuple[Principal, str, datetime | None] | None:
        self.loads += 1
        self.asked.set()
        await asyncio.sleep(0)
        return self.stored.get(api_key_id)

    async def note_use(self, api_key_id: UUID) -> None:
        self.uses += 1

    def add(self, *, expires_at: datetime | None = None, revoked_at: datetime | None = None) -> PresentedKey:
        key = PresentedKey(environment="live", id=new_id(), secret=new_secret())
        principal = Principal(
            organization_id=new_id(),
            actor_id=key.id,
            actor_kind=ActorKind.API_KEY,
            plan="self-hosted",
            scopes=frozenset({Scope.KEYS_SIGN}),
            role=Role.UNSPECIFIED,
            expires_at=expires_at,
        )
        self.stored[key.id] = (principal, hash_secret(key.secret), revoked_at)
        return key


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(records: Records, clock: Callable[[], float]) -> Verifier:
    return Verifier(records, environment="live", clock=clock, verified=lambda _: None)


def test_a_key_is_read_back_as_it_was_shown() -> None:
    key = PresentedKey(environment="live", id=new_id(), secret=new_secret())
    assert parse_api_key(key.text) == key
    assert key.text.startswith(prefix_of("live", key.id))
    assert key.secret not in repr(key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "psk_live_",
        "psk_live_01J_ab",
        "psk_prod_" + "0" * 26 + "_" + "a" * 64,
        "psk_live_" + "8" * 26 + "_" + "a" * 64,
    ],
)
def test_a_malformed_key_is_refused_without_a_look_at_the_database(text: str) -> None:
    with pytest.raises(errors.CredentialsInvalid) as refused:
        parse_api_key(text)
    assert "aaaa" not in refused.value.detail


async def test_a_key_is_verified_once_a_minute(verifier: Verifier, records: Records, clock: Clock) -> None:
    key = records.add()
    for _ in range(5):
        assert (await verifier.principal(key.text)).actor_id == key.id
    assert (records.loads, records.uses) == (1, 1)
    clock.now += 61
    await verifier.principal(key.text)
    assert (records.loads, records.uses) == (2, 2)


async def test_callers_that_come_at_once_wait_for_one_verification(verifier: Verifier, records: Records) -> None:
    key = records.add()
    await asyncio.gather(*(verifier.principal(key.text) for _ in range(50)))
    assert records.loads == 1


async def test_a_wrong_secret_is_refused_and_remembered(verifier: Verifier, records: Records) -> None:
    key = records.add()
    wrong = PresentedKey(environment="live", id=key.id, secret=new_secret()).text
    for _ in range(3):
        with pytest.raises(errors.CredentialsInvalid):
            await verifier.principal(wrong)
    assert records.loads == 1
    assert (await verifier.principal(key.text)).actor_id == key.id


async def test_a_revoked_an_expired_and_an_unknown_key_say_so(verifier: Verifier, records: Records) -> None:
    revoked = records.add(revoked_at=datetime.now(UTC))
    expired = records.add(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    unknown = PresentedKey(environment="live", id=new_id(), secret=new_secret())
    for key, refusal in (
        (revoked, errors.ApiKeyRevoked),
        (expired, errors.ApiKeyExpired),
        (unknown, errors.CredentialsInvalid),
    ):
        with pytest.raises(refusal):
            await verifier.principal(key.text)


async def test_whether_a_key_is_revoked_is_told_only_to_who_has_its_secret(
    verifier: Verifier, records: Records
) -> None:
    revoked = records.add(revoked_at=datetime.now(UTC))
    with pytest.raises(errors.CredentialsInvalid):
        await verifier.principal(PresentedKey(environment="live", id=revoked.id, secret=new_secret()).text)


async def test_a_key_that_expires_while_it_is_remembered_is_refused(verifier: Verifier, records: Records) -> None:
    key = records.add(expires_at=datetime.now(UTC) + timedelta(milliseconds=600))
    await verifier.principal(key.text)
    await asyncio.sleep(0.7)
    with pytest.raises(errors.ApiKeyExpired):
        await verifier.principal(key.text)


async def test_a_test_key_is_refused_by_a_live_pop(verifier: Verifier, records: Records) -> None:
    key = records.add()
    with pytest.raises(errors.CredentialsInvalid, match="psk_live_"):
        await verifier.principal(PresentedKey(environment="test", id=key.id, secret=key.secret).text)


async def test_a_forgotten_key_is_read_anew(verifier: Verifier, records: Records) -> None:
    key = records.add()
    await verifier.principal(key.text)
    principal, key_hash, _ = records.stored[key.id]
    records.stored[key.id] = (principal, key_hash, datetime.now(UTC))
    verifier.forget(key.id)
    with pytest.raises(errors.ApiKeyRevoked):
        await verifier.principal(key.text)


async def test_a_verification_that_a_revocation_overtook_is_not_remembered(
    verifier: Verifier, records: Records
) -> None:
    key = records.add()
    under_way = asyncio.create_task(verifier.principal(key.text))
    await records.asked.wait()
    verifier.forget(key.id)
    await under_way
    await verifier.principal(key.text)
    assert records.loads == 2


async def test_a_flood_of_wrong_keys_is_bounded_and_spares_those_that_are_known(
    verifier: Verifier, records: Records
) -> None:
    key = records.add()
    await verifier.principal(key.text)
    flood = [
        asyncio.create_task(verifier.principal(PresentedKey(environment="live", id=key.id, secret=new_secret()).text))
        for _ in range(WAITING + 20)
    ]
    assert (await verifier.principal(key.text)).actor_id == key.id
    ends = await asyncio.gather(*flood, return_exceptions=True)
    assert sum(isinstance(end, errors.AuthenticationBusy) for end in ends) == 20
    assert sum(isinstance(end, errors.CredentialsInvalid) for end in ends) == WAITING
