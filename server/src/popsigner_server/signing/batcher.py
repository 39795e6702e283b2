"""The batcher: collect, one trip to the vault, one commit, settle. It owns its tasks; no caller can interrupt them.

No timer: a batch is whatever arrived while the trip before was out, so that an idle system signs at once. One trip is
out while batches are small; more only when the queue outgrows a full batch, because smaller batches mean more trips
and every trip has its price whatever it carries.

While all trips are large, a small one goes out beside them for organizations that go first (queues.py): else who asks
seldom would wait for a neighbour's thousand signatures. For a while after that large trips go one at a time, however
many wait, and are no larger than one call can be: two of them use all that a small machine has, and each step of the
small one would wait for its turn there.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from datetime import UTC, date, datetime
from typing import Any, Protocol
from uuid import UUID

from popsigner_server import errors
from popsigner_server.domain.principals import Caller, Scope
from popsigner_server.errors import SignerError
from popsigner_server.ledger import HELD, Gate, Offer
from popsigner_server.signing import Order, SigningKey
from popsigner_server.signing.queues import FIRST, Queues
from popsigner_server.telemetry import Tracer
from popsigner_server.vault import Refusal, Signed, Trip, Vault

# Turns of the event loop between two trips of a pump. Not a timer: an idle loop takes microseconds for them, and a busy
# one brings a third more signatures into the next batch (64 callers, mean 19 to 26; more turns bring nothing).
HAND_OVER = 16
# Seconds that large trips go one at a time after a small one has gone beside them for somebody who asks for little. It
# costs a flood an eighth of what it gets, and takes a third off its neighbour's slowest signatures.
SHARING = 5.0
# Items of a large trip meanwhile: a whole BatchSign must fit.
SHARED = 256

_REFUSALS: dict[str, Callable[[], SignerError]] = {
    kind.reason: kind
    for kind in (
        errors.CredentialsInvalid,
        errors.ApiKeyRevoked,
        errors.ApiKeyExpired,
        errors.KeyNotFound,
        errors.KeyDeleted,
        errors.KeyDisabled,
        errors.KeyVersionUnavailable,
        errors.RequestIdReused,
        errors.OrganizationDeleted,
        errors.SessionEnded,
        errors.MembershipMissing,
    )
}
_REFUSALS[errors.ScopeMissing.reason] = lambda: errors.ScopeMissing(Scope.KEYS_SIGN.value)


def _month_used_up() -> SignerError:
    today = datetime.now(UTC).date()
    following = date(today.year + today.month // 12, today.month % 12 + 1, 1)
    return errors.QuotaExceeded(
        f"The plan's signatures of this calendar month are used up; it signs again from {following} 00:00 UTC, or at "
        "once when the POP's operator gives the organization a larger plan.",
        quota="signatures",
    )


_REFUSALS[errors.QuotaExceeded.reason] = _month_used_up
_VAULT_REFUSALS: dict[Refusal, type[SignerError]] = {
    Refusal.UNKNOWN_KEY: errors.KeyNotFound,
    Refusal.DISABLED: errors.KeyDisabled,
    Refusal.VERSION_UNAVAILABLE: errors.KeyVersionUnavailable,
}


class Observer(Protocol):
    """What the batcher tells telemetry."""

    def batch(self, items: int) -> None: ...

    def vault_trip(self, seconds: float) -> None: ...

    def ledger_commit(self, seconds: float) -> None: ...

    def released(self, count: int) -> None: ...

    def refused(self, reason: str, count: int) -> None: ...

    def failed(self, error: BaseException) -> None: ...


class Batcher:
    """Turns orders into released signatures."""

    def __init__(
        self,
        *,
        vault: Vault,
        gate: Gate,
        queues: Queues,
        observer: Observer,
        tracer: Tracer,
        batch_limit: int,
        trips: int,
    ) -> None:
        self._vault = vault
        self._gate = gate
        self._queues = queues
        self._observer = observer
        self._tracer = tracer
        self._batch_limit = batch_limit
        self._trips = trips
        self._tasks: set[asyncio.Task[None]] = set()
        self._pumps = 0
        # How many pumps are out with more than FIRST items, and whether the small trip beside them is.
        self._large = 0
        self._hurrying = False
        self._sharing_until = 0.0
        # Trips of pumps carry the same organizations as likely as not, so that one's commit would find the heads held
        # by another's: they commit one after the other, while the others are at the vault.
        self._turn = asyncio.Lock()
        self._closing = False

    def check_room(self, organization: UUID, items: int) -> None:
        """Raise QueueFull or Draining where so many more items of this organization would be refused."""
        if self._closing:
            raise errors.Draining
        self._queues.check(organization, items)

    def hashing(self, organization: UUID, size: int) -> AbstractContextManager[None]:
        """Count so many bytes of data against the organization's queue while they are hashed. Raises QueueFull."""
        return self._queues.hashing(organization, size)

    async def submit(self, order: Order) -> list[bytes | SignerError]:
        """For each item its released signature or its error.

        Raises QueueFull, DeadlinePassed, Draining; VaultUnavailable or LedgerUnavailable for the whole batch that
        failed.
        """
        if self._closing:
            raise errors.Draining
        self._queues.add(order)
        self._wake()
        return await order.done

    def _wake(self) -> None:
        wanted = min(self._most(), 1 + self._queues.items // self._limit()) if self._queues.items else 0
        while self._pumps < wanted:
            self._pumps += 1
            self._spawn(self._pump())
        if self._queues.prompt and not self._hurrying and 0 < self._pumps == self._large:
            self._hurrying = True
            if self._queues.sparse:
                self._sharing_until = asyncio.get_running_loop().time() + SHARING
            self._spawn(self._hurry())

    def _sharing(self) -> bool:
        return asyncio.get_running_loop().time() <= self._sharing_until

    def _most(self) -> int:
        """How many pumps may run."""
        return 1 if self._sharing() else self._trips

    def _limit(self) -> int:
        """How many items a trip may have."""
        return min(SHARED, self._batch_limit) if self._sharing() else self._batch_limit

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._pumps <= self._most() and (orders := self._queues.draw(self._limit(), loop.time())):
                large = sum(map(len, orders)) > FIRST
                self._large += large
                try:
                    await self._out(orders, self._turn)
                finally:
                    self._large -= large
                # What has arrived is handed over by the loop step by step: let it, so that it goes together.
                # Not where the next batch is full already: the turns of a busy loop are long.
                if self._queues.items < self._limit():
                    for _ in range(HAND_OVER):
                        await asyncio.sleep(0)
        finally:
            self._pumps -= 1
            # Between the last draw and here nothing else ran, unless the draw left a repeated request_id behind.
            self._wake()

    async def _hurry(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while orders := self._queues.draw_prompt(FIRST, loop.time()):
                await self._out(orders, nullcontext())
        finally:
            self._hurrying = False
            self._wake()

    async def _out(self, orders: list[Order], turn: AbstractAsyncContextManager[None]) -> None:
        try:
            await self._guarded(orders, self._trip(orders, turn))
        finally:
            self._queues.settled(orders)

    async def _guarded(self, orders: list[Order], work: Coroutine[Any, Any, None]) -> None:
        """Run `work`; whatever it raises fails every order of it that is not settled yet."""
        try:
            await work
        except BaseException as error:
            self._observer.failed(error)
            for order in orders:
                if not order.done.done():
                    order.done.set_exception(error if isinstance(error, Exception) else errors.Draining())
            if not isinstance(error, Exception):
                raise

    async def _trip(self, orders: list[Order], turn: AbstractAsyncContextManager[None]) -> None:
        clock = asyncio.get_running_loop().time
        batch = _Batch(orders)
        self._observer.batch(len(batch.key_index))
        began = clock()
        with self._tracer.step("vault.sign", items=len(batch.key_index), links=batch.links()):
            signed = await self._vault.sign(batch.trip())
        self._observer.vault_trip(clock() - began)
        batch.take(signed)
        with self._tracer.step("ledger.commit", items=len(batch.key_index), links=batch.links()):
            async with turn:
                began = clock()
                await self._append(batch, wait=False)
        self._observer.ledger_commit(clock() - began)

    async def _append(self, batch: "_Batch", *, wait: bool) -> None:
        offer, items = batch.offer()
        refused = (await self._gate.release(offer, wait=wait)).refused if items else {}
        held: set[UUID] = set()
        for index, reason in refused.items():
            if reason == HELD:
                held.add(offer.callers[offer.item_caller[index]].principal.organization_id)
            else:
                batch.outcomes[items[index]] = _REFUSALS[reason]()
                self._observer.refused(reason, 1)
        late = batch.settle(held)
        self._observer.released(len(items) - len(refused))
        for organization in held:
            # Somebody else is writing to this organization's ledger. Its items wait for that in a transaction of their
            # own, and nothing more of it is drawn meanwhile; all others go on.
            self._queues.hold(organization)
            self._spawn(self._append_late(organization, late[organization]))

    async def _append_late(self, organization: UUID, batch: "_Batch") -> None:
        try:
            await self._guarded(batch.orders, self._append(batch, wait=True))
        finally:
            self._queues.free(organization)
            self._wake()

    async def close(self) -> None:
        """Accept nothing more, and wait until what was accepted is settled."""
        self._closing = True
        while self._tasks:
            await asyncio.wait(set(self._tasks))


class _Batch:
    """The columns of some orders, and what has become of each item."""

    __slots__ = ("_keys", "key_index", "orders", "outcomes")

    def __init__(self, orders: list[Order]) -> None:
        self.orders = orders
        self._keys: dict[SigningKey, int] = {}
        place = self._keys.setdefault
        self.key_index = [place(key, len(self._keys)) for order in orders for key in order.keys]
        self.outcomes: list[bytes | SignerError] = []

    def links(self) -> list[object]:
        """The callers' spans, of those that are traced."""
        return [order.link for order in self.orders if order.link is not None]

    def trip(self) -> Trip:
        return Trip(
            keys=tuple((key.vault_name, key.version) for key in self._keys),
            key_index=self.key_index,
            digests=b"".join([order.digests for order in self.orders]),
            formats=[code for order in self.orders for code in order.formats],
        )

    def take(self, signed: Signed) -> None:
        self.outcomes = list(signed.signatures)
        if signed.refusals:
            for item, key in enumerate(self.key_index):
                if (why := signed.refusals.get(key)) is not None:
                    self.outcomes[item] = _VAULT_REFUSALS[why]()

    def offer(self) -> tuple[Offer, list[int]]:
        """What asks for release: the items that were signed, and their places in the batch."""
        outcomes = self.outcomes
        callers: dict[Caller, int] = {}
        item_caller: list[int] = []
        hashes: list[int] = []
        modes: list[str | None] = []
        requests: list[str | None] = []
        for order in self.orders:
            count = len(order)
            item_caller += [callers.setdefault(order.caller, len(callers))] * count
            hashes += order.hashes
            modes += order.modes or [None] * count
            requests += order.requests or [None] * count
        digests = b"".join([order.digests for order in self.orders])
        items = [item for item, outcome in enumerate(outcomes) if type(outcome) is bytes]
        key_index = self.key_index
        if len(items) != len(outcomes):
            item_caller = [item_caller[item] for item in items]
            key_index = [key_index[item] for item in items]
            hashes = [hashes[item] for item in items]
            modes = [modes[item] for item in items]
            requests = [requests[item] for item in items]
            digests = b"".join([digests[32 * item : 32 * item + 32] for item in items])
        offer = Offer(
            callers=tuple(callers),
            keys=tuple((key.id, key.version) for key in self._keys),
            item_caller=item_caller,
            item_key=key_index,
            hashes=hashes,
            digests=digests,
            modes=modes if any(modes) else None,
            requests=requests if any(requests) else None,
        )
        return offer, items

    def settle(self, held: set[UUID]) -> dict[UUID, "_Batch"]:
        """Answer every order but those of `held` organizations; those come back as batches of their own."""
        late: dict[UUID, list[tuple[Order, list[bytes | SignerError]]]] = {organization: [] for organization in held}
        start = 0
        for order in self.orders:
            outcomes = self.outcomes[start : start + len(order)]
            start += len(order)
            if held and (organization := order.caller.principal.organization_id) in held:
                late[organization].append((order, outcomes))
            elif not order.done.done():
                order.done.set_result(outcomes)
        batches: dict[UUID, _Batch] = {}
        for organization, parts in late.items():
            batch = batches[organization] = _Batch([order for order, _ in parts])
            batch.outcomes = [outcome for _, outcomes in parts for outcome in outcomes]
        return batches
