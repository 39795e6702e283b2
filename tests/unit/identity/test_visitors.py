"""The cache of access tokens: what it remembers, what it forgets, and what it never takes for good."""

import asyncio
import gc
import time
import types
import weakref
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.principals import SCOPES_OF, ActorKind, Principal, Role
from popsigner_server.identity.people import Visit
from popsigner_server.identity.tokens import Claims, UnknownKey
from popsigner_server.identity.visitors import CACHE_SIZE, REMEMBERED, WRONG_CACHE_SIZE, Visitors

NOON = datetime(2031, 5, 6, 12, tzinfo=UTC)


@dataclass(slots=True)
class Clock:
    """now: the time of day. timer: seconds that nobody sets."""

    now: datetime = NOON
    set_back: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return self.now - self.set_back

    def timer(self) -> float:
        return self.now.timestamp()


@dataclass(slots=True)
class Hall:
    """Genuine tokens, live sessions, and how often both were asked for."""

    genuine: dict[str, Claims] = field(default_factory=dict)
    alive: dict[UUID, Visit] = field(default_factory=dict)
    unknown_key: bool = False
    reads: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def verify(self, text: str) -> Claims:
        self.reads += 1
        if self.unknown_key:
            raise UnknownKey
        try:
            return self.genuine[text]
        except KeyError as error:
            raise errors.CredentialsInvalid from error

    async def visit(self, *, user_id: UUID, session_id: UUID) -> Visit | None:
        visit = self.alive.get(session_id)
        self.asked.set()
        await asyncio.sleep(0)
        return visit

    def begin(self, text: str, *organizations: tuple[str, Role], lasts: float = 600) -> Visit:
        visit = visit_of(*organizations)
        self.alive[visit.session_id] = visit
        self.genuine[text] = Claims(
            user_id=visit.user_id, session_id=visit.session_id, expires_at=NOON.timestamp() + lasts
        )
        return visit


def visit_of(*organizations: tuple[str, Role]) -> Visit:
    user_id, session_id = new_id(), new_id()
    principals: dict[str, Principal] = {}
    for slug, role in organizations:
        principal = Principal(
            organization_id=new_id(),
            actor_id=user_id,
            actor_kind=ActorKind.USER,
            scopes=SCOPES_OF[role],
            role=role,
            expires_at=None,
            plan="free",
            session_id=session_id,
        )
        principals[slug] = principals[show(Prefix.ORGANIZATION, principal.organization_id)] = principal
    return Visit(
        user_id=user_id, session_id=session_id, email="a@b", name="Ada", provider_org=None, principals=principals
    )


class Request:
    """What a call carries."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hall() -> Hall:
    return Hall()


@pytest.fixture
def visitors(hall: Hall, clock: Clock) -> Visitors:
    return Visitors(hall, hall, clock=clock, timer=clock.timer)


async def test_a_token_is_looked_up_once_a_minute(visitors: Visitors, hall: Hall, clock: Clock) -> None:
    visit = hall.begin("t")
    for _ in range(5):
        assert await visitors.visit("t") is visit
    assert hall.reads == 1
    clock.now += timedelta(seconds=REMEMBERED + 1)
    await visitors.visit("t")
    assert hall.reads == 2


async def test_a_time_of_day_that_is_set_back_makes_nothing_live_longer(
    visitors: Visitors, hall: Hall, clock: Clock
) -> None:
    hall.begin("t")
    await visitors.visit("t")
    clock.set_back = timedelta(hours=1)
    clock.now += timedelta(seconds=REMEMBERED + 1)
    await visitors.visit("t")
    assert hall.reads == 2


async def test_callers_that_come_at_once_wait_for_one_look(visitors: Visitors, hall: Hall) -> None:
    hall.begin("t")
    await asyncio.gather(*(visitors.visit("t") for _ in range(20)))
    assert hall.reads == 1


async def test_a_token_that_is_over_while_it_is_remembered_is_refused(
    visitors: Visitors, hall: Hall, clock: Clock
) -> None:
    hall.begin("t", lasts=10)
    await visitors.visit("t")
    clock.now += timedelta(seconds=10)
    with pytest.raises(errors.TokenExpired):
        await visitors.visit("t")


async def test_a_wrong_token_is_refused_and_remembered_apart_from_the_good_ones(visitors: Visitors, hall: Hall) -> None:
    hall.begin("t")
    await visitors.visit("t")
    for number in range(WRONG_CACHE_SIZE + 10):
        with pytest.raises(errors.CredentialsInvalid):
            await visitors.visit(f"wrong-{number}")
    before = hall.reads
    with pytest.raises(errors.CredentialsInvalid) as refused:
        await visitors.visit(f"wrong-{WRONG_CACHE_SIZE + 9}")
    await visitors.visit("t")
    assert hall.reads == before
    assert len(visitors._wrong) == WRONG_CACHE_SIZE
    assert "wrong" not in refused.value.detail


async def test_what_is_remembered_is_bounded(visitors: Visitors, hall: Hall) -> None:
    for number in range(CACHE_SIZE + 5):
        hall.begin(str(number))
        await visitors.visit(str(number))
    assert len(visitors._good) == CACHE_SIZE


async def test_the_cache_holds_no_token(visitors: Visitors, hall: Hall) -> None:
    hall.begin("a-very-secret-token")
    await visitors.visit("a-very-secret-token")
    del hall.alive[hall.begin("of-a-session-that-is-over").session_id]
    for wrong in ("made-up-token", "of-a-session-that-is-over"):
        with pytest.raises(errors.SignerError):
            await visitors.visit(wrong)
    held = texts_in(visitors._good, visitors._wrong, visitors._under_way)
    assert "a@b" in held
    assert not held & {"a-very-secret-token", "made-up-token", "of-a-session-that-is-over"}


def texts_in(*roots: object) -> set[str]:
    """Every text that can be reached from these, but for what is a program's and not a value's."""
    seen: dict[int, object] = {}
    waiting = list(roots)
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type | types.ModuleType | types.FunctionType | types.CodeType):
            continue
        seen[id(each)] = each
        waiting += gc.get_referents(each)
    return {each for each in seen.values() if isinstance(each, str)}


async def test_a_remembered_refusal_holds_nothing_of_the_calls_that_it_refused(visitors: Visitors, hall: Hall) -> None:
    """Anybody may send wrong tokens, each with a request of megabytes behind it."""
    requests: list[weakref.ref[Request]] = []

    async def call(token: str) -> None:
        request = Request()
        requests.append(weakref.ref(request))
        with pytest.raises(errors.SignerError):
            await visitors.visit(token)

    del hall.alive[hall.begin("ended").session_id]
    for token in ("wrong", "ended"):
        # The first is looked up, the second is refused from memory.
        await call(token)
        await call(token)
    # The loop lets go of the last look's task.
    await asyncio.sleep(0)
    gc.collect()
    assert hall.reads == 2
    assert [request() for request in requests] == [None] * 4


async def test_a_refusal_from_memory_says_what_the_first_one_said(visitors: Visitors, hall: Hall) -> None:
    del hall.alive[hall.begin("ended").session_id]
    said = []
    for _ in range(2):
        with pytest.raises(errors.SessionEnded) as refused:
            await visitors.visit("ended")
        said.append(refused.value.detail)
    assert said[0] == said[1]
    assert hall.reads == 1


async def test_a_notice_costs_what_is_forgotten_and_not_what_is_remembered(visitors: Visitors, hall: Hall) -> None:
    """Somebody who renames an organization again and again must not keep every server process busy with that."""
    for number in range(CACHE_SIZE):
        hall.begin(str(number), ("a", Role.VIEWER), ("b", Role.VIEWER))
        await visitors.visit(str(number))
    began = time.process_time()
    for _ in range(1_000):
        visitors.forget_organization(new_id())
        visitors.forget_user(new_id())
    # 22 s where all of it is walked through.
    assert time.process_time() - began < 2
    assert len(visitors._good) == CACHE_SIZE


async def test_a_token_of_an_unknown_key_is_asked_for_again(visitors: Visitors, hall: Hall) -> None:
    hall.begin("t")
    hall.unknown_key = True
    with pytest.raises(errors.CredentialsInvalid):
        await visitors.visit("t")
    hall.unknown_key = False
    assert await visitors.visit("t")


async def test_a_notice_drops_one_person_and_leaves_the_others(visitors: Visitors, hall: Hall) -> None:
    gone, stays = hall.begin("gone"), hall.begin("stays")
    await visitors.visit("gone")
    await visitors.visit("stays")
    del hall.alive[gone.session_id]
    visitors.forget_user(gone.user_id)
    before = hall.reads
    assert await visitors.visit("stays") is stays
    assert hall.reads == before
    with pytest.raises(errors.SessionEnded):
        await visitors.visit("gone")


async def test_a_notice_of_an_organization_drops_its_people(visitors: Visitors, hall: Hall) -> None:
    mine = hall.begin("mine", ("a", Role.VIEWER), ("b", Role.VIEWER))
    hall.begin("other", ("c", Role.VIEWER))
    await visitors.visit("mine")
    await visitors.visit("other")
    visitors.forget_organization(mine.principals["b"].organization_id)
    await visitors.visit("mine")
    await visitors.visit("other")
    assert hall.reads == 3


async def test_a_look_that_a_notice_overtook_is_not_remembered_and_nobody_joins_it(
    visitors: Visitors, hall: Hall
) -> None:
    visit = hall.begin("t")
    under_way = asyncio.create_task(visitors.visit("t"))
    await hall.asked.wait()
    del hall.alive[visit.session_id]
    visitors.forget_user(visit.user_id)
    with pytest.raises(errors.SessionEnded):
        await visitors.visit("t")
    await under_way
    with pytest.raises(errors.SessionEnded):
        await visitors.visit("t")


async def test_lost_notices_drop_everything(visitors: Visitors, hall: Hall) -> None:
    hall.begin("t")
    await visitors.visit("t")
    visitors.forget_all()
    await visitors.visit("t")
    assert hall.reads == 2


def test_somebody_with_one_organization_need_not_name_it() -> None:
    visit = visit_of(("a", Role.ADMIN))
    assert visit.principal(None) is visit.principal("a") is visit.principal("") is visit.principals["a"]


def test_somebody_with_several_names_one_by_its_slug_or_its_id() -> None:
    visit = visit_of(("a", Role.ADMIN), ("b", Role.VIEWER))
    with pytest.raises(errors.OrganizationRequired):
        visit.principal(None)
    named = show(Prefix.ORGANIZATION, visit.principals["b"].organization_id)
    assert visit.principal("b") is visit.principal(named)
    assert visit.principal("b").role is Role.VIEWER


def test_what_is_not_theirs_is_refused_as_what_is_not_there() -> None:
    visit = visit_of(("a", Role.OWNER))
    refusals = []
    for named in ("b", show(Prefix.ORGANIZATION, new_id()), "A", " a", "\x00"):
        with pytest.raises(errors.MembershipMissing) as refused:
            visit.principal(named)
        refusals.append(refused.value.detail)
    assert len(set(refusals)) == 1


def test_somebody_without_an_organization_is_told_so() -> None:
    with pytest.raises(errors.MembershipMissing, match="invitation"):
        visit_of().principal(None)
