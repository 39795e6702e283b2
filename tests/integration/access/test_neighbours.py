"""Another organization's things, of every kind and by every name, in every field of the contract that can name one:
they are not found, whoever asks, and nothing happens to them."""

import asyncio
import io
import zipfile
from collections.abc import Iterator

import aiohttp
import grpc
import pytest
from google.protobuf.message import Message
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.ids import Prefix, parse, show
from popsigner_server.domain.principals import Role
from popsigner_server.gen.popsigner.v1 import auth_pb2, auth_pb2_grpc, organization_pb2
from tests.integration.access.belongings import INVITED, REASONS, Belongings, everything_of, settled
from tests.integration.access.calls import INTERNAL, RPCS, aimed, harmless, kind_of, naming, texts
from tests.integration.access.credentials import bearer, new_api_key
from tests.integration.access.expected import NEEDS, SCOPES
from tests.integration.access.wires import Metadata, Outcome, by_grpc, by_json, routes
from tests.support.people import Session, begin_session, new_person
from tests.support.pop import Pop


def intrusions(theirs: Belongings) -> Iterator[tuple[str, str, Message]]:
    """For each RPC, and each field of it that names something, requests that name what is theirs; and the kind."""
    for rpc, method in RPCS.items():
        if rpc not in INTERNAL:
            for path, kind in naming(method):
                for name in theirs.names[kind]:
                    yield rpc, kind, aimed(rpc, path, name)


def test_every_field_of_text_is_known_to_name_something_or_nothing() -> None:
    for rpc, method in RPCS.items():
        if rpc not in INTERNAL:
            for path in texts(method.input_type):
                kind_of(path[-1])


def test_every_kind_has_a_name_and_a_reason(ours: Belongings) -> None:
    kinds = {kind for rpc, method in RPCS.items() if rpc not in INTERNAL for _, kind in naming(method)}

    assert kinds == REASONS.keys() == ours.names.keys()


@pytest.fixture(scope="module")
async def ours(engine: AsyncEngine) -> Belongings:
    return await settled(engine)


@pytest.fixture(scope="module")
async def theirs(engine: AsyncEngine) -> Belongings:
    return await settled(engine)


@pytest.fixture(scope="module")
async def program(engine: AsyncEngine, ours: Belongings) -> Metadata:
    """Our API key that may everything."""
    async with engine.begin() as connection:
        return bearer(await new_api_key(connection, ours.id, role=4, scopes=list(SCOPES)))


@pytest.fixture(scope="module")
async def owner(pop: Pop, ours: Belongings) -> Metadata:
    """Our owner, a person."""
    return (await begin_session(pop, ours.member)).metadata


async def attempts(
    pop: Pop,
    channel: grpc.aio.Channel,
    http: aiohttp.ClientSession,
    theirs: Belongings,
    metadata: Metadata,
    *,
    person: bool,
) -> list[str]:
    """Try everything; returns what was not refused as something that is not there."""
    wrongs, calls = [], []
    for rpc, kind, request in intrusions(theirs):
        if NEEDS[rpc] == "person" and not person:
            continue
        calls.append((rpc, kind, request, by_grpc(channel, rpc, request, metadata)))
        calls += [
            (rpc, kind, request, by_json(http, pop.http, route, request, metadata))
            for route in routes()
            # A namespace's name may stand in a path, and so may namespace/name, with its slash encoded.
            if route.rpc == rpc
        ]
    for (rpc, kind, request, _), outcome in zip(
        calls, await asyncio.gather(*(call for *_, call in calls)), strict=True
    ):
        if not not_found(outcome, REASONS[kind]):
            wrongs.append(f"{rpc} {request!s:.120} -> {outcome}")
    assert len(calls) > len(RPCS)
    return wrongs


def not_found(outcome: Outcome, reason: str) -> bool:
    """The call, or its one item, was refused so."""
    if outcome.code == "OK":
        return f"reason: {reason}" in outcome.answer or f'"{reason}"' in outcome.answer
    return (outcome.code, outcome.reason) == ("NOT_FOUND", reason)


async def test_a_program_finds_nothing_of_anothers(
    pop: Pop,
    channel: grpc.aio.Channel,
    http: aiohttp.ClientSession,
    engine: AsyncEngine,
    ours: Belongings,
    theirs: Belongings,
    program: Metadata,
) -> None:
    async with engine.connect() as connection:
        before = await everything_of(connection, theirs), await everything_of(connection, ours)

    wrongs = await attempts(pop, channel, http, theirs, program, person=False)
    assert not wrongs, "\n".join(wrongs)

    async with engine.connect() as connection:
        assert await everything_of(connection, theirs) == before[0]
        # Nor did we get a row by it.
        assert steady(await everything_of(connection, ours)) == steady(before[1])


async def test_a_person_finds_nothing_of_anothers(
    pop: Pop,
    channel: grpc.aio.Channel,
    http: aiohttp.ClientSession,
    engine: AsyncEngine,
    ours: Belongings,
    theirs: Belongings,
    owner: Metadata,
) -> None:
    async with engine.connect() as connection:
        before = await everything_of(connection, theirs), await everything_of(connection, ours)

    wrongs = await attempts(pop, channel, http, theirs, owner, person=True)
    assert not wrongs, "\n".join(wrongs)

    async with engine.connect() as connection:
        assert await everything_of(connection, theirs) == before[0]
        assert steady(await everything_of(connection, ours)) == steady(before[1])


def steady(rows: list[tuple[str, RowMapping]]) -> list[tuple[str, RowMapping]]:
    """Without what is written down about the use of a credential."""
    return [
        (table, row)
        for table, row in rows
        if table not in ("ledger_heads", "api_keys", "sessions") and not str(row.get("event")).startswith("auth.")
    ]


async def test_a_person_is_nobody_in_an_organization_that_they_do_not_belong_to(
    channel: grpc.aio.Channel, theirs: Belongings, owner: Metadata
) -> None:
    for name in (show(Prefix.ORGANIZATION, theirs.id), theirs.slug):
        for rpc, needs in NEEDS.items():
            if needs.startswith(("scope", "role")):
                outcome = await by_grpc(channel, rpc, harmless(rpc), (*owner, ("x-popsigner-organization", name)))
                assert (outcome.code, outcome.reason) == ("PERMISSION_DENIED", "MEMBERSHIP_MISSING"), rpc


async def test_an_organizations_own_provider_vouches_for_nobody_elsewhere(
    pop: Pop, channel: grpc.aio.Channel, engine: AsyncEngine, ours: Belongings, theirs: Belongings
) -> None:
    """Whoever runs an issuer makes it say any address: here the one that they have invited, and made a member."""
    provider_id = parse(Prefix.IDENTITY_PROVIDER, ours.names["identity provider"][0])
    everywhere = {ours.id: Role.OWNER, theirs.id: Role.OWNER}
    impostor = await new_person(engine, memberships=everywhere, provider_id=provider_id, email=INVITED)
    session = await begin_session(pop, impostor)
    async with engine.connect() as connection:
        before = await everything_of(connection, theirs)

    told = await by_grpc(channel, "AuthService/Whoami", harmless("AuthService/Whoami"), session.metadata)
    assert ours.slug in told.answer
    assert theirs.slug not in told.answer
    for rpc in ("OrganizationService/GetOrganization", "OrganizationService/ListMembers", "KeyService/ListKeys"):
        elsewhere = (*session.metadata, ("x-popsigner-organization", theirs.slug))
        outcome = await by_grpc(channel, rpc, harmless(rpc), elsewhere)
        assert (outcome.code, outcome.reason) == ("PERMISSION_DENIED", "MEMBERSHIP_MISSING")
    (token,) = theirs.names["invitation's token"]
    accept = organization_pb2.AcceptInvitationRequest(token=token)
    outcome = await by_grpc(channel, "OrganizationService/AcceptInvitation", accept, session.metadata)
    assert outcome.reason == "INVITATION_NOT_FOUND"
    archive = await exported(channel, session)
    assert ours.names["invitation"][0] in archive["invitations.json"]
    assert theirs.names["invitation"][0] not in archive["invitations.json"]
    # And the end of such an account is no end of what waits elsewhere for the owner of the address.
    request = auth_pb2.DeleteAccountRequest(email=INVITED)
    outcome = await by_grpc(channel, "AuthService/DeleteAccount", request, session.metadata)
    assert outcome.code == "OK", outcome
    async with engine.connect() as connection:
        kept = [(table, row) for table, row in await everything_of(connection, theirs) if table == "invitations"]
    assert kept == [(table, row) for table, row in before if table == "invitations"]


async def exported(channel: grpc.aio.Channel, session: Session) -> dict[str, str]:
    """The files of a person's archive."""
    call = auth_pb2_grpc.AuthServiceStub(channel).ExportAccount(
        auth_pb2.ExportAccountRequest(), metadata=session.metadata, timeout=30
    )
    archive = zipfile.ZipFile(io.BytesIO(b"".join([piece.chunk async for piece in call])))
    return {name: archive.read(name).decode() for name in archive.namelist()}
