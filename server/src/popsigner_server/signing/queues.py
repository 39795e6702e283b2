"""Who is next: a queue an organization, drawn round-robin by deficit, so that a flood waits behind itself alone."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from popsigner_server import errors
from popsigner_server.domain.principals import Principal
from popsigner_server.signing import Order

# Items that one turn grants an organization of weight 1. Small enough that a handful of organizations shares a batch,
# large enough that a turn is not spent on bookkeeping.
QUANTUM = 32


@dataclass(slots=True)
class _Lane:
    orders: deque[Order] = field(default_factory=deque)
    items: int = 0
    credit: int = 0
    # How many appends under way wait for this organization's head.
    held: int = 0


class Queues:
    """The waiting orders. Used from the event loop's thread alone: that is what orders it."""

    def __init__(self, *, limit: int, weight_of: Callable[[Principal], int]) -> None:
        self._limit = limit
        self._weight_of = weight_of
        self._lanes: dict[UUID, _Lane] = {}
        # Organizations with orders that may be drawn, in the order of their turns.
        self._ring: deque[UUID] = deque()
        self.items = 0

    def add(self, order: Order) -> None:
        """Queue an order. Raises QueueFull when its organization has too many items waiting."""
        organization = order.caller.principal.organization_id
        lane = self._lanes.get(organization)
        if lane is None:
            lane = self._lanes[organization] = _Lane()
        if lane.items + len(order) > self._limit:
            raise errors.QueueFull(retry_after=1.0)
        if not lane.orders and not lane.held:
            self._ring.append(organization)
        lane.orders.append(order)
        lane.items += len(order)
        if not lane.held:
            self.items += len(order)

    def hold(self, organization: UUID) -> None:
        """Draw nothing from this organization until `free`: its head is held elsewhere."""
        lane = self._lanes.setdefault(organization, _Lane())
        lane.held += 1
        if lane.held == 1:
            self.items -= lane.items
            if lane.orders:
                self._ring.remove(organization)

    def free(self, organization: UUID) -> None:
        """Draw from this organization again."""
        lane = self._lanes[organization]
        lane.held -= 1
        if lane.held:
            return
        self.items += lane.items
        if lane.orders:
            self._ring.append(organization)
        else:
            del self._lanes[organization]

    def draw(self, most: int, now: float) -> list[Order]:
        """Up to `most` items, fairly. Orders whose caller has gone or whose deadline has passed are dropped on the way.

        No request_id of one organization is drawn twice: the second order waits for the next draw.
        """
        drawn: list[Order] = []
        room = most
        requests: set[tuple[UUID, str]] = set()
        passed: list[UUID] = []
        while self._ring and room > 0:
            organization = self._ring.popleft()
            lane = self._lanes[organization]
            lane.credit += QUANTUM * self._weight_of(lane.orders[0].caller.principal)
            stuck = False
            while lane.orders and room > 0:
                order = lane.orders[0]
                if _is_dead(order, now):
                    self._take(lane)
                    continue
                if len(order) > lane.credit:
                    break
                if len(order) > room or _repeats(organization, order, requests):
                    stuck = True
                    break
                self._take(lane)
                lane.credit -= len(order)
                room -= len(order)
                drawn.append(order)
            if not lane.orders:
                # Credit is not saved up while idle.
                del self._lanes[organization]
            elif stuck:
                passed.append(organization)
            else:
                self._ring.append(organization)
        self._ring.extendleft(reversed(passed))
        return drawn

    def _take(self, lane: _Lane) -> None:
        order = lane.orders.popleft()
        lane.items -= len(order)
        self.items -= len(order)


def _is_dead(order: Order, now: float) -> bool:
    if order.done.done():
        return True
    if order.deadline is not None and order.deadline <= now:
        order.done.set_exception(errors.DeadlinePassed())
        return True
    return False


def _repeats(organization: UUID, order: Order, requests: set[tuple[UUID, str]]) -> bool:
    """Whether a request_id of the order is in `requests` already; remembers them if not."""
    if order.requests is None:
        return False
    mine = {(organization, request) for request in order.requests if request is not None}
    if not requests.isdisjoint(mine):
        return True
    requests |= mine
    return False
