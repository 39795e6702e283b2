"""Presented API keys: their shape, what refuses a wrong one, and the memory that makes Argon2id bearable."""

import asyncio
import gc
import hashlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.principals import ActorKind, Caller, Principal, Role, Scope
from popsigner_server.identity import KeyRecord, PresentedKey, StoredSecret, parse_api_key, prefix_of
from popsigner_server.identity.hashing import check_of, hash_secret, new_secret
from popsigner_server.identity.verification import (
    PROVEN,
    RECORD_REMEMBERED,
    REMEMBERED,
    RENEWALS,
    RENEWED,
    RENEWED_AGAIN,
    SECOND_LOOK,
    WAITING,
    Verifier,
)


@dataclass(slots=True)
class Records:
    """Stored keys, and how often they were asked for."""

    stored: dict[UUID, KeyRecord] = field(default_factory=dict)
    loads: int = 0
    kept: int = 0
    notes: list[UUID] = field(default_factory=list)
    argon2: int = 0
    away: bool = False
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def load(self, api_key_id: UUID) -> KeyRecord | None:
        self.loads += 1
        self.asked.set()
        await asyncio.sleep(0)
        if self.away:
            raise OSError("away")
        return self.stored.get(api_key_id)

    async def keep_check(self, api_key_id: UUID, secret: StoredSecret, check: bytes) -> None:
        self.kept += 1
        record = self.stored[api_key_id]
        kept = [replace(each, check=check) if each.hash == secret.hash else each for each in record.secrets]
        self.stored[api_key_id] = replace(record, secrets=tuple(kept))

    async def note_use(self, caller: Caller) -> float:
        self.notes.append(caller.principal.actor_id)
        return 60.0

    def add(
        self, *, expires_at: datetime | None = None, revoked_at: datetime | None = None, checked: bool = True
    ) -> PresentedKey:
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
        secret = stored(key.secret, 1)
        if not checked:
            secret = replace(secret, check=None)
        self.stored[key.id] = KeyRecord(principal=principal, secrets=(secret,), revoked_at=revoked_at)
        return key

    def rotate(self, key: PresentedKey, *, overlap: timedelta) -> PresentedKey:
        record = self.stored[key.id]
        newest = record.secrets[0]
        fresh = new_secret()
        self.stored[key.id] = KeyRecord(
            principal=replace(record.principal, generation=newest.generation + 1),
            secrets=(
                stored(fresh, newest.generation + 1),
                replace(newest, over_at=datetime.now(UTC) + overlap),
            ),
            revoked_at=record.revoked_at,
        )
        return replace(key, secret=fresh)


def stored(secret: str, generation: int) -> StoredSecret:
    return StoredSecret(hash=hash_secret(secret), check=check_of(secret), generation=generation)


async def until_idle(verifier: Verifier) -> None:
    """Until what it verifies beside its callers is done."""
    while verifier._under_way:
        await asyncio.wait([task for _, task in verifier._under_way.values()])
        await asyncio.sleep(0)


def wrong(key: PresentedKey) -> str:
    """Its prefix with another secret."""
    return replace(key, secret=new_secret()).text


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
    def verified(_: float) -> None:
        records.argon2 += 1

    return Verifier(records, environment="live", clock=clock, verified=verified, note_lost=lambda: None)


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


async def test_a_key_is_looked_up_once_a_minute_and_verified_once(
    verifier: Verifier, records: Records, clock: Clock
) -> None:
    key = records.add()
    for _ in range(5):
        assert (await verifier.principal(key.text)).actor_id == key.id
    assert (records.loads, records.argon2) == (1, 1)
    clock.now += 61
    await verifier.principal(key.text)
    assert (records.loads, records.argon2) == (2, 1)
    clock.now += PROVEN
    await verifier.principal(key.text)
    assert (records.loads, records.argon2) == (3, 2)


async def test_a_key_in_use_is_looked_up_again_before_its_minute_is_over_and_nobody_waits(
    verifier: Verifier, records: Records, clock: Clock
) -> None:
    key = records.add()
    await verifier.principal(key.text)
    lookups = round(2 * PROVEN / RENEWED)
    for _ in range(lookups):
        clock.now += RENEWED
        for _ in range(5):
            assert (await verifier.principal(key.text)).actor_id == key.id
        await until_idle(verifier)
    assert (records.loads, records.argon2, verifier.misses) == (1 + lookups, 1, 1)


async def test_after_a_lost_notice_keys_are_looked_up_again_and_not_verified(
    verifier: Verifier, records: Records
) -> None:
    keys = [records.add() for _ in range(3)]
    for key in keys:
        await verifier.principal(key.text)
    records.stored[keys[0].id] = replace(records.stored[keys[0].id], revoked_at=datetime.now(UTC))
    replaced = records.rotate(keys[1], overlap=timedelta(0))
    verifier.forget_all()
    with pytest.raises(errors.ApiKeyRevoked):
        await verifier.principal(keys[0].text)
    with pytest.raises(errors.ApiKeyRevoked, match="replaced"):
        await verifier.principal(keys[1].text)
    await verifier.principal(keys[2].text)
    assert records.argon2 == 3
    assert (await verifier.principal(replaced.text)).generation == 2
    assert records.argon2 == 4


async def test_a_secret_is_verified_again_where_its_stored_hash_is_another(
    verifier: Verifier, records: Records
) -> None:
    key = records.add()
    await verifier.principal(key.text)
    (secret,) = records.stored[key.id].secrets
    verifier.forget_all()
    # The check fits and the hash does not: only Argon2id can tell.
    other = replace(secret, hash=hash_secret(new_secret()))
    records.stored[key.id] = replace(records.stored[key.id], secrets=(other,))
    with pytest.raises(errors.CredentialsInvalid):
        await verifier.principal(key.text)
    assert records.argon2 == 2


async def test_a_key_that_is_found_wrong_by_its_renewal_is_refused_from_then_on(
    verifier: Verifier, records: Records, clock: Clock
) -> None:
    key = records.add()
    await verifier.principal(key.text)
    # The notice of its end is lost.
    records.stored[key.id] = replace(records.stored[key.id], revoked_at=datetime.now(UTC))
    clock.now += RENEWED
    await verifier.principal(key.text)
    await until_idle(verifier)
    with pytest.raises(errors.ApiKeyRevoked):
        await verifier.principal(key.text)


@pytest.mark.parametrize("whose", ["key", "organization", "all"])
async def test_who_comes_after_a_notice_is_not_told_what_a_renewal_had_read_before_it(
    verifier: Verifier, records: Records, clock: Clock, whose: str
) -> None:
    key = records.add()
    principal = await verifier.principal(key.text)
    # Hashed anew meanwhile, so that the renewal takes a while.
    records.stored[key.id] = replace(records.stored[key.id], secrets=(stored(key.secret, 1),))
    clock.now += RENEWED
    await verifier.principal(key.text)
    # The record is read, and Argon2id at work on it.
    for _ in range(10):
        await asyncio.sleep(0)
    assert (records.loads, len(verifier._reading), len(verifier._under_way)) == (2, 0, 1)
    records.stored[key.id] = replace(records.stored[key.id], revoked_at=datetime.now(UTC))
    match whose:
        case "key":
            verifier.forget(key.id)
        case "organization":
            verifier.forget_organization(principal.organization_id)
        case "all":
            verifier.forget_all()
    with pytest.raises(errors.ApiKeyRevoked):
        await verifier.principal(key.text)
    await until_idle(verifier)
    with pytest.raises(errors.ApiKeyRevoked):
        await verifier.principal(key.text)


async def test_a_renewal_that_fails_is_tried_again_at_intervals_and_makes_nothing_last_longer(
    verifier: Verifier, records: Records, clock: Clock
) -> None:
    key = records.add()
    await verifier.principal(key.text)
    began, records.away = clock.now, True
    while clock.now < began + REMEMBERED - 0.5:
        await verifier.principal(key.text)
        await until_idle(verifier)
        clock.now += 0.5
    assert records.loads == 1 + (REMEMBERED - RENEWED) / RENEWED_AGAIN
    clock.now = began + REMEMBERED
    with pytest.raises(OSError, match="away"):
        await verifier.principal(key.text)


async def test_renewals_are_few_at_once_and_all_get_their_turn(
    verifier: Verifier, records: Records, clock: Clock
) -> None:
    keys = [records.add() for _ in range(3 * RENEWALS)]
    for key in keys:
        await verifier.principal(key.text)
    clock.now += RENEWED
    for turn in range(1, 4):
        await asyncio.gather(*(verifier.principal(key.text) for key in keys))
        assert len(verifier._under_way) == RENEWALS
        await until_idle(verifier)
        assert records.loads == 3 * RENEWALS + turn * RENEWALS
    await asyncio.gather(*(verifier.principal(key.text) for key in keys))
    assert not verifier._under_way


async def test_callers_that_come_at_once_wait_for_one_verification(verifier: Verifier, records: Records) -> None:
    key = records.add()
    await asyncio.gather(*(verifier.principal(key.text) for _ in range(50)))
    assert (records.loads, records.argon2) == (1, 1)


async def test_a_wrong_secret_is_refused_without_argon2id_and_remembered(verifier: Verifier, records: Records) -> None:
    key = records.add()
    text = wrong(key)
    for _ in range(3):
        with pytest.raises(errors.CredentialsInvalid):
            await verifier.principal(text)
    assert (records.loads, records.argon2) == (1, 0)
    assert (await verifier.principal(key.text)).actor_id == key.id


def test_the_check_is_four_bytes_of_a_hash_that_nothing_else_is() -> None:
    secret = new_secret()
    assert check_of(secret) == hashlib.sha256(b"popsigner api key check" + secret.encode()).digest()[:4]
    assert check_of(secret) != hashlib.sha256(secret.encode()).digest()[:4]


async def test_a_right_check_is_not_enough(verifier: Verifier, records: Records) -> None:
    key, other = records.add(), new_secret()
    record = records.stored[key.id]
    records.stored[key.id] = replace(record, secrets=(replace(record.secrets[0], check=check_of(other)),))
    with pytest.raises(errors.CredentialsInvalid):
        await verifier.principal(replace(key, secret=other).text)
    assert records.argon2 == 1


async def test_a_key_of_before_gets_its_check_by_its_first_verification(
    verifier: Verifier, records: Records, clock: Clock
) -> None:
    key = records.add(checked=False)
    with pytest.raises(errors.CredentialsInvalid):
        await verifier.principal(wrong(key))
    assert (records.argon2, records.kept) == (1, 0)
    await verifier.principal(key.text)
    assert (records.argon2, records.kept) == (2, 1)
    for _ in range(5):
        with pytest.raises(errors.CredentialsInvalid):
            await verifier.principal(wrong(key))
    clock.now += 61
    await verifier.principal(key.text)
    assert (records.argon2, records.kept) == (2, 1)


async def test_a_flood_of_wrong_secrets_costs_few_queries_no_argon2id_and_no_memory(
    verifier: Verifier, records: Records, clock: Clock
) -> None:
    keys = [records.add() for _ in range(4)]
    seconds, rate = 10, 200
    for number in range(seconds * rate):
        clock.now += 1 / rate
        with pytest.raises(errors.CredentialsInvalid):
            await verifier.principal(wrong(keys[number % 4]))
    assert records.argon2 == 0
    assert records.loads <= len(keys) * (seconds / RECORD_REMEMBERED + 1) + seconds / SECOND_LOOK + 1
    # Only what took a look at the database is remembered.
    assert len(verifier._wrong) <= records.loads + len(keys)
    assert len(verifier._records_read) == len(keys)


async def test_what_strangers_made_it_remember_goes_when_its_time_is_over(
    verifier: Verifier, records: Records, clock: Clock
) -> None:
    async def refused() -> None:
        with pytest.raises(errors.CredentialsInvalid):
            await verifier.principal(PresentedKey(environment="live", id=new_id(), secret=new_secret()).text)

    for _ in range(100):
        await refused()
    await asyncio.sleep(0)
    assert (len(verifier._wrong), len(verifier._records_read), verifier._reading) == (100, 100, {})
    clock.now += REMEMBERED + 1
    # Each that comes lets two go.
    for _ in range(100):
        await refused()
    await asyncio.sleep(0)
    assert (len(verifier._wrong), len(verifier._records_read)) == (100, 100)
    clock.now += REMEMBERED + 1
    for _ in range(3):
        await refused()
    await asyncio.sleep(0)
    assert (len(verifier._wrong), len(verifier._records_read)) == (97, 97)


async def test_a_record_whose_reading_a_notice_overtook_is_not_remembered(verifier: Verifier, records: Records) -> None:
    """Neither is it joined: it may be what was before the change."""
    key = records.add()
    under_way = asyncio.create_task(verifier.principal(wrong(key)))
    await records.asked.wait()
    verifier.forget(key.id)
    assert (await verifier.principal(key.text)).actor_id == key.id
    with pytest.raises(errors.CredentialsInvalid):
        await under_way
    assert len(verifier._records_read) == 1
    assert records.loads >= 2
    assert verifier._reading == {}


@pytest.mark.usefixtures("uncollected")
async def test_a_refusal_whose_traceback_is_cleared_goes_with_its_call(verifier: Verifier, records: Records) -> None:
    """As transport/interceptors/errors.py clears it: without a visit of the collector."""
    text = wrong(records.add())
    for _ in range(2):
        gone: weakref.ref[errors.SignerError] | None = None
        try:
            await verifier.principal(text)
        except errors.CredentialsInvalid as error:
            gone = weakref.ref(errors.untraced(error))
        for _ in range(3):
            await asyncio.sleep(0)
        assert gone is not None
        assert gone() is None


async def test_the_new_secret_of_a_rotation_is_taken_before_its_notice_arrives(
    verifier: Verifier, records: Records
) -> None:
    old = records.add()
    await verifier.principal(old.text)
    new = records.rotate(old, overlap=timedelta(hours=1))
    assert (await verifier.principal(new.text)).generation == 2
    assert (await verifier.principal(old.text)).generation == 1


async def test_a_new_secret_that_was_refused_for_want_of_its_notice_is_taken_with_it(
    verifier: Verifier, records: Records, clock: Clock
) -> None:
    old = records.add()
    with pytest.raises(errors.CredentialsInvalid):
        await verifier.principal(wrong(old))
    # The second look of this moment is spent on somebody's wrong key, and the notice has not come.
    with pytest.raises(errors.CredentialsInvalid):
        await verifier.principal(wrong(old))
    new = records.rotate(old, overlap=timedelta(0))
    with pytest.raises(errors.CredentialsInvalid):
        await verifier.principal(new.text)
    verifier.forget(old.id)
    assert (await verifier.principal(new.text)).generation == 2


async def test_the_old_secret_is_valid_until_the_overlap_or_the_key_ends(verifier: Verifier, records: Records) -> None:
    soon, late = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) + timedelta(days=9)
    for ends in (None, soon, late):
        old = records.add(expires_at=ends)
        records.rotate(old, overlap=timedelta(days=1))
        principal = await verifier.principal(old.text)
        assert principal.generation == 1
        over_at = records.stored[old.id].secrets[1].over_at
        assert principal.expires_at == (soon if ends is soon else over_at)


async def test_an_old_secret_whose_time_is_over_is_told_so(verifier: Verifier, records: Records) -> None:
    old = records.add()
    new = records.rotate(old, overlap=timedelta(0))
    for _ in range(2):
        with pytest.raises(errors.ApiKeyRevoked, match="replaced"):
            await verifier.principal(old.text)
    assert (await verifier.principal(new.text)).expires_at is None


async def test_an_old_secret_ends_while_it_is_remembered(verifier: Verifier, records: Records) -> None:
    old = records.add()
    records.rotate(old, overlap=timedelta(milliseconds=500))
    await verifier.principal(old.text)
    await asyncio.sleep(0.6)
    with pytest.raises(errors.ApiKeyRevoked, match="replaced"):
        await verifier.principal(old.text)


async def test_of_two_rotations_in_a_row_the_first_ones_old_secret_is_wrong(
    verifier: Verifier, records: Records
) -> None:
    first = records.add()
    second = records.rotate(first, overlap=timedelta(days=1))
    third = records.rotate(second, overlap=timedelta(days=1))
    assert [(await verifier.principal(key.text)).generation for key in (second, third)] == [2, 3]
    with pytest.raises(errors.CredentialsInvalid):
        await verifier.principal(first.text)


async def test_a_failed_look_at_the_database_is_not_remembered(verifier: Verifier, records: Records) -> None:
    key = records.add()
    records.away = True
    with pytest.raises(OSError, match="away"):
        await verifier.principal(key.text)
    records.away = False
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
        await verifier.principal(wrong(revoked))


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
    records.stored[key.id] = replace(records.stored[key.id], revoked_at=datetime.now(UTC))
    verifier.forget(key.id)
    with pytest.raises(errors.ApiKeyRevoked):
        await verifier.principal(key.text)


async def test_a_plan_that_changed_is_read_anew_for_every_key_of_its_organization_and_for_no_other(
    verifier: Verifier, records: Records
) -> None:
    mine, theirs = records.add(), records.add()
    organization_id = (await verifier.principal(mine.text)).organization_id
    await verifier.principal(theirs.text)
    for key in (mine, theirs):
        record = records.stored[key.id]
        records.stored[key.id] = replace(record, principal=replace(record.principal, plan="pro"))
    verifier.forget_organization(organization_id)
    assert (await verifier.principal(mine.text)).plan == "pro"
    assert (await verifier.principal(theirs.text)).plan == "self-hosted"


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


async def test_a_remembered_refusal_keeps_nothing_of_the_calls_that_it_refused(
    verifier: Verifier, records: Records
) -> None:
    class Call:
        """Stands for the frames of a caller and all that hangs on them."""

    text = wrong(records.add())

    async def refused() -> weakref.ref[Call]:
        call = Call()
        with pytest.raises(errors.CredentialsInvalid):
            await verifier.principal(text)
        return weakref.ref(call)

    for _ in range(2):
        call = await refused()
        await asyncio.sleep(0)
        gc.collect()
        assert call() is None
    assert len(verifier._wrong) == 1


async def test_a_refusal_that_a_notice_overtook_is_not_remembered(verifier: Verifier, records: Records) -> None:
    key = records.add()
    text = wrong(key)
    under_way = asyncio.create_task(verifier.principal(text))
    await records.asked.wait()
    verifier.forget(key.id)
    with pytest.raises(errors.CredentialsInvalid):
        await under_way
    assert len(verifier._wrong) == 0


async def test_a_flood_of_wrong_keys_is_bounded_and_spares_those_that_are_known(
    verifier: Verifier, records: Records
) -> None:
    key, unchecked = records.add(), records.add(checked=False)
    await verifier.principal(key.text)
    flood = [asyncio.create_task(verifier.principal(wrong(unchecked))) for _ in range(WAITING + 20)]
    assert (await verifier.principal(key.text)).actor_id == key.id
    ends = await asyncio.gather(*flood, return_exceptions=True)
    assert sum(isinstance(end, errors.AuthenticationBusy) for end in ends) == 20
    assert sum(isinstance(end, errors.CredentialsInvalid) for end in ends) == WAITING
