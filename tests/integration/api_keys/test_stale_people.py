"""People whose role was just lowered, while the process that serves them still remembers the higher one: no API key
that they make or rotate carries a right that they no longer have, for it would outlive that right."""

from datetime import timedelta

import pytest

from popsigner_server import errors
from popsigner_server.domain.principals import SCOPES_OF, Caller, Role, Scope
from popsigner_server.storage.engine import Database
from popsigner_server.tenancy.members import Members
from tests.integration.api_keys.conftest import Office, wish
from tests.support.organizations import Organization, joined

OWNERS = SCOPES_OF[Role.OWNER] - SCOPES_OF[Role.ADMIN]


async def stepped_down(office: Office, mine: Organization) -> Caller:
    """An owner of a moment ago, who is an administrator now."""
    owner = await joined(office.engine, mine, Role.OWNER)
    await joined(office.engine, mine, Role.OWNER)
    members = Members(Database(office.engine), office.ledger)
    await members.update(mine.caller, owner.principal.actor_id, role=Role.ADMIN)
    return owner


def test_there_is_something_to_lose() -> None:
    assert Scope.BILLING_WRITE in OWNERS


@pytest.mark.parametrize(
    ("scopes", "role", "refusal"),
    [
        (OWNERS, Role.UNSPECIFIED, errors.ScopeMissing),
        (frozenset(Scope), Role.ADMIN, errors.ScopeMissing),
        (frozenset[Scope](), Role.OWNER, errors.RoleMissing),
    ],
)
async def test_who_was_an_owner_makes_no_key_with_an_owners_rights(
    office: Office, mine: Organization, scopes: frozenset[Scope], role: Role, refusal: type[errors.SignerError]
) -> None:
    stale = await stepped_down(office, mine)
    with pytest.raises(refusal):
        await office.api_keys.create(stale, wish(scopes=scopes, role=role))
    assert await office.rows(mine, "api_key.created") == []


async def test_who_was_an_owner_does_not_rotate_a_key_with_an_owners_scope_into_their_hands(
    office: Office, mine: Organization
) -> None:
    key, text = await office.api_keys.create(mine.caller, wish(scopes=OWNERS))
    stale = await stepped_down(office, mine)
    with pytest.raises(errors.ScopeMissing):
        await office.api_keys.rotate(stale, key.id, overlap=timedelta())
    assert await office.rows(mine, "api_key.rotated") == []
    assert (await office.row(key.id))["generation"] == 1
    assert (await office.verifier.principal(text)).scopes == OWNERS


async def test_what_they_still_have_they_still_give(office: Office, mine: Organization) -> None:
    stale = await stepped_down(office, mine)
    key, _ = await office.api_keys.create(stale, wish(scopes=SCOPES_OF[Role.ADMIN], role=Role.ADMIN))
    await office.api_keys.rotate(stale, key.id, overlap=timedelta())
    (told,) = await office.rows(mine, "api_key.rotated")
    assert told.actor_id == stale.principal.actor_id
