"""Who is next, and who is not."""

import asyncio
from contextlib import ExitStack
from uuid import UUID

import pytest

from popsigner_server import errors
from popsigner_server.domain.plans import Plan
from popsigner_server.domain.principals import ActorKind, Caller, Principal, Role
from popsigner_server.signing import Order, SigningKey
from popsigner_server.signing.queues import FIRST, Queues

A, B, C = (UUID(int=n) for n in (1, 2, 3))
ORDINARY = Plan(name="ordinary")
KEY = SigningKey(id=UUID(int=9), vault_name="k", version=1, public_key="02" * 33, namespace_id=UUID(int=1))


def order(
    organization: UUID, items: int = 1, *, deadline: float | None = None, request: str | None = None, size: int = 0
) -> Order:
    principal = Principal(
        organization_id=organization,
        actor_id=organization,
        actor_kind=ActorKind.API_KEY,
        plan="self-hosted",
        scopes=frozenset(),
        role=Role.UNSPECIFIED,
        expires_at=None,
    )
    return Order(
        caller=Caller(principal=principal, ip_address=None, user_agent=None),
        keys=[KEY] * items,
        digests=bytes(32 * items),
        hashes=[1] * items,
        formats=[1] * items,
        modes=None,
        requests=None if request is None else [request] * items,
        size=size,
        deadline=deadline,
        done=asyncio.get_running_loop().create_future(),
    )


def queues(limit: int = 10_000, plans: dict[UUID, Plan] | None = None) -> Queues:
    return Queues(limit=limit, plan_of=lambda principal: (plans or {}).get(principal.organization_id, ORDINARY))


def owners(drawn: list[Order]) -> list[UUID]:
    return [each.caller.principal.organization_id for each in drawn]


async def test_one_organization_alone_fills_the_batch_in_its_order() -> None:
    waiting = queues()
    orders = [order(A) for _ in range(100)]
    for each in orders:
        waiting.add(each)
    assert waiting.draw(64, 0.0) == orders[:64]
    assert waiting.items == 36


async def test_a_flood_does_not_push_the_others_out_of_a_batch() -> None:
    waiting = queues()
    for _ in range(5_000):
        waiting.add(order(A))
    for _ in range(10):
        waiting.add(order(B))
    drawn = owners(waiting.draw(128, 0.0))
    assert drawn.count(B) == 10


async def test_a_weight_is_a_share() -> None:
    waiting = queues(plans={A: Plan(name="heavy", weight=3)})
    for _ in range(1_000):
        waiting.add(order(A))
        waiting.add(order(B))
    # What goes first is the same for both.
    waiting.draw(2 * FIRST, 0.0)
    drawn = owners(waiting.draw(512, 0.0))
    assert (drawn.count(A), drawn.count(B)) == (384, 128)


async def test_large_orders_get_no_more_than_their_share() -> None:
    waiting = queues()
    for _ in range(20):
        waiting.add(order(A, 256))
    for _ in range(512):
        waiting.add(order(B))
    drawn = waiting.draw(1024, 0.0)
    assert sum(len(each) for each in drawn if owners([each]) == [A]) == 512
    assert owners(drawn).count(B) == 512


async def test_a_full_queue_refuses_its_organization_and_nobody_else() -> None:
    waiting = queues(limit=3)
    for _ in range(3):
        waiting.add(order(A))
    with pytest.raises(errors.QueueFull) as refused:
        waiting.add(order(A))
    assert refused.value.retry_after == 1.0
    waiting.add(order(B))


async def test_an_order_that_nobody_waits_for_is_dropped_before_the_trip() -> None:
    waiting = queues()
    gone, late, live = order(A), order(A, deadline=5.0), order(A, deadline=50.0)
    for each in (gone, late, live):
        waiting.add(each)
    gone.done.cancel()
    assert waiting.draw(10, 10.0) == [live]
    assert isinstance(late.done.exception(), errors.DeadlinePassed)
    assert waiting.items == 0


async def test_a_request_id_is_drawn_once_a_batch_and_no_other_organization_waits_for_it() -> None:
    waiting = queues()
    first, second, third = (order(A, request="r") for _ in range(3))
    other = order(B, request="r")
    for each in (first, second, third, other):
        waiting.add(each)
    assert waiting.draw(10, 0.0) == [first, other]
    assert waiting.draw(10, 0.0) == [second]
    assert waiting.draw(10, 0.0) == [third]


async def test_a_held_organization_is_not_drawn_until_it_is_free() -> None:
    waiting = queues()
    for organization in (A, B, A, C):
        waiting.add(order(organization))
    waiting.hold(A)
    assert waiting.items == 2
    assert owners(waiting.draw(10, 0.0)) == [B, C]
    waiting.add(order(A))
    assert waiting.draw(10, 0.0) == []
    waiting.free(A)
    assert owners(waiting.draw(10, 0.0)) == [A, A, A]


async def test_an_organization_that_two_appends_hold_is_free_after_both() -> None:
    waiting = queues()
    waiting.hold(A)
    waiting.hold(A)
    waiting.add(order(A))
    waiting.free(A)
    assert waiting.draw(10, 0.0) == []
    waiting.free(A)
    assert owners(waiting.draw(10, 0.0)) == [A]


async def test_nothing_is_kept_of_organizations_that_wait_for_nothing() -> None:
    waiting = queues()
    for number in range(100):
        waiting.add(order(UUID(int=100 + number)))
    waiting.settled(waiting.draw(1_000, 0.0))
    waiting.hold(A)
    waiting.free(A)
    gone = order(B)
    waiting.add(gone)
    gone.done.cancel()
    assert waiting.draw(10, 0.0) == []
    assert (waiting.items, len(waiting._lanes), len(waiting._first), len(waiting._ring)) == (0, 0, 0, 0)


async def test_who_asks_seldom_goes_first() -> None:
    waiting = queues()
    for _ in range(1_000):
        waiting.add(order(A))
    waiting.draw(64, 0.0)
    seldom = order(B)
    waiting.add(seldom)
    assert waiting.prompt
    assert waiting.draw(64, 0.0)[0] is seldom


async def test_those_who_go_first_can_be_drawn_alone() -> None:
    waiting = queues()
    for _ in range(100):
        waiting.add(order(A))
    waiting.draw(64, 0.0)
    seldom = [order(B), order(C)]
    for each in seldom:
        waiting.add(each)
    assert waiting.draw_prompt(64, 0.0) == seldom
    assert not waiting.prompt
    assert waiting.draw_prompt(64, 0.0) == []


async def test_who_has_something_out_does_not_go_first_until_it_is_settled() -> None:
    waiting = queues()
    waiting.add(order(A))
    out = waiting.draw(64, 0.0)
    waiting.add(order(A))
    assert not waiting.prompt
    waiting.settled(out + waiting.draw(64, 0.0))
    waiting.add(order(A))
    assert waiting.prompt


async def test_going_first_is_for_a_few_items_and_the_rest_stands_in_line() -> None:
    waiting = queues()
    for _ in range(FIRST + 100):
        waiting.add(order(A))
    assert len(waiting.draw_prompt(1_000, 0.0)) == FIRST
    assert waiting.draw_prompt(1_000, 0.0) == []
    assert len(waiting.draw(1_000, 0.0)) == 100


async def test_a_batch_that_is_too_large_to_go_first_stands_in_line() -> None:
    waiting = queues()
    large = order(A, FIRST + 1)
    waiting.add(large)
    assert waiting.draw_prompt(1_000, 0.0) == []
    assert waiting.draw(1_000, 0.0) == [large]


async def test_a_plan_with_priority_goes_first_though_something_of_it_is_out() -> None:
    waiting = queues(plans={A: Plan(name="priority", priority=True)})
    for each in (A, B):
        waiting.add(order(each))
    waiting.draw(64, 0.0)
    for each in (B, A):
        waiting.add(order(each))
    assert owners(waiting.draw_prompt(64, 0.0)) == [A]
    assert owners(waiting.draw(64, 0.0)) == [B]


async def test_priority_leaves_the_others_their_share() -> None:
    waiting = queues(plans={A: Plan(name="priority", priority=True)})
    for _ in range(2_000):
        waiting.add(order(A))
        waiting.add(order(B))
    drawn = [owner for _ in range(4) for owner in owners(waiting.draw(256, 0.0))]
    assert drawn.count(B) >= 0.45 * len(drawn)


async def test_a_held_organization_that_would_go_first_waits_too() -> None:
    waiting = queues()
    waiting.add(order(A))
    waiting.hold(A)
    assert not waiting.prompt
    assert waiting.draw(10, 0.0) == []
    waiting.free(A)
    assert owners(waiting.draw(10, 0.0)) == [A]


async def test_room_is_asked_for_before_the_items_are_looked_at() -> None:
    waiting = queues(limit=10)
    waiting.add(order(A, 8))
    waiting.check(A, 2)
    waiting.check(B, 10)
    with pytest.raises(errors.QueueFull):
        waiting.check(A, 3)


async def test_large_messages_fill_a_queue_by_their_bytes() -> None:
    waiting = queues()
    for _ in range(33):
        waiting.add(order(A, size=1 << 20))
    with pytest.raises(errors.QueueFull):
        waiting.add(order(A))
    with pytest.raises(errors.QueueFull):
        waiting.check(A, 1)
    waiting.add(order(B, size=1 << 20))
    waiting.draw(2, 0.0)
    waiting.add(order(A))


async def test_data_that_is_being_hashed_counts_as_waiting() -> None:
    waiting = queues()
    with ExitStack() as calls:
        for _ in range(9):
            calls.enter_context(waiting.hashing(A, 4 << 20))
        with pytest.raises(errors.QueueFull), waiting.hashing(A, 1):
            raise AssertionError("there is no room")
        with pytest.raises(errors.QueueFull):
            waiting.check(A, 1)
        waiting.check(B, 1)
    with waiting.hashing(A, 1):
        waiting.add(order(A))
    # An organization that has nothing more is remembered no more.
    waiting.settled(waiting.draw(1, 0.0))
    assert waiting._lanes == {}


async def test_a_heavy_plan_with_priority_that_is_always_busy_does_not_fill_every_batch() -> None:
    waiting = queues(plans={A: Plan(name="dedicated", weight=16, priority=True)})
    for _ in range(1_000):
        waiting.add(order(B))
    waiting.draw(64, 0.0)
    for _ in range(5):
        for _ in range(256):
            waiting.add(order(A))
        drawn = owners(waiting.draw(256, 0.0))
        assert drawn.count(B) >= 8
