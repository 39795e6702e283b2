"""Which limits a call meets, and what is said to one above them."""

from collections import Counter
from uuid import UUID

import pytest

from popsigner_server import errors
from popsigner_server.domain.ids import new_id
from popsigner_server.domain.plans import Plan, Plans
from popsigner_server.domain.principals import ActorKind, Person, Principal, Role
from popsigner_server.limits import Limiter, StoreAway
from popsigner_server.limits.calls import CallLimits
from popsigner_server.limits.memory import MemoryLimiter

PLANS = Plans(
    {
        "free": Plan(name="free", requests_per_second=5),
        "self-hosted": Plan(name="self-hosted"),
    }
)


class Observed:
    def __init__(self) -> None:
        self.limited: Counter[str] = Counter()
        self.unlimited = 0

    def rate_limited(self, limit: str) -> None:
        self.limited[limit] += 1

    def rate_unlimited(self) -> None:
        self.unlimited += 1


class Nobody:
    """A store that does not answer."""

    async def take(self, subject: UUID, rate: int) -> bool:
        raise StoreAway

    async def close(self) -> None:
        """Nothing is held."""


def limits(observed: Observed, *, caller_rate: int | None = None, limiter: Limiter | None = None) -> CallLimits:
    # A clock that stands, so that no second ends in the middle of a test.
    return CallLimits(limiter or MemoryLimiter(lambda: 0.0), PLANS, caller_rate=caller_rate, observer=observed)


def api_key(organization: UUID, *, plan: str = "free") -> Principal:
    return Principal(
        organization_id=organization,
        actor_id=new_id(),
        actor_kind=ActorKind.API_KEY,
        scopes=frozenset(),
        role=Role.UNSPECIFIED,
        expires_at=None,
        plan=plan,
    )


def person() -> Person:
    return Person(
        user_id=new_id(),
        session_id=new_id(),
        email="somebody@example.com",
        name="Somebody",
        provider_org=None,
        ip_address=None,
        user_agent=None,
    )


async def admitted(limits: CallLimits, principal: Principal | None, person: Person | None, *, of: int) -> int:
    count = 0
    for _ in range(of):
        try:
            await limits.admit(principal, person)
        except errors.RateLimited:
            continue
        count += 1
    return count


async def test_an_organization_shares_the_calls_of_its_plan_and_its_neighbour_has_its_own() -> None:
    observed = Observed()
    calls, mine, theirs = limits(observed), new_id(), new_id()
    assert await admitted(calls, api_key(mine), None, of=3) == 3
    assert await admitted(calls, api_key(mine), None, of=3) == 2
    assert await admitted(calls, api_key(theirs), None, of=5) == 5
    assert observed.limited == {"organization": 1}


async def test_the_refusal_names_the_plan_and_says_when_to_come_again() -> None:
    calls, mine = limits(Observed()), api_key(new_id())
    await admitted(calls, mine, None, of=5)
    with pytest.raises(errors.RateLimited, match="plan free includes 5 calls a second") as refusal:
        await calls.admit(mine, None)
    assert refusal.value.retry_after == 1.0


async def test_one_loud_api_key_leaves_its_colleagues_the_rest_of_the_organization() -> None:
    observed = Observed()
    calls, organization = limits(observed, caller_rate=2), new_id()
    assert await admitted(calls, api_key(organization), None, of=100) == 2
    assert await admitted(calls, api_key(organization), None, of=2) == 2
    assert observed.limited == {"caller": 98}


async def test_a_plan_without_a_rate_has_none() -> None:
    assert await admitted(limits(Observed()), api_key(new_id(), plan="self-hosted"), None, of=10_000) == 10_000


async def test_a_plan_that_the_catalogue_has_no_longer_is_limited_as_the_smallest() -> None:
    assert await admitted(limits(Observed()), api_key(new_id(), plan="forgotten"), None, of=10) == 5


async def test_a_person_is_counted_by_session_also_where_they_name_no_organization() -> None:
    calls, somebody = limits(Observed(), caller_rate=3), person()
    assert await admitted(calls, None, somebody, of=10) == 3
    assert await admitted(calls, None, person(), of=10) == 3


async def test_a_person_counts_for_the_organization_too() -> None:
    calls, organization = limits(Observed()), new_id()
    assert await admitted(calls, api_key(organization), person(), of=4) == 4
    assert await admitted(calls, api_key(organization), None, of=4) == 1


async def test_calls_of_nobody_are_not_counted() -> None:
    assert await admitted(limits(Observed(), caller_rate=1), None, None, of=10) == 10


async def test_without_its_store_every_call_is_let_through_and_counted() -> None:
    observed = Observed()
    assert await admitted(limits(observed, limiter=Nobody()), api_key(new_id()), None, of=100) == 100
    assert observed.unlimited == 100
    assert not observed.limited
