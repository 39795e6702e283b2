"""A new API key: what is stored of it, what it is limited to, and that nobody makes one that may more than they."""

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from sqlalchemy import delete, func, update

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.principals import UNBOUND, Bounds, Role, Scope
from popsigner_server.gen.popsigner.v1 import api_key_pb2
from popsigner_server.identity import api_keys as module
from popsigner_server.identity.api_keys import HASHES
from popsigner_server.identity.bounds import networks_of
from popsigner_server.identity.hashing import check_of, hash_secret, verify_secret
from popsigner_server.storage.tables import namespaces, org_members, sessions
from popsigner_server.transport.convert import api_key_to_proto
from tests.integration.api_keys.conftest import Office, admin, id_of, secret_of, wish
from tests.support.organizations import Organization, found_organization, joined

NETWORKS = networks_of(["203.0.113.0/24", "2001:db8::/32"])


async def namespace_of(office: Office, organization: Organization) -> Any:
    async with office.engine.connect() as connection:
        query = namespaces.select().where(namespaces.c.org_id == organization.id)
        return (await connection.execute(query)).mappings().one()


async def test_of_a_secret_its_hash_and_its_check_are_stored_and_nothing_else(
    office: Office, mine: Organization
) -> None:
    key, text = await office.api_keys.create(mine.caller, wish())
    row, secret = await office.row(key.id), secret_of(text)
    assert row["key_check"] == check_of(secret)
    assert verify_secret(row["key_hash"], secret)
    assert secret not in str(dict(row))
    assert (row["generation"], row["previous_hash"], row["previous_check"]) == (1, None, None)


async def test_bounds_are_stored_shown_and_loaded(office: Office, mine: Organization) -> None:
    space = await namespace_of(office, mine)
    bounds = Bounds(
        networks=NETWORKS, namespace_ids=frozenset({space["id"]}), key_ids=frozenset({mine.keys[0], new_id()})
    )
    key, text = await office.api_keys.create(mine.caller, wish(bounds=bounds))
    assert key.bounds == bounds
    assert (await office.verifier.principal(text)).bounds == bounds
    (listed,) = [one for one in (await office.api_keys.list(mine.id, limit=9, cursor=""))[0] if one.id == key.id]
    assert listed == key
    shown = api_key_to_proto(listed, "psk_live_…")
    assert list(shown.ip_allow_list) == ["203.0.113.0/24", "2001:db8::/32"]
    assert list(shown.namespaces) == ["production"]
    assert sorted(shown.key_ids) == sorted(show(Prefix.KEY, key_id) for key_id in bounds.key_ids)
    assert shown.created_by == show(Prefix.API_KEY, mine.caller.principal.actor_id)
    assert not shown.HasField("previous_secret_expires_at")
    (told,) = await office.rows(mine, "api_key.created")
    assert told.metadata["ip_allow_list"] == "203.0.113.0/24 2001:db8::/32"
    assert told.metadata["namespaces"] == "production"


async def test_a_key_without_bounds_has_the_one_value_that_the_hot_path_looks_for(
    office: Office, mine: Organization
) -> None:
    _, text = await office.api_keys.create(mine.caller, wish())
    assert (await office.verifier.principal(text)).bounds is UNBOUND


async def test_a_limit_to_a_namespace_that_is_gone_still_shows(office: Office, mine: Organization) -> None:
    space = await namespace_of(office, mine)
    gone = new_id()
    key, _ = await office.api_keys.create(mine.caller, wish(bounds=Bounds(namespace_ids=frozenset({gone}))))
    assert key.namespaces == (show(Prefix.NAMESPACE, gone),)
    other, _ = await office.api_keys.create(
        mine.caller, wish(bounds=Bounds(namespace_ids=frozenset({gone, space["id"]})))
    )
    assert other.namespaces == (show(Prefix.NAMESPACE, gone), "production")


async def test_another_organizations_namespace_has_no_name_here(office: Office, mine: Organization) -> None:
    other = await found_organization(office.engine, keys_of=0)
    theirs = (await namespace_of(office, other))["id"]
    key, _ = await office.api_keys.create(mine.caller, wish(bounds=Bounds(namespace_ids=frozenset({theirs}))))
    assert key.namespaces == (show(Prefix.NAMESPACE, theirs),)


async def test_who_made_it_is_remembered(office: Office, mine: Organization) -> None:
    owner = await joined(office.engine, mine, Role.OWNER)
    by_person, _ = await office.api_keys.create(owner, wish())
    shown = api_key_to_proto(by_person, "psk_live_…")
    assert shown.created_by == show(Prefix.USER, owner.principal.actor_id)
    listed, _ = await office.api_keys.list(mine.id, limit=1, cursor="")
    assert api_key_to_proto(listed[0], "psk_live_…").created_by == "system"


@pytest.mark.parametrize("bounds", [{"namespace_ids": frozenset({new_id()})}, {"key_ids": frozenset({new_id()})}])
async def test_a_limited_key_has_no_role_and_only_scopes_of_keys(
    office: Office, mine: Organization, bounds: dict[str, Any]
) -> None:
    limited = Bounds(**bounds)
    for wrong, field in (
        (wish(role=Role.VIEWER, bounds=limited), "role"),
        (wish(scopes=frozenset({Scope.KEYS_SIGN, Scope.AUDIT_READ}), bounds=limited), "scopes"),
        (wish(scopes=frozenset({Scope.BILLING_READ}), bounds=limited), "scopes"),
        (wish(scopes=frozenset(), bounds=limited), "scopes"),
    ):
        with pytest.raises(errors.InvalidField) as refused:
            await office.api_keys.create(mine.caller, wrong)
        assert [fault.field for fault in refused.value.faults] == [field]
    every = frozenset(scope for scope in Scope if scope.startswith("api:keys:"))
    assert (await office.api_keys.create(mine.caller, wish(scopes=every, bounds=limited)))[0].scopes == every


async def test_nobody_hands_out_what_they_do_not_have(office: Office, mine: Organization) -> None:
    _, text = await admin(office, mine)
    maker = await office.caller(text)
    with pytest.raises(errors.ScopeMissing):
        await office.api_keys.create(maker, wish(scopes=frozenset({Scope.KEYS_WRITE})))
    with pytest.raises(errors.RoleMissing):
        await office.api_keys.create(maker, wish(role=Role.OWNER))
    await office.api_keys.create(maker, wish(role=Role.ADMIN))


def within(networks: list[str], expires_at: datetime | None) -> Any:
    return wish(bounds=Bounds(networks=networks_of(networks)), expires_at=expires_at)


async def test_a_bound_key_makes_keys_that_are_bound_as_it_is_or_more(office: Office, mine: Organization) -> None:
    ends = datetime.now(UTC) + timedelta(days=9)
    _, text = await admin(office, mine, bounds=Bounds(networks=NETWORKS), expires_at=ends)
    maker = await office.caller(text)
    await office.api_keys.create(maker, within(["203.0.113.0/24"], ends))
    await office.api_keys.create(maker, within(["203.0.113.7", "2001:db8:7::/48"], ends - timedelta(days=1)))
    for networks, expires_at, field in (
        ([], ends, "ip_allow_list"),
        (["203.0.112.0/23"], ends, "ip_allow_list"),
        (["203.0.113.0/24", "198.51.100.7"], ends, "ip_allow_list"),
        (["0.0.0.0/0"], ends, "ip_allow_list"),
        (["::/0"], ends, "ip_allow_list"),
        (["203.0.113.7"], None, "expires_at"),
        (["203.0.113.7"], ends + timedelta(seconds=1), "expires_at"),
    ):
        with pytest.raises(errors.InvalidField) as refused:
            await office.api_keys.create(maker, within(networks, expires_at))
        assert [fault.field for fault in refused.value.faults] == [field]


async def test_a_person_is_not_bound_by_the_end_of_their_token(office: Office, mine: Organization) -> None:
    owner = await joined(office.engine, mine, Role.OWNER)
    soon = replace(owner, principal=replace(owner.principal, expires_at=datetime.now(UTC) + timedelta(minutes=10)))
    key, _ = await office.api_keys.create(soon, wish())
    assert key.expires_at is None


async def test_a_right_that_was_just_taken_away_is_not_turned_into_a_key(office: Office, mine: Organization) -> None:
    key, text = await admin(office, mine)
    # What another process still remembers.
    maker, owner = await office.caller(text), await joined(office.engine, mine, Role.OWNER)
    for values, refusal in (
        ({"expires_at": datetime.now(UTC)}, errors.ApiKeyExpired),
        ({"role": Role.VIEWER.value, "expires_at": None}, errors.RoleMissing),
        ({"role": Role.ADMIN.value, "generation": 3}, errors.ApiKeyRevoked),
        ({"generation": 1, "revoked_at": datetime.now(UTC)}, errors.ApiKeyRevoked),
    ):
        await office.change(key.id, **values)
        for attempt in (
            office.api_keys.create(maker, wish()),
            office.api_keys.rotate(maker, key.id, overlap=timedelta(0)),
            office.api_keys.revoke(maker, mine.caller.principal.actor_id),
        ):
            with pytest.raises((refusal, errors.RoleMissing)):
                await attempt
    mine_of = (org_members.c.org_id == mine.id, org_members.c.user_id == owner.principal.actor_id)
    async with office.engine.begin() as connection:
        await connection.execute(update(org_members).where(*mine_of).values(role=Role.OPERATOR.value))
    with pytest.raises(errors.RoleMissing):
        await office.api_keys.create(owner, wish())
    async with office.engine.begin() as connection:
        await connection.execute(delete(org_members).where(*mine_of))
    with pytest.raises(errors.MembershipMissing):
        await office.api_keys.create(owner, wish())
    assert len((await office.api_keys.list(mine.id, limit=9, cursor=""))[0]) == 2


def test_an_allow_list_is_bounded_and_names_the_entry_that_is_wrong() -> None:
    assert networks_of(["203.0.113.7", "203.0.113.7/32"]) == (ip_network("203.0.113.7/32"),)
    assert len(networks_of([f"203.0.113.{number}" for number in range(64)])) == 64
    with pytest.raises(errors.InvalidField, match="at most 64"):
        networks_of(["203.0.113.7"] * 65)
    with pytest.raises(errors.InvalidField) as refused:
        networks_of(["203.0.113.0/24", "203.0.113.7/24"])
    assert refused.value.faults[0].field == "ip_allow_list[1]"
    assert "203.0.113.0/24" in refused.value.detail


async def test_the_message_has_a_place_for_everything_that_is_known(office: Office, mine: Organization) -> None:
    key, text = await office.api_keys.create(
        mine.caller, wish(bounds=Bounds(networks=NETWORKS, key_ids=frozenset({mine.keys[0]})))
    )
    (space,) = [(await namespace_of(office, mine))["id"]]
    await office.change(key.id, namespace_ids=[space])
    rotated, _ = await office.api_keys.rotate(mine.caller, id_of(text), overlap=timedelta(days=1))
    shown = api_key_to_proto(
        replace(rotated, expires_at=rotated.created_at, revoked_at=rotated.created_at, role=Role.ADMIN,
                last_used_at=rotated.created_at),
        "psk_live_…",
    )  # fmt: skip
    filled = {field.name for field, _ in shown.ListFields()}
    assert filled == {field.name for field in api_key_pb2.ApiKey.DESCRIPTOR.fields}


async def test_a_person_whose_session_has_ended_makes_no_key(office: Office, mine: Organization) -> None:
    owner = await joined(office.engine, mine, Role.OWNER)
    async with office.engine.begin() as connection:
        await connection.execute(
            update(sessions).where(sessions.c.id == owner.principal.session_id).values(ended_at=func.now())
        )
    with pytest.raises(errors.SessionEnded):
        await office.api_keys.create(owner, wish())


async def test_secrets_are_hashed_one_at_a_time(
    office: Office, mine: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a core and 19 MiB; the threads that do it are otherwise as many as there are calls."""
    lock, most = threading.Lock(), 0
    hashing = 0

    def counted(secret: str) -> str:
        nonlocal hashing, most
        with lock:
            hashing += 1
            most = max(most, hashing)
        hashed = hash_secret(secret)
        with lock:
            hashing -= 1
        return hashed

    monkeypatch.setattr(module, "hash_secret", counted)
    made = await asyncio.gather(*(office.api_keys.create(mine.caller, wish()) for _ in range(6)))
    await asyncio.gather(*(office.api_keys.rotate(mine.caller, key.id, overlap=timedelta(0)) for key, _ in made))
    # Nor does asking and leaving pile them up: a thread cannot be called back.
    for _ in range(10):
        call = asyncio.create_task(office.api_keys.create(mine.caller, wish()))
        await asyncio.sleep(0.002)
        call.cancel()
        await asyncio.wait((call,))
    await office.api_keys.create(mine.caller, wish())
    assert most == HASHES
