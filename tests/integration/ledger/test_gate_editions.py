"""The third edition of the release gate says and writes what the second one does, whatever is offered.

Two databases hold the same organizations. In the one the second edition decides, in the other the third, and whatever
they said and wrote is compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from popsigner_server.storage.migrate import migrate
from tests.integration.ledger.sites import ApiKey, Key, Member, Organization, Site
from tests.support.postgres import PostgresServer

EDITIONS = (2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Places are counted on past the end of what there is."""

    organization: int
    caller: int
    # Of which organization the key is, counted from the caller's.
    away: int
    key: int
    version: int
    hash: int
    mode: str | None
    request: str | None
    digest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    items: list[Item]
    wait: bool
    # What was remembered is a day old by now.
    later: bool


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """Whatever is refused hides what would have come after it."""
    return st.sampled_from([usual] * 12 + list(others))


def api_key(
    *,
    revoked: bool = False,
    expires: int | None = None,
    generation: int = 1,
    previous: int | None = None,
    shown: int = 1,
) -> ApiKey:
    return ApiKey(id=uuid4(), revoked=revoked, expires=expires, generation=generation, previous=previous, shown=shown)


def member(*, role: int | None = 2, ended: bool = False, expires: int = 1, mixed: bool = False) -> Member:
    return Member(user=uuid4(), session=uuid4(), role=role, ended=ended, expires=expires, mixed=mixed)


# Ids are new each time: what earlier examples wrote stays in the databases.
api_keys = mostly(
    {},
    {"revoked": True},
    {"expires": 1},
    {"expires": -1},
    {"generation": 2, "previous": 1},
    {"generation": 2, "previous": -1},
    {"generation": 2},
    {"generation": 3, "previous": 1},
    {"shown": 2},
).map(lambda traits: api_key(**traits))
members = mostly({}, {"role": 1}, {"role": 4}, {"role": None}, {"ended": True}, {"expires": -1}, {"mixed": True}).map(
    lambda traits: member(**traits)
)
keys = st.builds(Key, id=st.builds(uuid4), state=mostly(1, 0, 2, 3, 4, 5), low=mostly(1, 2), high=st.integers(1, 2))
organizations = st.builds(
    Organization,
    id=st.builds(uuid4),
    size=st.integers(0, 3),
    quota=st.sampled_from([None, None, 0, 4, 5, 10, 20]),
    used=st.sampled_from([None, 0, 1, 4, 7]),
    closed=mostly(False, True),
    held=mostly(False, True),
    callers=st.lists(st.one_of(api_keys, api_keys, members), min_size=1, max_size=3),
    keys=st.lists(keys, min_size=1, max_size=3),
)
items = st.builds(
    Item,
    organization=st.integers(0, 3),
    caller=st.integers(0, 2),
    away=mostly(0, 1),
    key=st.integers(0, 2),
    version=mostly(1, 2),
    hash=st.integers(0, 2),
    mode=mostly(None, "cosmos"),
    request=st.sampled_from([None, "a", "b", "c"]),
    digest=st.integers(0, 1),
)
batches = st.builds(
    Batch,
    items=st.lists(items, min_size=1, max_size=12),
    wait=st.booleans(),
    later=st.sampled_from([False, False, False, True]),
)


@pytest.fixture(scope="module")
def sites(postgres: PostgresServer) -> Iterator[list[Site]]:
    made = []
    for edition in EDITIONS:
        url = postgres.fresh_database()
        migrate(url)
        made.append(Site(url, edition))
    yield made
    for site in made:
        site.close()


def offered(there: list[Organization], batch: Batch) -> tuple[object, ...]:
    """The gate's arguments: the distinct callers and keys, and the items that point into them, from 1."""
    callers: dict[tuple[UUID, UUID], tuple[object, ...]] = {}
    signing: dict[tuple[UUID, int], None] = {}
    rows: list[tuple[int, int, int, str | None, str | None]] = []
    seen: set[tuple[UUID, str]] = set()
    digests = b""
    for item in batch.items:
        place = item.organization % len(there)
        mine, keys_of = there[place], there[(place + item.away) % len(there)]
        caller, key = mine.callers[item.caller % len(mine.callers)], keys_of.keys[item.key % len(keys_of.keys)]
        actor: UUID
        who: tuple[object, ...]
        if isinstance(caller, ApiKey):
            actor, who = caller.id, (mine.id, caller.id, None, caller.shown, "192.0.2.1", "program")
        else:
            actor, who = caller.user, (mine.id, caller.user, caller.session, 0, None, None)
        callers.setdefault((mine.id, actor), who)
        signing.setdefault((key.id, item.version))
        # The batcher never sends one twice.
        request = None if item.request is None or (mine.id, item.request) in seen else item.request
        if request is not None:
            seen.add((mine.id, request))
        rows.append((
            1 + list(callers).index((mine.id, actor)), 1 + list(signing).index((key.id, item.version)), item.hash,
            item.mode, request,
        ))  # fmt: skip
        digests += bytes([item.digest]) * 32
    item_caller, item_key, hashes, modes, requests = (list(column) for column in zip(*rows, strict=True))
    return (
        *(list(column) for column in zip(*callers.values(), strict=True)),
        [key for key, _ in signing],
        [version for _, version in signing],
        item_caller, item_key, hashes, digests,
        modes if any(modes) else None,
        requests if any(requests) else None,
        batch.wait,
    )  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(there=st.lists(organizations, min_size=1, max_size=4), offers=st.lists(batches, min_size=1, max_size=4))
def test_both_editions_say_and_write_the_same(
    sites: list[Site], there: list[Organization], offers: list[Batch]
) -> None:
    now = datetime.now(UTC)
    for organization in there:
        for site in sites:
            site.found(organization, now)
    for batch in offers:
        held = [] if batch.wait else [organization.id for organization in there if organization.held]
        arguments = offered(there, batch)
        second, third = [site.decide(arguments, held=held, later=batch.later) for site in sites]
        assert third == second
        second_rows, third_rows = [site.written([organization.id for organization in there]) for site in sites]
        assert third_rows == second_rows
    rows, distinct, seventh = sites[1].ids()
    assert rows == distinct == seventh
