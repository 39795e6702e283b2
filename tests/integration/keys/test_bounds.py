"""API keys that are limited to namespaces or keys: what is outside does not exist for them, whatever they ask for."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from uuid import UUID

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server import errors
from popsigner_server.domain.digests import HashAlgorithm
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.keys import Key, KeyState
from popsigner_server.domain.principals import UNBOUND, Bounds, Caller
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.keys import Wish
from popsigner_server.keys.cache import KeyCache
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.keys.creation import Creation
from popsigner_server.keys.lifecycle import Lifecycle
from popsigner_server.keys.reservations import Reservations
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.limits.pace import Pace
from popsigner_server.signing import Ask, Order, Signature
from popsigner_server.signing.signer import Signer
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import key_versions
from popsigner_server.telemetry.traces import open_tracer
from popsigner_server.tenancy.namespaces import Namespaces
from tests.support.memory_vault import MemoryVault
from tests.support.organizations import Organization, found_organization
from tests.support.plans import packaged_quotas


class Releasing:
    """A batcher that releases everything."""

    def check_room(self, organization: UUID, items: int) -> None: ...

    def hashing(self, organization: UUID, size: int) -> AbstractContextManager[None]:
        return nullcontext()

    async def submit(self, order: Order) -> list[bytes | errors.SignerError]:
        return [bytes(64)] * len(order)


@dataclass(frozen=True, slots=True)
class Place:
    """An organization with `production/a`, `production/b`, `staging/a` and an empty namespace `empty`."""

    catalogue: Catalogue
    cache: KeyCache
    creation: Creation
    lifecycle: Lifecycle
    namespaces: Namespaces
    signer: Signer
    mine: Organization
    keys: dict[str, Key]
    spaces: dict[str, UUID]

    def caller(self, bounds: Bounds) -> Caller:
        return replace(self.mine.caller, principal=replace(self.mine.caller.principal, bounds=bounds))


@pytest.fixture
async def place(engine: AsyncEngine) -> Place:
    database = Database(engine)
    ledger, catalogue, quotas = PostgresLedger(database), Catalogue(database), packaged_quotas()
    mine = await found_organization(engine, keys_of=0)
    namespaces = Namespaces(database, ledger, quotas)
    for name in ("staging", "empty"):
        await namespaces.create(mine.caller, name=name, address_prefix="celestia")
    vault = MemoryVault()
    reservations = Reservations(database, ledger, vault, quotas, Pace())
    creation = Creation(reservations, vault)
    made = await creation.create(mine.caller, [wish("production/a"), wish("production/b"), wish("staging/a")])
    listed, _ = await namespaces.list(mine.id, bounds=UNBOUND, limit=10, cursor="")
    cache = KeyCache(catalogue, Pace())
    return Place(
        catalogue,
        cache,
        creation,
        Lifecycle(database, ledger, vault, catalogue, reservations),
        namespaces,
        Signer(cache, Releasing(), open_tracer(None)),
        mine,
        {f"{key.namespace}/{key.name}": key for key in made},
        {namespace.name: namespace.id for namespace in listed},
    )


def wish(reference: str) -> Wish:
    namespace, _, name = reference.partition("/")
    return Wish(name=name, namespace=namespace, exportable=False, metadata={})


def ask(key: str, version: int = 0) -> Ask:
    return Ask(
        key=key,
        data=b"x",
        prehashed=False,
        hash=HashAlgorithm.SHA256,
        format=SignatureFormat.COMPACT,
        sign_mode=None,
        request_id=None,
        version=version,
    )


ALL = {"production/a", "production/b", "staging/a"}
# What limits, as names; the keys that are then reached; the namespaces that are then known.
CASES = [
    pytest.param([], [], ALL, {"production", "staging", "empty"}, id="unlimited"),
    pytest.param(["staging"], [], {"staging/a"}, {"staging"}, id="a namespace"),
    pytest.param(["staging", "empty"], [], {"staging/a"}, {"staging", "empty"}, id="two namespaces"),
    pytest.param([], ["production/b"], {"production/b"}, {"production"}, id="a key"),
    pytest.param(["production"], ["production/b", "staging/a"], {"production/b"}, {"production"}, id="both"),
    pytest.param(["empty"], ["production/b"], set(), set(), id="both, without a key in common"),
]


async def bounds_of(place: Place, spaces: list[str], keys: list[str]) -> Bounds:
    return Bounds(
        namespace_ids=await place.namespaces.ids_of(place.mine.id, spaces),
        key_ids=await place.catalogue.ids_of(place.mine.id, keys),
    )


@pytest.mark.parametrize(("spaces", "keys", "reached", "known"), CASES)
async def test_a_limited_key_reads_and_signs_with_what_is_within_and_nothing_else(
    place: Place, spaces: list[str], keys: list[str], reached: set[str], known: set[str]
) -> None:
    bounds = await bounds_of(place, spaces, keys)
    # Somebody else has filled the cache with everything.
    every = [name for key in ALL for name in (key, show(Prefix.KEY, place.keys[key].id))]
    await place.signer.sign(place.mine.caller, [ask(name) for name in every], None)

    signed = await place.signer.sign(place.caller(bounds), [ask(name) for name in every], None)

    for name, outcome in zip(every, signed, strict=True):
        within = name in reached or any(name == show(Prefix.KEY, place.keys[key].id) for key in reached)
        if within:
            assert isinstance(outcome, Signature)
            assert (await place.catalogue.get(place.mine.id, name, bounds=bounds)).id == outcome.key.id
            await place.cache.find(place.mine.id, name, 0, bounds)
            continue
        assert isinstance(outcome, errors.KeyNotFound)
        # A version that is not there says nothing about a key that is not there.
        for version in (0, 1, 9):
            (refused,) = await place.signer.sign(place.caller(bounds), [ask(name, version)], None)
            assert isinstance(refused, errors.KeyNotFound)
            with pytest.raises(errors.KeyNotFound):
                await place.cache.find(place.mine.id, name, version, bounds)
        with pytest.raises(errors.KeyNotFound):
            await place.catalogue.get(place.mine.id, name, bounds=bounds)


@pytest.mark.parametrize(("spaces", "keys", "reached", "known"), CASES)
async def test_lists_hold_what_is_within_in_whole_pages(
    place: Place, spaces: list[str], keys: list[str], reached: set[str], known: set[str]
) -> None:
    bounds = await bounds_of(place, spaces, keys)
    found: list[str] = []
    cursor = ""
    while True:
        page, cursor = await place.catalogue.list(place.mine.id, bounds=bounds, limit=1, cursor=cursor)
        found += [f"{key.namespace}/{key.name}" for key in page]
        if not cursor:
            break
        assert len(page) == 1
    assert sorted(found) == sorted(reached)
    listed, _ = await place.namespaces.list(place.mine.id, bounds=bounds, limit=10, cursor="")
    assert {namespace.name for namespace in listed} == known
    for name in ("production", "staging", "empty"):
        listing = place.catalogue.list(place.mine.id, bounds=bounds, limit=9, cursor="", namespace=name)
        if name in known:
            page, _ = await listing
            assert {f"{key.namespace}/{key.name}" for key in page} == {key for key in reached if key.startswith(name)}
        else:
            with pytest.raises(errors.NamespaceNotFound):
                await listing


@pytest.mark.parametrize(("spaces", "keys", "reached", "known"), CASES)
async def test_changes_reach_what_is_within_and_nothing_else(
    place: Place, spaces: list[str], keys: list[str], reached: set[str], known: set[str]
) -> None:
    limited = place.caller(await bounds_of(place, spaces, keys))
    for name in sorted(ALL):
        change = place.lifecycle.update(limited, name, name=None, metadata={"a": "b"}, check=lambda _: None)
        if name in reached:
            assert (await change).metadata == {"a": "b"}
            assert (await place.lifecycle.delete(limited, name, force=False)).state is KeyState.DELETED
            continue
        with pytest.raises(errors.KeyNotFound):
            await change
        for force in (False, True):
            with pytest.raises(errors.KeyNotFound):
                await place.lifecycle.delete(limited, name, force=force)
        untouched = await place.catalogue.get(place.mine.id, name, bounds=UNBOUND)
        assert (untouched.state, untouched.metadata) == (KeyState.ENABLED, {})


async def test_a_key_is_created_in_the_namespaces_of_the_limit_only(place: Place) -> None:
    limited = place.caller(await bounds_of(place, ["staging"], []))
    (made,) = await place.creation.create(limited, [wish("staging/new")])
    assert made.namespace == "staging"
    for batch in (["production/new"], ["staging/one", "production/new"], ["nowhere/new"], ["production/a"]):
        with pytest.raises(errors.NamespaceNotFound):
            await place.creation.create(limited, [wish(reference) for reference in batch])
    page, _ = await place.catalogue.list(place.mine.id, bounds=UNBOUND, limit=9, cursor="")
    assert len(page) == 4


async def test_who_is_limited_to_keys_creates_none(place: Place) -> None:
    for spaces in ([], ["production"]):
        limited = place.caller(await bounds_of(place, spaces, ["production/a"]))
        with pytest.raises(errors.ApiKeyRestricted):
            await place.creation.create(limited, [wish("production/new")])


async def test_who_is_limited_makes_and_deletes_no_namespace(place: Place) -> None:
    for spaces, keys in ((["empty"], []), ([], ["production/a"])):
        limited = place.caller(await bounds_of(place, spaces, keys))
        with pytest.raises(errors.ApiKeyRestricted):
            await place.namespaces.create(limited, name="new", address_prefix="celestia")
        for reference in ("empty", show(Prefix.NAMESPACE, place.spaces["empty"]), "nowhere"):
            with pytest.raises(errors.ApiKeyRestricted):
                await place.namespaces.delete(limited, reference)
    listed, _ = await place.namespaces.list(place.mine.id, bounds=UNBOUND, limit=9, cursor="")
    assert len(listed) == 3


async def test_an_older_version_is_within_as_its_key_is(place: Place, engine: AsyncEngine) -> None:
    key = place.keys["production/a"]
    async with engine.begin() as connection:
        await connection.execute(
            insert(key_versions).values(key_id=key.id, version=7, org_id=place.mine.id, public_key=b"\x02" * 33)
        )
    inside, outside = await bounds_of(place, ["production"], []), await bounds_of(place, ["staging"], [])
    within, _ = await place.cache.find(place.mine.id, "production/a", 7, inside)
    assert within.version == 7
    assert place.cache.cached(place.mine.id, "production/a", 7, outside) is None


async def test_limits_are_named_by_id_or_name_and_must_exist(place: Place, engine: AsyncEngine) -> None:
    key, space = place.keys["staging/a"], place.spaces["staging"]
    both = ["staging/a", show(Prefix.KEY, key.id)]
    assert await place.catalogue.ids_of(place.mine.id, both) == {key.id}
    assert await place.namespaces.ids_of(place.mine.id, ["staging", show(Prefix.NAMESPACE, space)]) == {space}
    await place.lifecycle.delete(place.mine.caller, "production/b", force=True)
    other = await found_organization(engine, keys_of=1)
    for lost in ("staging/z", "nonsense", "production/b", show(Prefix.KEY, place.keys["production/b"].id)):
        with pytest.raises(errors.KeyNotFound):
            await place.catalogue.ids_of(place.mine.id, ["staging/a", lost])
    with pytest.raises(errors.KeyNotFound):
        await place.catalogue.ids_of(place.mine.id, [show(Prefix.KEY, other.keys[0])])
    with pytest.raises(errors.NamespaceNotFound):
        await place.namespaces.ids_of(other.id, [show(Prefix.NAMESPACE, space)])
    with pytest.raises(errors.NamespaceNotFound):
        await place.namespaces.ids_of(place.mine.id, ["staging", "nowhere"])


async def test_a_namespace_that_comes_after_one_of_the_same_name_is_another(place: Place) -> None:
    limited = place.caller(await bounds_of(place, ["empty"], []))
    await place.namespaces.delete(place.mine.caller, "empty")
    await place.namespaces.create(place.mine.caller, name="empty", address_prefix="celestia")
    with pytest.raises(errors.NamespaceNotFound):
        await place.creation.create(limited, [wish("empty/new")])


async def test_a_forgotten_key_is_forgotten_by_every_name_and_no_other_key_is(place: Place) -> None:
    key = place.keys["production/a"]
    for name in ("production/a", show(Prefix.KEY, key.id), "production/b"):
        await place.cache.find(place.mine.id, name, 0, UNBOUND)
    place.cache.forget(key.id)
    remembered = [
        place.cache.cached(place.mine.id, name, 0, UNBOUND) is not None
        for name in ("production/a", show(Prefix.KEY, key.id), "production/b")
    ]
    assert remembered == [False, False, True]
