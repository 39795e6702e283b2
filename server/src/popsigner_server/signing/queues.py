"""Who is next: a queue an organization, drawn round-robin by deficit, so that a flood waits behind itself alone.

An organization of which nothing waits and nothing is out has its next order drawn before all others, once, up to FIRST
items: who asks seldom does not stand in line behind those who ask all the time (the sparse flows of RFC 8290 4.2). An
organization whose plan has priority need not be quiet for that.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from popsigner_server import errors
from popsigner_server.domain.plans import Plan
from popsigner_server.domain.principals import Principal
from popsigner_server.signing import Order

# Items that one turn grants an organization of weight 1. Small enough that a handful of organizations shares a batch,
# large enough that a turn is not spent on bookkeeping.
QUANTUM = 32
# Bytes of data of one organization that may wait. A queue of large messages would be gigabytes.
MOST_BYTES = 32 << 20
# Items of an organization that go first, whatever its weight: a heavy one with priority would else fill each batch. A
# trip of so many takes hardly longer than one of a single item.
FIRST = 64
# Items of an organization that asks for little; one that begins a stream of large messages goes first, too.
SPARSE = 16


@dataclass(slots=True)
class _Lane:
    orders: deque[Order] = field(default_factory=deque)
    items: int = 0
    size: int = 0
    credit: int = 0
    # How many appends under way wait for this organization's head.
    held: int = 0
    # Orders that were drawn and are not settled.
    out: int = 0

    # Calls whose data is being hashed; `size` counts it.
    hashing: int = 0

    @property
    def idle(self) -> bool:
        return not (self.orders or self.held or self.out or self.hashing)


class Queues:
    """The waiting orders. Used from the event loop's thread alone: that is what orders it."""

    def __init__(self, *, limit: int, plan_of: Callable[[Principal], Plan]) -> None:
        self._limit = limit
        self._plan_of = plan_of
        # Only organizations of which something waits, is hashed, is held or is out.
        self._lanes: dict[UUID, _Lane] = {}
        # Organizations with orders that may be drawn, in the order of their turns; those of `_first` come first.
        self._first: deque[UUID] = deque()
        self._ring: deque[UUID] = deque()
        self.items = 0

    @property
    def prompt(self) -> bool:
        """Whether somebody waits who goes first."""
        return bool(self._first)

    @property
    def sparse(self) -> bool:
        """Whether one of those asks for little."""
        return any(self._lanes[organization].items <= SPARSE for organization in self._first)

    def check(self, organization: UUID, items: int) -> None:
        """Raise QueueFull when the organization has too much waiting for so many items more. Asked before a call's
        items are looked at, so that refusing a flood costs little; `add` asks again."""
        lane = self._lanes.get(organization)
        waiting, size = (0, 0) if lane is None else (lane.items, lane.size)
        if waiting + items > self._limit or size > MOST_BYTES:
            raise errors.QueueFull(retry_after=1.0)

    @contextmanager
    def hashing(self, organization: UUID, size: int) -> Iterator[None]:
        """Count so many bytes of data as waiting while they are hashed: else what an organization keeps in memory there
        would have no bound. Raises QueueFull."""
        self.check(organization, 0)
        lane = self._lanes.setdefault(organization, _Lane())
        lane.hashing += 1
        lane.size += size
        try:
            yield
        finally:
            lane.hashing -= 1
            lane.size -= size
            self._forget_idle(organization, lane)

    def add(self, order: Order) -> None:
        """Queue an order. Raises QueueFull."""
        principal = order.caller.principal
        organization = principal.organization_id
        self.check(organization, len(order))
        lane = self._lanes.get(organization)
        quiet = lane is None
        if lane is None:
            lane = self._lanes[organization] = _Lane()
        if not lane.orders and not lane.held:
            first = quiet or self._plan_of(principal).priority
            (self._first if first else self._ring).append(organization)
        lane.orders.append(order)
        lane.items += len(order)
        lane.size += order.size
        if not lane.held:
            self.items += len(order)

    def hold(self, organization: UUID) -> None:
        """Draw nothing from this organization until `free`: its head is held elsewhere."""
        lane = self._lanes.setdefault(organization, _Lane())
        lane.held += 1
        if lane.held == 1:
            self.items -= lane.items
            if lane.orders:
                (self._first if organization in self._first else self._ring).remove(organization)

    def free(self, organization: UUID) -> None:
        """Draw from this organization again."""
        lane = self._lanes[organization]
        lane.held -= 1
        if lane.held:
            return
        self.items += lane.items
        if lane.orders:
            self._ring.append(organization)
        self._forget_idle(organization, lane)

    def settled(self, orders: list[Order]) -> None:
        """These orders, once drawn, are out no more."""
        for order in orders:
            organization = order.caller.principal.organization_id
            lane = self._lanes[organization]
            lane.out -= 1
            self._forget_idle(organization, lane)

    def draw(self, most: int, now: float) -> list[Order]:
        """Up to `most` items, fairly. Orders whose caller has gone or whose deadline has passed are dropped on the way.

        No request_id of one organization is drawn twice: the second order waits for the next draw.
        """
        draw = _Draw(room=most, now=now)
        self._turns(self._first, draw)
        self._turns(self._ring, draw)
        return draw.orders

    def draw_prompt(self, most: int, now: float) -> list[Order]:
        """The same of those alone who go first."""
        draw = _Draw(room=most, now=now)
        self._turns(self._first, draw)
        return draw.orders

    def _weight(self, lane: _Lane) -> int:
        return self._plan_of(lane.orders[0].caller.principal).weight

    def _turns(self, ring: deque[UUID], draw: "_Draw") -> None:
        passed: list[UUID] = []
        while ring and draw.room > 0:
            organization = ring.popleft()
            lane = self._lanes[organization]
            lane.credit += FIRST if ring is self._first else QUANTUM * self._weight(lane)
            stuck = self._turn(organization, lane, draw)
            if not lane.orders:
                # Credit is not saved up while idle.
                lane.credit = 0
                self._forget_idle(organization, lane)
            elif stuck:
                passed.append(organization)
            else:
                # Whoever went first stands in line with what is left.
                self._ring.append(organization)
        ring.extendleft(reversed(passed))

    def _turn(self, organization: UUID, lane: _Lane, draw: "_Draw") -> bool:
        """What the lane's credit and the room allow. Whether something else than the credit ended it."""
        while lane.orders and draw.room > 0:
            order = lane.orders[0]
            if _is_dead(order, draw.now):
                self._take(lane)
                continue
            if len(order) > lane.credit:
                return False
            if len(order) > draw.room or draw.repeats(organization, order):
                return True
            self._take(lane)
            lane.credit -= len(order)
            lane.out += 1
            draw.room -= len(order)
            draw.orders.append(order)
        return False

    def _take(self, lane: _Lane) -> None:
        order = lane.orders.popleft()
        lane.items -= len(order)
        lane.size -= order.size
        self.items -= len(order)

    def _forget_idle(self, organization: UUID, lane: _Lane) -> None:
        if lane.idle:
            del self._lanes[organization]


@dataclass(slots=True, kw_only=True)
class _Draw:
    """One draw so far. room: in items."""

    room: int
    now: float
    orders: list[Order] = field(default_factory=list)
    requests: set[tuple[UUID, str]] = field(default_factory=set)

    def repeats(self, organization: UUID, order: Order) -> bool:
        """Whether a request_id of the order was drawn already; remembers them if not."""
        if order.requests is None:
            return False
        mine = {(organization, request) for request in order.requests if request is not None}
        if not self.requests.isdisjoint(mine):
            return True
        self.requests |= mine
        return False


def _is_dead(order: Order, now: float) -> bool:
    if order.done.done():
        return True
    if order.deadline is not None and order.deadline <= now:
        order.done.set_exception(errors.DeadlinePassed())
        return True
    return False
