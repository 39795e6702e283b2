"""Two locks hold organizations apart: the organization in every query, and the database's policies. Each is taken away
in turn, below the server's own handlers, and the other alone still keeps everything of another's out of reach."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.ids import Prefix, show
from tests.integration.access.belongings import REASONS, Belongings, everything_of, settled
from tests.integration.access.calls import INTERNAL, RPCS, filled, naming
from tests.integration.access.test_neighbours import intrusions
from tests.integration.isolation.house import House, furnished, without_the_first_lock, without_the_second_lock

# What these reach with neither lock: that they do is what makes the other tests worth something. (Signing has a third
# lock, in the release gate; a session belongs to its person; rotating asks the vault first, which has none of these.)
REACHING = {
    "KeyService/GetKey",
    "KeyService/ListKeys",
    "KeyService/UpdateKey",
    "KeyService/DeleteKey",
    "KeyService/UndeleteKey",
    "KeyService/EnableKey",
    "KeyService/DisableKey",
    "KeyService/ListKeyVersions",
    "KeyService/CreateKey",
    "NamespaceService/DeleteNamespace",
    "ApiKeyService/RotateApiKey",
    "ApiKeyService/RevokeApiKey",
    "AuditService/GetLog",
    "AuditService/ListLogs",
    "OrganizationService/UpdateMember",
    "OrganizationService/RemoveMember",
    "OrganizationService/RevokeInvitation",
    "OrganizationService/DisconnectIdentityProvider",
    "SignService/Verify",
}


@pytest.fixture
async def house(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    async with furnished(database, tmp_path, monkeypatch) as furnished_house:
        yield furnished_house


@pytest.fixture
async def ours(engine: AsyncEngine) -> Belongings:
    return await settled(engine)


@pytest.fixture
async def theirs(engine: AsyncEngine) -> Belongings:
    return await settled(engine)


async def reached(house: House, ours: Belongings, theirs: Belongings) -> dict[str, set[str]]:
    """The RPCs that did not say that something of theirs is not there, and what they said."""
    found: dict[str, set[str]] = {}
    for rpc, kind, request in intrusions(theirs):
        reason = await house.reason(ours, rpc, request)
        if reason != REASONS[kind]:
            found.setdefault(rpc, set()).add(f"{kind}: {reason}")
    return found


# What answers without naming anything; the archive of ExportAccount holds its person's data, wherever it is.
LISTS = [rpc for rpc in RPCS if rpc not in INTERNAL and rpc.split("/")[1].startswith(("List", "Get", "Whoami"))]


async def shown(house: House, ours: Belongings, theirs: Belongings) -> set[str]:
    """The RPCs whose answer to us has something of theirs in it."""
    words = [name for names in theirs.names.values() for name in names]
    words += [theirs.slug, theirs.recipient, theirs.member.email, show(Prefix.ORGANIZATION, theirs.id)]
    found = set()
    for rpc in LISTS:
        method = RPCS[rpc]
        if not list(naming(method)) or rpc in ("KeyService/ListKeys", "AuditService/ListLogs"):
            answers = await house.answers(ours, rpc, filled(method, {}))
            if any(word in str(answers) for word in words):
                found.add(rpc)
    return found


async def test_lists_show_nothing_of_anothers_with_either_lock_alone(
    house: House, ours: Belongings, theirs: Belongings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with without_the_first_lock(house):
        assert await shown(house, ours, theirs) == set()
    with without_the_second_lock(monkeypatch):
        assert await shown(house, ours, theirs) == set()
    # The control.
    with without_the_first_lock(house, own=False), without_the_second_lock(monkeypatch):
        assert await shown(house, ours, theirs) >= {
            "ApiKeyService/ListApiKeys",
            "AuditService/ListLogs",
            "KeyService/ListKeys",
            "NamespaceService/ListNamespaces",
            "OrganizationService/ListIdentityProviders",
            "OrganizationService/ListInvitations",
            "OrganizationService/ListMembers",
        }


async def test_every_rpc_has_its_handler_here(house: House) -> None:
    assert [rpc for rpc in RPCS if not house.has(rpc)] == []


async def test_without_the_first_lock_the_second_holds(
    house: House, engine: AsyncEngine, ours: Belongings, theirs: Belongings
) -> None:
    async with engine.connect() as connection:
        before = await everything_of(connection, theirs)

    with without_the_first_lock(house) as stripped:
        assert await reached(house, ours, theirs) == {}

    assert len(stripped) > len(REACHING)
    async with engine.connect() as connection:
        assert await everything_of(connection, theirs) == before


async def test_without_the_second_lock_the_first_holds(
    house: House, engine: AsyncEngine, ours: Belongings, theirs: Belongings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine.connect() as connection:
        before = await everything_of(connection, theirs)

    with without_the_second_lock(monkeypatch):
        assert await reached(house, ours, theirs) == {}

    async with engine.connect() as connection:
        assert await everything_of(connection, theirs) == before


async def test_without_either_lock_everything_is_reached(
    house: House, engine: AsyncEngine, ours: Belongings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: it is the locks that the other tests see, and nothing else."""
    found: set[str] = set()
    for rpc in REACHING:
        # New ones for each: what was deleted or revoked would not be found twice.
        theirs = await settled(engine)
        for each, kind, request in intrusions(theirs):
            if each != rpc:
                continue
            with without_the_first_lock(house, own=False), without_the_second_lock(monkeypatch):
                if await house.reason(ours, rpc, request) != REASONS[kind]:
                    found.add(rpc)
    assert found == REACHING
