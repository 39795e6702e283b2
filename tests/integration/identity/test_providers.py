"""Identity providers: connected, offered, disconnected; their secrets sealed, their people's sessions ended."""

import asyncio
import secrets
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.principals import Role
from popsigner_server.identity.issuers import Kind
from popsigner_server.identity.providers import own_providers, remove_provider
from popsigner_server.identity.sealing import Sealing
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import api_keys, identity_providers, organizations, sessions
from tests.integration.identity.house import CLIENT_SECRET, HERE, House, wanted
from tests.support.postgres import PostgresServer


async def test_a_connected_provider_is_listed_and_told_of(house: House) -> None:
    organization = await house.organization()
    made = await house.reception.providers.connect(organization.caller, wanted("https://id.example", name="Staff"))
    assert await house.reception.providers.list(organization.id) == [made]
    provider, secret = await house.reception.providers.get(made.id)
    assert (provider, secret) == (made, CLIENT_SECRET)
    (row,) = await house.events(organization, "identity_provider.connected")
    assert (row.resource_type, row.resource_id) == ("identity_provider", made.id)
    assert row.metadata == {"kind": "oidc", "issuer": "https://id.example", "client_id": "popsigner"}


async def test_a_client_secret_is_sealed_and_stands_in_no_table(house: House) -> None:
    made = await house.provider_of(await house.organization())
    async with house.engine.begin() as connection:
        stored = await connection.scalar(
            select(identity_providers.c.client_secret).where(identity_providers.c.id == made.id)
        )
    everything = await house.everything()
    assert CLIENT_SECRET not in everything
    assert CLIENT_SECRET.encode().hex() not in everything
    assert stored is not None
    assert house.sealing.open(stored, table="identity_providers", row=made.id) == CLIENT_SECRET.encode()


async def test_a_secret_that_somebody_moved_to_another_provider_does_not_open(house: House) -> None:
    organization = await house.organization()
    mine, theirs = await house.provider_of(organization), await house.provider_of(await house.organization())
    async with house.engine.begin() as connection:
        stored = select(identity_providers.c.client_secret).where(identity_providers.c.id == theirs.id)
        await connection.execute(
            update(identity_providers)
            .where(identity_providers.c.id == mine.id)
            .values(client_secret=stored.scalar_subquery())
        )
    with pytest.raises(errors.IdentityProviderNotFound, match="sealed with another key"):
        await house.reception.providers.get(mine.id)


async def test_a_secret_under_another_sealing_key_is_asked_for_again(house: House) -> None:
    made = await house.provider_of(await house.organization())
    moved = House.over(house.engine, sealing=Sealing(secrets.token_bytes(32)))
    with pytest.raises(errors.IdentityProviderNotFound, match="connect it again"):
        await moved.reception.providers.get(made.id)


async def test_a_public_client_has_no_secret(house: House) -> None:
    organization = await house.organization()
    public = replace(wanted("https://public.example"), client_secret="")
    made = await house.reception.providers.connect(organization.caller, public)
    assert await house.reception.providers.get(made.id) == (made, "")


async def test_an_issuer_is_connected_once_to_an_organization_however_many_ask_at_once(house: House) -> None:
    organization, other = await house.organization(), await house.organization()
    ends = await asyncio.gather(
        *(house.provider_of(organization, issuer="https://once.example") for _ in range(6)), return_exceptions=True
    )
    assert sum(isinstance(end, errors.IdentityProviderExists) for end in ends) == 5
    await house.provider_of(other, issuer="https://once.example")
    await house.reception.providers.connect(organization.caller, wanted("https://once.example", kind=Kind.GITHUB))


async def test_a_right_that_was_just_taken_away_connects_nothing(house: House) -> None:
    organization = await house.organization()
    async with house.engine.begin() as connection:
        await connection.execute(
            update(api_keys).where(api_keys.c.org_id == organization.id).values(role=Role.ADMIN.value)
        )
    with pytest.raises(errors.RoleMissing):
        await house.provider_of(organization)
    with pytest.raises(errors.RoleMissing):
        await house.reception.providers.disconnect(organization.caller, new_id())


async def test_disconnecting_ends_the_sessions_of_its_people_and_lets_nobody_in(house: House) -> None:
    organization = await house.organization()
    provider = await house.provider_of(organization)
    await house.invite(organization, "a@example.org")
    issued = await house.log_in(provider, "a@example.org")
    await house.join(issued.user_id, organization)
    _, other = await house.member(organization)
    await house.reception.providers.disconnect(organization.caller, provider.id)
    with pytest.raises(errors.SessionEnded):
        await house.reception.sessions.refresh(issued.refresh_token, HERE)
    with pytest.raises(errors.SessionEnded):
        await house.reception.visitors.visit(issued.access_token)
    with pytest.raises(errors.IdentityProviderNotFound):
        await house.log_in(provider, "a@example.org")
    assert (await house.reception.visitors.visit(other.access_token)).user_id == other.user_id
    assert await house.reception.providers.list(organization.id) == []
    (row,) = await house.events(organization, "identity_provider.disconnected")
    assert row.metadata["sessions_ended"] == "1"
    async with house.engine.begin() as connection:
        assert (
            await connection.scalar(
                select(identity_providers.c.client_secret).where(identity_providers.c.id == provider.id)
            )
        ) is None


async def test_log_ins_that_race_a_disconnection_leave_no_session_behind(house: House) -> None:
    organization = await house.organization()
    provider = await house.provider_of(organization)
    await house.invite(organization, "race@example.org")
    first = await house.log_in(provider, "race@example.org")
    await asyncio.gather(
        *(house.log_in(provider, "race@example.org") for _ in range(8)),
        house.reception.providers.disconnect(organization.caller, provider.id),
        *(house.log_in(provider, "race@example.org") for _ in range(8)),
        return_exceptions=True,
    )
    assert await house.count(sessions, sessions.c.user_id == first.user_id, sessions.c.ended_at.is_(None)) == 0


async def test_the_same_issuer_connected_again_brings_the_same_people_back(house: House) -> None:
    organization = await house.organization()
    provider = await house.provider_of(organization, issuer="https://again.example")
    await house.invite(organization, "back@example.org")
    before = await house.log_in(provider, "back@example.org")
    await house.reception.providers.disconnect(organization.caller, provider.id)
    again = await house.provider_of(organization, issuer="https://again.example")
    assert again.id == provider.id
    after = await house.log_in(again, "back@example.org")
    assert after.user_id == before.user_id
    with pytest.raises(errors.SessionEnded):
        await house.reception.sessions.refresh(before.refresh_token, HERE)


async def test_an_organization_disconnects_neither_anothers_provider_nor_the_pops(house: House) -> None:
    organization = await house.organization()
    for provider in (await house.provider_of(await house.organization()), await house.own_provider()):
        with pytest.raises(errors.IdentityProviderNotFound):
            await house.reception.providers.disconnect(organization.caller, provider.id)
        assert (await house.reception.providers.get(provider.id))[0] == provider


async def test_the_pops_own_come_first_then_those_of_the_named_organization(house: House) -> None:
    organization = await house.organization()
    theirs = [await house.provider_of(organization), await house.provider_of(organization)]
    await house.provider_of(await house.organization())
    own = await own_providers(house.database)
    own.append(await house.own_provider())
    async with house.engine.begin() as connection:
        slug = await connection.scalar(select(organizations.c.slug).where(organizations.c.id == organization.id))
    assert await house.reception.providers.offered(str(slug)) == [*own, *theirs]
    assert await house.reception.providers.offered("") == own
    assert await house.reception.providers.offered("no-such-organization") == own


async def test_the_providers_of_the_only_organization_are_offered_without_a_name(
    house: House, postgres: PostgresServer
) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    from popsigner_server.storage.migrate import migrate

    url = postgres.fresh_database()
    await asyncio.to_thread(migrate, url)
    engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    alone = House.over(engine)
    provider = await alone.provider_of(await alone.organization())
    assert await alone.reception.providers.offered("") == [provider]
    await alone.organization()
    assert await alone.reception.providers.offered("") == []
    await engine.dispose()


async def test_the_operator_takes_one_of_the_pops_own_away(house: House) -> None:
    organization = await house.organization()
    provider, issued = await house.member(organization)
    theirs = await house.provider_of(organization)
    with pytest.raises(errors.IdentityProviderNotFound):
        await remove_provider(Database(house.engine), theirs.id)
    assert await remove_provider(Database(house.engine), provider.id) == 1
    with pytest.raises(errors.SessionEnded):
        await house.reception.visitors.visit(issued.access_token)
    assert provider not in await own_providers(house.database)
    assert show(Prefix.IDENTITY_PROVIDER, provider.id).startswith("idp_")
