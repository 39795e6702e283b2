"""The auth interceptor: every sort of credential at every sort of RPC."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.domain.principals import SCOPES_OF, ActorKind, Bounds, Caller, Principal, Role, Scope
from popsigner_server.errors import SignerError
from popsigner_server.identity import access
from popsigner_server.identity.access import ACCESS, Need, Who
from popsigner_server.identity.people import Visit
from popsigner_server.limits.pace import Pace
from popsigner_server.transport.contract import rpcs
from popsigner_server.transport.interceptors.auth import Auth
from popsigner_server.transport.interceptors.base import Call, Rpc, compose
from popsigner_server.transport.server import Server

GATEWAY = "ab" * 32
KEY = "psk_live_x"
BOUND_KEY = "psk_live_bound"
TOKEN = "one.two.three"
SEVERAL = "of.several.organizations"
NOBODY = "of.no.organization"


class Context:
    """One call's surroundings."""

    def __init__(self, metadata: Sequence[tuple[str, str]], peer: str = "unix:") -> None:
        self._metadata = tuple(metadata)
        self._peer = peer

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._metadata

    def peer(self) -> str:
        return self._peer


def principal(*, kind: ActorKind, role: Role = Role.UNSPECIFIED, scopes: frozenset[Scope] | None = None) -> Principal:
    return Principal(
        organization_id=new_id(),
        actor_id=new_id(),
        actor_kind=kind,
        scopes=SCOPES_OF[role] if scopes is None else scopes,
        role=role,
        expires_at=datetime.now(UTC) + timedelta(days=1),
        plan="free",
        bounds=Bounds(),
    )


@dataclass(slots=True)
class Doors:
    """The credentials that this POP knows."""

    keys: dict[str, Principal] = field(default_factory=dict)
    visits: dict[str, Visit] = field(default_factory=dict)
    noted: list[Caller] = field(default_factory=list)

    async def principal(self, presented: str) -> Principal:
        try:
            return self.keys[presented]
        except KeyError as error:
            raise errors.CredentialsInvalid from error

    def note(self, caller: Caller) -> None:
        self.noted.append(caller)

    async def visit(self, presented: str) -> Visit:
        try:
            return self.visits[presented]
        except KeyError as error:
            raise errors.CredentialsInvalid from error


def visit_of(**roles: Role) -> Visit:
    principals: dict[str, Principal] = {}
    for slug, role in roles.items():
        made = principal(kind=ActorKind.USER, role=role)
        principals[slug] = principals[show(Prefix.ORGANIZATION, made.organization_id)] = made
    return Visit(
        user_id=new_id(), session_id=new_id(), email="a@b", name="Ada", provider_org=None, principals=principals
    )


@pytest.fixture
def doors() -> Doors:
    doors = Doors()
    doors.keys[KEY] = principal(kind=ActorKind.API_KEY, scopes=frozenset({Scope.KEYS_SIGN}))
    bound = principal(kind=ActorKind.API_KEY, role=Role.OWNER, scopes=frozenset())
    doors.keys[BOUND_KEY] = Principal(
        organization_id=bound.organization_id,
        actor_id=bound.actor_id,
        actor_kind=bound.actor_kind,
        scopes=bound.scopes,
        role=bound.role,
        expires_at=None,
        plan="free",
        bounds=Bounds(networks=(ip_network("192.0.2.0/24"),)),
    )
    doors.visits[TOKEN] = visit_of(mine=Role.OPERATOR)
    doors.visits[SEVERAL] = visit_of(mine=Role.OPERATOR, other=Role.OWNER)
    doors.visits[NOBODY] = visit_of()
    return doors


async def admitted(
    doors: Doors, need: Need, *metadata: tuple[str, str], peer: str = "unix:", trust_gateway: bool = False
) -> Call:
    """The call as the handler sees it. Raises what the interceptor refuses with."""
    seen: list[Call] = []

    async def handler(call: Call, request: Any) -> None:
        seen.append(call)

    rpc = Rpc(service="test", name="Rpc", streams=False)
    auth = Auth(doors, doors, gateway_secret=GATEWAY.encode(), trust_gateway=trust_gateway)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ACCESS, rpc.path, need)
        handle = compose(rpc, [auth], handler)
    await handle(Call(Context(metadata, peer)), None)  # type: ignore[arg-type]
    return seen[0]


def bearer(credential: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {credential}")


def of(organization: str) -> tuple[str, str]:
    return ("x-popsigner-organization", organization)


SIGN = Need(scope=Scope.KEYS_SIGN)
ADMIN = Need(role=Role.ADMIN)
OPERATOR = Need(role=Role.OPERATOR)
ANYONE = Need(who=Who.ANYONE)
PERSON = Need(who=Who.PERSON)
GATEWAYS = Need(who=Who.GATEWAY)


@pytest.mark.parametrize(
    ("need", "metadata", "refusal"),
    [
        (SIGN, [bearer(KEY)], None),
        (SIGN, [("x-api-key", KEY)], None),
        (SIGN, [bearer(KEY), of("another-organization")], None),
        (SIGN, [bearer(TOKEN)], None),
        (SIGN, [bearer(TOKEN), of("mine")], None),
        (SIGN, [bearer(SEVERAL), of("mine")], None),
        (OPERATOR, [bearer(TOKEN)], None),
        (ADMIN, [bearer(SEVERAL), of("other")], None),
        (ANYONE, [bearer(KEY)], None),
        (ANYONE, [bearer(TOKEN)], None),
        (ANYONE, [bearer(SEVERAL)], None),
        (ANYONE, [bearer(SEVERAL), of("other")], None),
        (ANYONE, [bearer(NOBODY)], None),
        (PERSON, [bearer(TOKEN)], None),
        (PERSON, [bearer(SEVERAL)], None),
        (PERSON, [bearer(NOBODY)], None),
        (PERSON, [bearer(NOBODY), of("whatever")], None),
        (GATEWAYS, [bearer(GATEWAY)], None),
        (GATEWAYS, [("authorization", f"bearer {GATEWAY}")], None),
        (ADMIN, [bearer(KEY)], "ROLE_MISSING"),
        (ADMIN, [bearer(TOKEN)], "ROLE_MISSING"),
        (ADMIN, [bearer(SEVERAL), of("mine")], "ROLE_MISSING"),
        (Need(scope=Scope.KEYS_WRITE), [bearer(KEY)], "SCOPE_MISSING"),
        (Need(scope=Scope.KEYS_WRITE), [bearer(TOKEN)], "SCOPE_MISSING"),
        (SIGN, [bearer(SEVERAL)], "ORGANIZATION_REQUIRED"),
        (SIGN, [bearer(SEVERAL), of("")], "ORGANIZATION_REQUIRED"),
        (SIGN, [bearer(SEVERAL), of("somebody-elses")], "MEMBERSHIP_MISSING"),
        (SIGN, [bearer(TOKEN), of("other")], "MEMBERSHIP_MISSING"),
        (SIGN, [bearer(NOBODY)], "MEMBERSHIP_MISSING"),
        (ANYONE, [bearer(TOKEN), of("other")], "MEMBERSHIP_MISSING"),
        (ANYONE, [bearer(NOBODY), of("other")], "MEMBERSHIP_MISSING"),
        (PERSON, [bearer(KEY)], "PERSON_REQUIRED"),
        (PERSON, [("x-api-key", KEY)], "PERSON_REQUIRED"),
        *((need, [], "CREDENTIALS_MISSING") for need in (SIGN, ADMIN, ANYONE, PERSON)),
        *(
            (need, [metadata], "CREDENTIALS_MISSING")
            for need in (SIGN, ANYONE, PERSON)
            for metadata in (
                ("authorization", ""),
                ("authorization", KEY),
                ("authorization", f"Basic {KEY}"),
                ("cookie", f"session={TOKEN}"),
                ("x-popsigner-organization", "mine"),
            )
        ),
        *(
            (need, [bearer(credential)], "CREDENTIALS_INVALID")
            for need in (SIGN, ADMIN, ANYONE, PERSON)
            for credential in ("", "psk_live_y", "psr_" + "0" * 64, GATEWAY, "a.b.c", "a.b", "a.b.c.d")
        ),
        *((need, [("x-api-key", TOKEN)], "CREDENTIALS_INVALID") for need in (SIGN, PERSON)),
        *(
            (GATEWAYS, metadata, "CREDENTIALS_INVALID")
            for metadata in (
                [],
                [bearer("")],
                [bearer(KEY)],
                [bearer(TOKEN)],
                [bearer(GATEWAY[:-1])],
                [bearer(GATEWAY + "0")],
                [bearer(GATEWAY.upper())],
                [("authorization", GATEWAY)],
                [("authorization", f"Basic {GATEWAY}")],
                [("x-api-key", GATEWAY)],
                [("cookie", f"authorization=Bearer {GATEWAY}")],
            )
        ),
    ],
)
async def test_who_comes_through_which_door(
    doors: Doors, need: Need, metadata: list[tuple[str, str]], refusal: str | None
) -> None:
    if refusal is None:
        await admitted(doors, need, *metadata)
        return
    with pytest.raises(SignerError) as refused:
        await admitted(doors, need, *metadata)
    assert refused.value.reason == refusal


async def test_the_handler_learns_who_calls(doors: Doors) -> None:
    call = await admitted(
        doors, SIGN, bearer(SEVERAL), of("mine"), ("x-envoy-external-address", "192.0.2.9"), ("user-agent", "x" * 300)
    )
    visit = doors.visits[SEVERAL]
    assert call.caller.principal is visit.principals["mine"]
    assert (call.caller.ip_address, len(call.caller.user_agent or "")) == ("192.0.2.9", 200)
    assert (call.person.user_id, call.person.session_id) == (visit.user_id, visit.session_id)
    assert call.person.ip_address == "192.0.2.9"


async def test_anyone_is_a_caller_only_where_the_organization_is_clear(doors: Doors) -> None:
    assert (await admitted(doors, ANYONE, bearer(TOKEN))).known_caller is not None
    for credential in (SEVERAL, NOBODY):
        call = await admitted(doors, ANYONE, bearer(credential))
        assert (call.known_caller, call.known_person is None) == (None, False)
    assert (await admitted(doors, ANYONE, bearer(KEY))).known_person is None


async def test_an_rpc_of_persons_has_no_organization(doors: Doors) -> None:
    assert (await admitted(doors, PERSON, bearer(TOKEN), of("mine"))).known_caller is None


async def test_the_gateway_is_nobodys_caller(doors: Doors) -> None:
    call = await admitted(doors, GATEWAYS, bearer(GATEWAY))
    assert (call.known_caller, call.known_person) == (None, None)


@pytest.mark.parametrize("need", [SIGN, ADMIN, ANYONE, PERSON])
@pytest.mark.parametrize("peer", ["ipv4:198.51.100.1:5000", "unix:"])
async def test_a_key_of_another_address_is_refused_before_its_scopes_are_looked_at(
    doors: Doors, need: Need, peer: str
) -> None:
    with pytest.raises(errors.AddressNotAllowed):
        await admitted(doors, need, bearer(BOUND_KEY), peer=peer)
    assert doors.noted == []


async def test_the_address_is_the_gateways_word_only_where_it_is_trusted(doors: Doors) -> None:
    told = ("x-envoy-external-address", "192.0.2.9")
    await admitted(doors, ADMIN, bearer(BOUND_KEY), told)
    await admitted(doors, ADMIN, bearer(BOUND_KEY), told, peer="ipv4:198.51.100.1:5000", trust_gateway=True)
    for forged in (told, ("x-forwarded-for", "192.0.2.9")):
        with pytest.raises(errors.AddressNotAllowed):
            await admitted(doors, ADMIN, bearer(BOUND_KEY), forged, peer="ipv4:198.51.100.1:5000")
    await admitted(doors, ADMIN, bearer(BOUND_KEY), peer="ipv4:192.0.2.1:5000")


async def test_an_address_is_told_without_its_zone(doors: Doors) -> None:
    told = await admitted(doors, SIGN, bearer(KEY), peer="ipv6:%5Bfe80::1%25eth0%5D:5000")
    assert told.caller.ip_address == "fe80::1"
    told = await admitted(doors, SIGN, bearer(KEY), ("x-envoy-external-address", "fe80::2%1"))
    assert told.caller.ip_address == "fe80::2"


async def test_the_use_of_a_key_is_noted_and_a_persons_is_not(doors: Doors) -> None:
    await admitted(doors, SIGN, bearer(KEY))
    await admitted(doors, SIGN, bearer(TOKEN))
    assert [caller.principal for caller in doors.noted] == [doors.keys[KEY]]


@pytest.mark.parametrize("need", [SIGN, ADMIN, ANYONE, PERSON, GATEWAYS])
async def test_no_refusal_repeats_a_credential(doors: Doors, need: Need) -> None:
    for credential in ("psk_live_secret", "a.secret.token", "secret"):
        with pytest.raises(SignerError) as refused:
            await admitted(doors, need, bearer(credential))
        assert "secret" not in refused.value.detail


async def test_an_rpc_without_a_row_is_refused_at_start_up(monkeypatch: pytest.MonkeyPatch, doors: Doors) -> None:
    async def never(call: Call, request: Any) -> None:
        raise AssertionError("not served")

    monkeypatch.delitem(access.ACCESS, "/popsigner.v1.SignService/Sign")
    auth = Auth(doors, doors, gateway_secret=GATEWAY.encode(), trust_gateway=False)
    with pytest.raises(KeyError, match="SignService/Sign"):
        Server(dict.fromkeys(rpcs(), never), [auth], [], Pace())
    # gRPC's server ends itself when it is collected, and needs a running loop for it.
    gc.collect()


def test_every_rpc_has_a_row_and_every_row_an_rpc() -> None:
    assert set(ACCESS) == set(rpcs())


def test_the_rows_of_the_gateway_are_the_internal_service() -> None:
    internal = {path for path in rpcs() if path.startswith("/popsigner.internal.")}
    assert {path for path, need in ACCESS.items() if need.who is Who.GATEWAY} == internal


def test_every_row_of_members_has_a_scope_or_a_role() -> None:
    for path, need in ACCESS.items():
        assert (need.who is Who.MEMBER) == (need.scope is not None or need.role is not None), path
