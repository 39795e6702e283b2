"""The batcher over the real release gate, with a vault that a test can hold back."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server import errors
from popsigner_server.domain.plans import Plan
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.ledger import Offer, Verdict
from popsigner_server.ledger.gate import PostgresGate
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.signing import Order, SigningKey, batcher
from popsigner_server.signing.batcher import Batcher
from popsigner_server.signing.queues import Queues
from popsigner_server.storage.engine import Database
from popsigner_server.telemetry.traces import open_tracer
from tests.integration.server.front import until
from tests.support.memory_vault import MemoryVault
from tests.support.organizations import Organization, found_organization


@dataclass(slots=True)
class Notes:
    """What the batcher reports."""

    batches: list[int] = field(default_factory=list)
    returned: int = 0
    released_items: int = 0
    refusals: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def batch(self, items: int) -> None:
        self.batches.append(items)

    def vault_trip(self, seconds: float) -> None:
        self.returned += 1

    @property
    def at_the_vault(self) -> int:
        return len(self.batches) - self.returned

    def ledger_commit(self, seconds: float) -> None: ...

    def released(self, count: int) -> None:
        self.released_items += count

    def refused(self, reason: str, count: int) -> None:
        self.refusals += [reason] * count

    def failed(self, error: BaseException) -> None:
        self.failures.append(error)


@dataclass(slots=True)
class Bench:
    vault: MemoryVault
    batcher: Batcher
    queues: Queues
    notes: Notes

    async def key(self, key_id: UUID) -> SigningKey:
        public_key = await self.vault.create(key_id.hex, exportable=False)
        return SigningKey(
            id=key_id, vault_name=key_id.hex, version=1, public_key=public_key.hex(), namespace_id=UUID(int=1)
        )


@pytest.fixture
async def bench(database: str) -> AsyncIterator[Bench]:
    gate, vault, notes = PostgresGate(database, prompt=4, late=2), MemoryVault(), Notes()
    queues = Queues(limit=100_000, plan_of=lambda _: Plan(name="ordinary"))
    signing = Batcher(
        vault=vault,
        gate=gate,
        queues=queues,
        observer=notes,
        tracer=open_tracer(None),
        batch_limit=256,
        trips=3,
    )
    yield Bench(vault=vault, batcher=signing, queues=queues, notes=notes)
    vault.gate.set()
    await signing.close()
    await gate.close()


def order(organization: Organization, keys: list[SigningKey], *, deadline: float | None = None) -> Order:
    return Order(
        caller=organization.caller,
        keys=keys,
        digests=os.urandom(32 * len(keys)),
        hashes=[1] * len(keys),
        formats=[SignatureFormat.COMPACT.value] * len(keys),
        modes=None,
        requests=None,
        size=32 * len(keys),
        deadline=deadline,
        done=asyncio.get_running_loop().create_future(),
    )


async def rows(engine: AsyncEngine, organization: Organization) -> int:
    found, _ = await PostgresLedger(Database(engine)).list(organization.id, limit=1, cursor="")
    return found[0].sequence if found else 0


async def test_what_arrives_while_a_trip_is_out_goes_together(engine: AsyncEngine, bench: Bench) -> None:
    one = await found_organization(engine)
    key = await bench.key(one.keys[0])
    bench.vault.gate.clear()
    first = asyncio.create_task(bench.batcher.submit(order(one, [key])))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(bench.batcher.submit(order(one, [key]))) for _ in range(40)]
    await asyncio.sleep(0.05)
    bench.vault.gate.set()
    outcomes = [await task for task in [first, *others]]
    assert all(isinstance(item, bytes) and len(item) == 64 for (item,) in outcomes)
    assert bench.notes.batches == [1, 40]
    assert await rows(engine, one) == 41


async def test_more_trips_go_out_only_when_the_queue_outgrows_a_batch(engine: AsyncEngine, bench: Bench) -> None:
    one = await found_organization(engine)
    key = await bench.key(one.keys[0])
    bench.vault.gate.clear()
    tasks = [asyncio.create_task(bench.batcher.submit(order(one, [key] * 64))) for _ in range(10)]
    await asyncio.sleep(0.05)
    assert sorted(bench.notes.batches) == [128, 256, 256]
    bench.vault.gate.set()
    await asyncio.gather(*tasks)
    assert await rows(engine, one) == 640


async def test_a_quiet_organization_does_not_wait_for_a_neighbours_large_trip(
    engine: AsyncEngine, bench: Bench
) -> None:
    loud, quiet = await found_organization(engine), await found_organization(engine)
    key, other = await bench.key(loud.keys[0]), await bench.key(quiet.keys[0])
    # What it signed before and has in hand does not count.
    await bench.batcher.submit(order(quiet, [other]))
    bench.vault.gate.clear()
    flood = [asyncio.create_task(bench.batcher.submit(order(loud, [key] * 256))) for _ in range(6)]
    await asyncio.sleep(0.05)
    assert bench.notes.batches == [1, 256, 256, 256]
    first = asyncio.create_task(bench.batcher.submit(order(quiet, [other])))
    await asyncio.sleep(0.05)
    # Beside the three that are out, and no second one with it.
    assert bench.notes.batches == [1, 256, 256, 256, 1]
    second = asyncio.create_task(bench.batcher.submit(order(quiet, [other])))
    await asyncio.sleep(0.05)
    assert len(bench.notes.batches) == 5
    bench.vault.gate.set()
    assert all(isinstance(item, bytes) for (item,) in await asyncio.gather(first, second))
    await asyncio.gather(*flood)
    assert (await rows(engine, loud), await rows(engine, quiet)) == (6 * 256, 3)


async def test_large_trips_go_one_at_a_time_while_a_quiet_neighbour_is_there(
    engine: AsyncEngine, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "SHARING", 2.0)
    loud, quiet = await found_organization(engine), await found_organization(engine)
    key, other = await bench.key(loud.keys[0]), await bench.key(quiet.keys[0])
    bench.vault.gate.clear()
    flood = [asyncio.create_task(bench.batcher.submit(order(loud, [key] * 256))) for _ in range(12)]
    await asyncio.sleep(0.05)
    small = asyncio.create_task(bench.batcher.submit(order(quiet, [other])))
    await asyncio.sleep(0.05)
    assert bench.notes.batches == [256, 256, 256, 1]
    bench.vault.gate.set()
    await small
    # Those that were out come back, and go on one at a time.
    bench.vault.gate.clear()
    await until(lambda: bench.notes.at_the_vault <= 1)
    await asyncio.sleep(0.2)
    assert bench.notes.at_the_vault == 1
    bench.vault.gate.set()
    await asyncio.gather(*flood)
    await until(lambda: not bench.batcher._sharing())
    bench.vault.gate.clear()
    flood = [asyncio.create_task(bench.batcher.submit(order(loud, [key] * 256))) for _ in range(12)]
    await until(lambda: bench.notes.at_the_vault == 3)
    bench.vault.gate.set()
    await asyncio.gather(*flood)
    assert (await rows(engine, loud), await rows(engine, quiet)) == (24 * 256, 1)


async def test_a_heavy_neighbour_that_begins_slows_nobody_down(engine: AsyncEngine, bench: Bench) -> None:
    """Its first message goes first as well; it is no reason to go one at a time for the five seconds after it."""
    loud, other = await found_organization(engine), await found_organization(engine)
    key, their = await bench.key(loud.keys[0]), await bench.key(other.keys[0])
    bench.vault.gate.clear()
    flood = [asyncio.create_task(bench.batcher.submit(order(loud, [key] * 256))) for _ in range(12)]
    await asyncio.sleep(0.05)
    first = asyncio.create_task(bench.batcher.submit(order(other, [their] * 64)))
    await asyncio.sleep(0.05)
    assert bench.notes.batches == [256, 256, 256, 64]
    assert not bench.batcher._sharing()
    bench.vault.gate.set()
    await asyncio.gather(first, *flood)
    assert (await rows(engine, loud), await rows(engine, other)) == (12 * 256, 64)


async def test_a_large_trip_is_smaller_while_a_quiet_neighbour_is_there(engine: AsyncEngine, bench: Bench) -> None:
    bench.batcher._batch_limit = 512
    loud, quiet = await found_organization(engine), await found_organization(engine)
    key, other = await bench.key(loud.keys[0]), await bench.key(quiet.keys[0])
    bench.vault.gate.clear()
    flood = [asyncio.create_task(bench.batcher.submit(order(loud, [key] * 256))) for _ in range(10)]
    await asyncio.sleep(0.05)
    small = asyncio.create_task(bench.batcher.submit(order(quiet, [other])))
    await asyncio.sleep(0.05)
    bench.vault.gate.set()
    await asyncio.gather(small, *flood)
    assert bench.notes.batches == [512, 512, 512, 1, 256, 256, 256, 256]


async def test_while_a_small_trip_is_out_nobody_hurries_beside_it(engine: AsyncEngine, bench: Bench) -> None:
    one, two = await found_organization(engine), await found_organization(engine)
    mine, theirs = await bench.key(one.keys[0]), await bench.key(two.keys[0])
    bench.vault.gate.clear()
    small = asyncio.create_task(bench.batcher.submit(order(one, [mine] * 8)))
    await asyncio.sleep(0.05)
    next_to_it = asyncio.create_task(bench.batcher.submit(order(two, [theirs])))
    await asyncio.sleep(0.05)
    assert bench.notes.batches == [8]
    bench.vault.gate.set()
    await asyncio.gather(small, next_to_it)


async def test_trips_of_one_organization_do_not_find_its_head_held_by_each_other(
    engine: AsyncEngine, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await found_organization(engine)
    key = await bench.key(one.keys[0])
    waits: list[bool] = []
    release = PostgresGate.release

    async def noted(gate: PostgresGate, offer: Offer, *, wait: bool) -> Verdict:
        waits.append(wait)
        return await release(gate, offer, wait=wait)

    monkeypatch.setattr(PostgresGate, "release", noted)
    await asyncio.gather(*(bench.batcher.submit(order(one, [key] * 256)) for _ in range(12)))
    assert waits == [False] * 12
    assert await rows(engine, one) == 12 * 256


async def test_a_full_queue_is_told_before_anything_is_looked_up(engine: AsyncEngine, bench: Bench) -> None:
    one = await found_organization(engine)
    bench.batcher.check_room(one.id, 100_000)
    with pytest.raises(errors.QueueFull):
        bench.batcher.check_room(one.id, 100_001)
    await bench.batcher.close()
    with pytest.raises(errors.Draining):
        bench.batcher.check_room(one.id, 1)


async def test_a_bad_item_fails_alone(engine: AsyncEngine, bench: Bench) -> None:
    one, two = await found_organization(engine), await found_organization(engine)
    good, foreign = await bench.key(one.keys[0]), await bench.key(two.keys[0])
    lost = SigningKey(
        id=UUID(int=5), vault_name="never-made", version=1, public_key="02" * 33, namespace_id=UUID(int=1)
    )
    outcomes = await bench.batcher.submit(order(one, [good, foreign, lost, good]))
    assert [type(outcome) for outcome in outcomes] == [bytes, errors.KeyNotFound, errors.KeyNotFound, bytes]
    assert await rows(engine, one) == 2
    assert await rows(engine, two) == 0


async def test_a_failed_trip_fails_its_batch_and_the_next_one_works(engine: AsyncEngine, bench: Bench) -> None:
    one = await found_organization(engine)
    key = await bench.key(one.keys[0])
    bench.vault.away = True
    with pytest.raises(errors.VaultUnavailable):
        await bench.batcher.submit(order(one, [key]))
    bench.vault.away = False
    assert isinstance((await bench.batcher.submit(order(one, [key])))[0], bytes)
    assert await rows(engine, one) == 1


async def test_a_caller_that_leaves_interrupts_nothing(engine: AsyncEngine, bench: Bench) -> None:
    one = await found_organization(engine)
    key = await bench.key(one.keys[0])
    bench.vault.gate.clear()
    leaver = asyncio.create_task(bench.batcher.submit(order(one, [key])))
    stayer = asyncio.create_task(bench.batcher.submit(order(one, [key])))
    await asyncio.sleep(0.05)
    late = asyncio.create_task(bench.batcher.submit(order(one, [key])))
    await asyncio.sleep(0.05)
    leaver.cancel()
    late.cancel()
    await asyncio.sleep(0)
    bench.vault.gate.set()
    assert isinstance((await stayer)[0], bytes)
    await bench.batcher.close()
    # The leaver's trip was out already, so its row stands; the one that still waited never went.
    assert await rows(engine, one) == 2


async def test_a_change_of_one_organization_holds_up_no_other(engine: AsyncEngine, bench: Bench) -> None:
    one, two = await found_organization(engine), await found_organization(engine)
    mine, theirs = await bench.key(one.keys[0]), await bench.key(two.keys[0])
    async with PostgresLedger(Database(engine)).change(one.id):
        held = [asyncio.create_task(bench.batcher.submit(order(one, [mine]))) for _ in range(5)]
        for _ in range(20):
            (outcome,) = await asyncio.wait_for(bench.batcher.submit(order(two, [theirs])), 5)
            assert isinstance(outcome, bytes)
        assert not any(task.done() for task in held)
    for task in held:
        assert isinstance((await task)[0], bytes)
    assert (await rows(engine, one), await rows(engine, two)) == (5, 20)
    assert bench.queues.items == 0


async def test_what_a_held_organization_sent_is_refused_if_the_change_forbids_it(
    engine: AsyncEngine, bench: Bench
) -> None:
    one = await found_organization(engine)
    key = await bench.key(one.keys[0])
    async with PostgresLedger(Database(engine)).change(one.id) as change:
        held = asyncio.create_task(bench.batcher.submit(order(one, [key])))
        await asyncio.sleep(0.2)
        await change.connection.exec_driver_sql("UPDATE keys SET state = 2 WHERE id = %s", (one.keys[0],))
    assert [type(outcome) for outcome in await held] == [errors.KeyDisabled]
    assert bench.notes.refusals == ["KEY_DISABLED"]


async def test_a_closing_batcher_settles_what_it_has_and_takes_nothing_more(engine: AsyncEngine, bench: Bench) -> None:
    one = await found_organization(engine)
    key = await bench.key(one.keys[0])
    bench.vault.gate.clear()
    tasks = [asyncio.create_task(bench.batcher.submit(order(one, [key]))) for _ in range(3)]
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(bench.batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(errors.Draining):
        await bench.batcher.submit(order(one, [key]))
    bench.vault.gate.set()
    await closing
    assert all(isinstance(item, bytes) for (item,) in await asyncio.gather(*tasks))
