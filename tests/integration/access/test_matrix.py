"""The access matrix: every RPC of the descriptors, over gRPC and over each of its JSON routes, with every credential.
What should happen is computed from the test's own table (expected.py)."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import aiohttp
import grpc
import pytest
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.ids import Prefix, parse, show
from popsigner_server.domain.principals import Role
from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.identity.access import ACCESS
from tests.integration.access.calls import INTERNAL, RPCS, harmless
from tests.integration.access.conftest import Organizations
from tests.integration.access.credentials import (
    Credential,
    api_key_credentials,
    astray_credentials,
    forged_tokens,
    new_api_key,
    session_credential,
    tokens_of_our_own,
    wrong_credentials,
)
from tests.integration.access.expected import NEEDS, OF_THE_REQUEST, ROLES
from tests.integration.access.wires import Outcome, Route, by_grpc, by_json, routes
from tests.support.people import begin_session, gateway_metadata, new_person
from tests.support.pop import Pop

Work = Callable[[], Awaitable[None]]
# Calls at once.
WIDTH = 24
# Ends its callers' sessions, so each call of it is by somebody whom no other call needs.
ENDS_SESSIONS = "AuthService/RevokeAllSessions"
JUDGED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
# What no call may end with, whoever calls: it would say nothing about access.
BROKEN = {"UNIMPLEMENTED", "INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"}


def test_every_rpc_has_its_row_in_the_tests_table_and_in_the_servers() -> None:
    assert NEEDS.keys() == RPCS.keys()
    assert {path.removeprefix("/").partition(".v1.")[2] for path in ACCESS} == RPCS.keys()


def test_every_unary_rpc_of_the_public_contract_has_a_route_and_no_other_has() -> None:
    routed = {route.rpc for route in routes()}
    assert routed == {rpc for rpc, method in RPCS.items() if rpc not in INTERNAL and not method.client_streaming}


@pytest.fixture(scope="module")
async def api_keys(engine: AsyncEngine, organizations: Organizations, pop: Pop) -> list[Credential]:
    async with engine.begin() as connection:
        made = await api_key_credentials(connection, organizations.ours)
        text = await new_api_key(connection, organizations.ours, role=4)
    return [*made, *wrong_credentials(text, gateway_metadata(pop))]


@pytest.fixture(scope="module")
async def people(engine: AsyncEngine, organizations: Organizations, pop: Pop) -> list[Credential]:
    """Somebody of each role, somebody who belongs nowhere, and those whose session is over or was never one."""
    made = []
    for number, role in enumerate(ROLES[1:], start=1):
        person = await new_person(engine, memberships={organizations.ours: Role(number)})
        made.append(session_credential(role, await begin_session(pop, person)))
    # In the first organization an owner, in ours a viewer: what is asked for decides which of the two counts.
    first = parse(Prefix.ORGANIZATION, pop.organization)
    several = await new_person(engine, memberships={first: Role.OWNER, organizations.ours: Role.VIEWER})
    session = await begin_session(pop, several)
    made.append(session_credential("VIEWER", session, named=show(Prefix.ORGANIZATION, organizations.ours)))
    nobody = await begin_session(pop, await new_person(engine))
    made += astray_credentials(nobody, session, show(Prefix.ORGANIZATION, organizations.theirs))
    owners = await begin_session(pop, person)
    async with engine.connect() as connection:
        made += await tokens_of_our_own(pop, connection, owners)
    return [*made, *forged_tokens(owners)]


def as_expected(rpc: str, expected: str, outcome: Outcome) -> bool:
    """expected: the reason of a refusal, or empty for a caller that is let through, to whatever end."""
    if outcome.code in BROKEN:
        return False
    if not expected:
        return outcome.code not in JUDGED or outcome.reason in OF_THE_REQUEST.get(rpc, set())
    return outcome.reason == expected and (outcome.code in JUDGED or expected == "ORGANIZATION_REQUIRED")


async def all_of(calls: Sequence[Work]) -> None:
    places = asyncio.Semaphore(WIDTH)

    async def one(call: Work) -> None:
        async with places:
            await call()

    await asyncio.gather(*map(one, calls))


class Matrix:
    """Calls everything with some credentials, and notes what was not as it should be."""

    def __init__(self, pop: Pop, channel: grpc.aio.Channel, http: aiohttp.ClientSession) -> None:
        self._pop, self._channel, self._http = pop, channel, http
        # Requests that are refused as their caller would be, unless they are good ones.
        self.genuine: dict[str, Message] = {}
        self.calls: Counter[str] = Counter()
        self.wrongs: list[str] = []

    async def run(self, credentials: Sequence[Credential], rpcs: Sequence[str]) -> None:
        over_grpc = [self.over_grpc(rpc, credential) for rpc in rpcs for credential in credentials]
        over_json = [
            self.over_json(route, credential) for route in routes() if route.rpc in rpcs for credential in credentials
        ]
        await all_of([*over_grpc, *over_json])

    def over_grpc(self, rpc: str, credential: Credential) -> Work:
        request = self.genuine.get(rpc) or harmless(rpc)
        ask = partial(by_grpc, self._channel, rpc, request, credential.metadata)
        return partial(self._judge, rpc, credential, ask, "gRPC")

    def over_json(self, route: Route, credential: Credential) -> Work:
        ask = partial(by_json, self._http, self._pop.http, route, harmless(route.rpc), credential.metadata)
        return partial(self._judge, route.rpc, credential, ask, f"{route.verb} {route.template}")

    async def _judge(self, rpc: str, credential: Credential, ask: Callable[[], Awaitable[Outcome]], wire: str) -> None:
        expected, outcome = credential.verdict(rpc), await ask()
        self.calls["gRPC" if wire == "gRPC" else "JSON"] += 1
        if not as_expected(rpc, expected, outcome):
            self.wrongs.append(
                f"{wire} {rpc} by {credential.name}: {expected or 'let through'} != {outcome.code} {outcome.reason}"
            )

    def assert_right(self) -> None:
        assert not self.wrongs, "\n".join([f"{len(self.wrongs)} of {self.calls}", *self.wrongs[:40]])


@pytest.fixture
def matrix(pop: Pop, channel: grpc.aio.Channel, http: aiohttp.ClientSession) -> Matrix:
    return Matrix(pop, channel, http)


async def test_api_keys_and_what_is_none_open_just_what_is_theirs(
    matrix: Matrix, api_keys: list[Credential], pop: Pop, engine: AsyncEngine
) -> None:
    somebody = await begin_session(pop, await new_person(engine))
    token, access = somebody.refresh_token, somebody.access_token
    matrix.genuine = {
        "LoginService/RefreshSession": login_pb2.RefreshSessionRequest(refresh_token=token),
        "LoginService/DecideDevice": login_pb2.DecideDeviceRequest(user_code="BCDF-GHJK", access_token=access),
    }
    await matrix.run(api_keys, list(RPCS))

    matrix.assert_right()
    assert matrix.calls["gRPC"] == len(api_keys) * len(RPCS)


async def test_people_open_just_what_is_theirs(
    matrix: Matrix, people: list[Credential], pop: Pop, engine: AsyncEngine, organizations: Organizations
) -> None:
    await matrix.run(people, [rpc for rpc in RPCS if rpc != ENDS_SESSIONS])
    for number, role in enumerate(ROLES[1:], start=1):
        person = await new_person(engine, memberships={organizations.ours: Role(number)})
        ways = [partial(matrix.over_grpc, ENDS_SESSIONS)]
        ways += [partial(matrix.over_json, route) for route in routes() if route.rpc == ENDS_SESSIONS]
        for way in ways:
            credential = session_credential(role, await begin_session(pop, person))
            await way(credential)()
            # And they have ended: the same token opens nothing more.
            ended = Credential(name="an ended session", metadata=credential.metadata, refusal="SESSION_ENDED")
            await matrix.run([ended], [rpc for rpc in RPCS if rpc not in INTERNAL])

    matrix.assert_right()


async def test_the_gateways_rpcs_are_not_there_from_outside(pop: Pop) -> None:
    """Not with the gateway's own secret either."""
    async with grpc.aio.insecure_channel(pop.http.removeprefix("http://")) as public:
        for rpc in sorted(INTERNAL):
            for metadata in ((), gateway_metadata(pop)):
                outcome = await by_grpc(public, rpc, harmless(rpc), metadata)
                assert (outcome.code, outcome.reason) == ("UNIMPLEMENTED", "METHOD_UNKNOWN"), rpc


async def test_reflection_tells_nothing_of_the_gateways_rpcs(channel: grpc.aio.Channel) -> None:
    ask = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="popsigner.internal.v1.LoginService"),
    ]
    listed, file = [answer async for answer in ask(iter(questions))]

    assert [each.name for each in listed.list_services_response.service if "internal" in each.name] == []
    assert file.HasField("error_response")
