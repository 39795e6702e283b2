"""The RPCs of log-ins, sessions and identity providers, through the server's own interceptors."""

import gc
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.principals import Role
from tests.integration.identity.house import GATEWAY_SECRET, House, ask, organization_id, served
from tests.integration.server.test_transport import reason_of
from tests.support.organizations import Organization

LOGIN = "/popsigner.internal.v1.LoginService"
AUTH = "/popsigner.v1.AuthService"
ORGANIZATION = "/popsigner.v1.OrganizationService"


@pytest.fixture
async def channel(house: House, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with served(house, f"unix:{tmp_path}/server.sock") as opened:
        yield opened
    # gRPC's server ends itself once more when it is collected, and needs a running loop for it.
    gc.collect()


async def refusal(*asked: Any, **fields: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(*asked, **fields)
    return reason_of(refused.value)[1]


async def log_in(channel: grpc.aio.Channel, provider_id: str, email: str) -> Any:
    answer = await ask(
        channel,
        f"{LOGIN}/CompleteLogin",
        GATEWAY_SECRET,
        provider_id=provider_id,
        login_id=secrets.token_urlsafe(24),
        subject=email,
        email=email,
        email_verified=True,
        name="Ada",
        origin={"ip_address": "192.0.2.7", "user_agent": "a browser"},
    )
    return answer.tokens


async def test_a_session_from_the_log_in_to_the_logging_out(house: House, channel: grpc.aio.Channel) -> None:
    organization = await house.organization()
    await house.invite(organization, "ada@example.org")
    provider = await house.own_provider()
    tokens = await log_in(channel, show(Prefix.IDENTITY_PROVIDER, provider.id), "ada@example.org")
    assert 595 <= tokens.expires_in <= 600
    who = await ask(channel, f"{AUTH}/Whoami", tokens.access_token)
    assert (who.id, who.email, who.name, who.session_id) == (
        tokens.user_id,
        "ada@example.org",
        "Ada",
        tokens.session_id,
    )
    renewed = await ask(channel, f"{LOGIN}/RefreshSession", GATEWAY_SECRET, refresh_token=tokens.refresh_token)
    (session,) = (await ask(channel, f"{AUTH}/ListSessions", renewed.tokens.access_token)).sessions
    assert (session.id, session.current) == (tokens.session_id, True)
    await ask(channel, f"{LOGIN}/EndSession", GATEWAY_SECRET, refresh_token=renewed.tokens.refresh_token)
    house.reception.visitors.forget_all()
    assert await refusal(channel, f"{AUTH}/Whoami", renewed.tokens.access_token) == "SESSION_ENDED"


async def test_a_reused_refresh_token_is_named_so(house: House, channel: grpc.aio.Channel) -> None:
    _, issued = await house.member(await house.organization())
    refresh = f"{LOGIN}/RefreshSession"
    await ask(channel, refresh, GATEWAY_SECRET, refresh_token=issued.refresh_token)
    again = await refusal(channel, refresh, GATEWAY_SECRET, refresh_token=issued.refresh_token)
    assert again == "REFRESH_TOKEN_REUSED"
    assert await refusal(channel, refresh, GATEWAY_SECRET, refresh_token="psr_x") == "CREDENTIALS_INVALID"


async def test_whoami_tells_the_organization_only_where_it_is_clear(house: House, channel: grpc.aio.Channel) -> None:
    one, two = await house.organization(), await house.organization()
    _, issued = await house.member(one, Role.ADMIN)
    who = await ask(channel, f"{AUTH}/Whoami", issued.access_token)
    assert (who.organization.id, who.role) == (organization_id(one), Role.ADMIN)
    assert "api:keys:write" in who.scopes
    await house.join(issued.user_id, two, Role.VIEWER)
    house.reception.visitors.forget_all()
    who = await ask(channel, f"{AUTH}/Whoami", issued.access_token)
    assert (who.HasField("organization"), who.role, list(who.scopes)) == (False, 0, [])
    assert [(m.organization.id, m.role) for m in who.memberships] == [
        (organization_id(one), Role.ADMIN),
        (organization_id(two), Role.VIEWER),
    ]
    named = (("x-popsigner-organization", organization_id(two)),)
    who = await ask(channel, f"{AUTH}/Whoami", issued.access_token, named)
    assert (who.organization.id, who.role) == (organization_id(two), Role.VIEWER)


async def test_another_organization_is_refused_as_one_that_is_not_there(
    house: House, channel: grpc.aio.Channel
) -> None:
    _, issued = await house.member(await house.organization())
    theirs = await house.organization()
    for named in (organization_id(theirs), theirs.id.hex, "no-such-organization"):
        metadata = (("x-popsigner-organization", named),)
        assert await refusal(channel, f"{AUTH}/Whoami", issued.access_token, metadata) == "MEMBERSHIP_MISSING"
        listed = f"{ORGANIZATION}/ListIdentityProviders"
        assert await refusal(channel, listed, issued.access_token, metadata) == "MEMBERSHIP_MISSING"


async def test_people_end_their_own_sessions(house: House, channel: grpc.aio.Channel) -> None:
    organization = await house.organization()
    provider, mine = await house.member(organization)
    email = (await house.reception.visitors.visit(mine.access_token)).email
    other = await house.log_in(provider, email)
    _, theirs = await house.member(organization)
    revoke = f"{AUTH}/RevokeSession"
    foreign = show(Prefix.SESSION, theirs.session_id)
    assert await refusal(channel, revoke, mine.access_token, session_id=foreign) == "SESSION_NOT_FOUND"
    assert await refusal(channel, revoke, mine.access_token, session_id="sess_x") == "SESSION_NOT_FOUND"
    await ask(channel, revoke, mine.access_token, session_id=show(Prefix.SESSION, other.session_id))
    answer = await ask(channel, f"{AUTH}/RevokeAllSessions", mine.access_token)
    assert answer.ended == 1
    house.reception.visitors.forget_all()
    assert await refusal(channel, f"{AUTH}/ListSessions", mine.access_token) == "SESSION_ENDED"


async def owner_of(house: House, organization: Organization) -> str:
    return (await house.member(organization, Role.OWNER))[1].access_token


async def test_an_owner_connects_lists_and_disconnects_a_provider(house: House, channel: grpc.aio.Channel) -> None:
    organization = await house.organization()
    owner = await owner_of(house, organization)
    connect = f"{ORGANIZATION}/ConnectIdentityProvider"
    wish = {"issuer": "https://id.example", "client_id": "popsigner", "client_secret": "kept-secret"}
    made = (await ask(channel, connect, owner, **wish)).identity_provider
    assert (made.name, made.kind, made.issuer) == ("id.example", 3, "https://id.example")
    assert await refusal(channel, connect, owner, **wish) == "IDENTITY_PROVIDER_EXISTS"
    assert await refusal(channel, connect, owner, **(wish | {"issuer": "http://id.example"})) == "INVALID_FIELD"
    assert await refusal(channel, connect, owner, **(wish | {"kind": 9})) == "INVALID_FIELD"
    admin = (await house.member(organization, Role.ADMIN))[1].access_token
    assert await refusal(channel, connect, admin, **wish) == "ROLE_MISSING"
    listed = await ask(channel, f"{ORGANIZATION}/ListIdentityProviders", admin)
    assert [provider.id for provider in listed.identity_providers] == [made.id]
    assert "kept-secret" not in str(listed)
    known = await ask(channel, f"{LOGIN}/GetProvider", GATEWAY_SECRET, provider_id=made.id)
    assert (known.client_secret, known.provider.kind) == ("kept-secret", "OIDC")
    disconnect = f"{ORGANIZATION}/DisconnectIdentityProvider"
    await ask(channel, disconnect, owner, identity_provider_id=made.id)
    gone = "IDENTITY_PROVIDER_NOT_FOUND"
    assert await refusal(channel, disconnect, owner, identity_provider_id=made.id) == gone
    assert await refusal(channel, f"{LOGIN}/GetProvider", GATEWAY_SECRET, provider_id=made.id) == gone
    assert await refusal(channel, f"{LOGIN}/GetProvider", GATEWAY_SECRET, provider_id="idp_x") == gone


async def test_providers_are_offered_without_their_secrets(house: House, channel: grpc.aio.Channel) -> None:
    provider = await house.own_provider()
    offered = await ask(channel, f"{LOGIN}/ListProviders", GATEWAY_SECRET)
    assert show(Prefix.IDENTITY_PROVIDER, provider.id) in {one.id for one in offered.providers}
    assert "kept-between-us" not in str(offered)


async def test_a_device_logs_in(house: House, channel: grpc.aio.Channel) -> None:
    _, issued = await house.member(await house.organization())
    origin = {"ip_address": "198.51.100.3", "user_agent": "popsigner/1"}
    started = await ask(channel, f"{LOGIN}/StartDevice", GATEWAY_SECRET, client_name="popsigner", origin=origin)
    assert (started.expires_in, started.interval) == (900, 5)
    waiting = await ask(channel, f"{LOGIN}/GetDevice", GATEWAY_SECRET, user_code=started.user_code.lower())
    assert (waiting.client_name, waiting.origin.ip_address) == ("popsigner", "198.51.100.3")
    poll, decide = f"{LOGIN}/PollDevice", f"{LOGIN}/DecideDevice"
    assert (await ask(channel, poll, GATEWAY_SECRET, device_code=started.device_code)).outcome == 1
    slow = await ask(channel, poll, GATEWAY_SECRET, device_code=started.device_code)
    assert (slow.outcome, slow.HasField("tokens")) == (2, False)
    forged = {"user_code": started.user_code, "access_token": issued.access_token + "x", "approve": True}
    assert await refusal(channel, decide, GATEWAY_SECRET, **forged) == "CREDENTIALS_INVALID"
    await ask(
        channel,
        decide,
        GATEWAY_SECRET,
        user_code=started.user_code,
        access_token=issued.access_token,
        approve=True,
    )
    again = await refusal(channel, f"{LOGIN}/GetDevice", GATEWAY_SECRET, user_code=started.user_code)
    assert again == "DEVICE_NOT_FOUND"


async def test_somebody_whose_session_has_just_ended_decides_nothing(house: House, channel: grpc.aio.Channel) -> None:
    _, issued = await house.member(await house.organization())
    started = await ask(channel, f"{LOGIN}/StartDevice", GATEWAY_SECRET)
    await house.reception.visitors.visit(issued.access_token)
    await house.beside().reception.sessions.end(issued.refresh_token)
    wish = {"user_code": started.user_code, "access_token": issued.access_token, "approve": True}
    assert await refusal(channel, f"{LOGIN}/DecideDevice", GATEWAY_SECRET, **wish) == "SESSION_ENDED"


async def test_the_published_keys_verify_an_access_token(house: House, channel: grpc.aio.Channel) -> None:
    _, issued = await house.member(await house.organization())
    answer = await ask(channel, f"{LOGIN}/GetVerificationKeys", GATEWAY_SECRET)
    keys = jwt.PyJWKSet.from_dict(json.loads(answer.jwks))
    key = keys[jwt.get_unverified_header(issued.access_token)["kid"]]
    said = jwt.decode(issued.access_token, key, algorithms=["EdDSA"], audience="popsigner", issuer="popsigner")
    assert said["sub"] == show(Prefix.USER, issued.user_id)


@pytest.mark.parametrize("name", ["CompleteLogin", "GetProvider", "RefreshSession", "GetVerificationKeys"])
async def test_nobody_but_the_gateway_logs_people_in(house: House, channel: grpc.aio.Channel, name: str) -> None:
    owner = await owner_of(house, await house.organization())
    for credential in (owner, "", "psk_live_x", GATEWAY_SECRET[::-1]):
        assert await refusal(channel, f"{LOGIN}/{name}", credential) == "CREDENTIALS_INVALID"


async def test_the_gateways_secret_opens_nothing_else(channel: grpc.aio.Channel) -> None:
    for path in (f"{AUTH}/Whoami", f"{AUTH}/ListSessions", f"{ORGANIZATION}/ListIdentityProviders"):
        assert await refusal(channel, path, GATEWAY_SECRET) == "CREDENTIALS_INVALID"


async def test_reflection_lists_the_contract_with_callers_alone(channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answers = [answer async for answer in call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))]
    services = {service.name for service in answers[0].list_services_response.service}
    assert "popsigner.v1.AuthService" in services
    assert not any("internal" in service for service in services)
