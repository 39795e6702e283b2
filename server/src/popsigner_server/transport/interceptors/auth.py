"""Who calls, and whether this RPC is theirs to call. An RPC without a row in the access table does not get past
start-up.

A credential is an API key (`psk_…`), a person's access token (a JWT), or the secret of the gateway's web application,
which opens the log-in RPCs and nothing else. Cookies are no credential here: they open the gateway's own pages alone.
"""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

from popsigner_server import errors
from popsigner_server.domain.principals import Caller, Principal
from popsigner_server.identity.access import ACCESS, Need, Who
from popsigner_server.identity.people import Visit
from popsigner_server.transport.interceptors.base import Call, Handler, Rpc

BEARER = "bearer "
ORGANIZATION = "x-popsigner-organization"
MAX_USER_AGENT = 200
# Texts of addresses that are remembered. Each connection has one of its own, by its port.
ADDRESSES = 1_024


class Verifier(Protocol):
    """Turns a presented API key into a principal, and notes its uses."""

    async def principal(self, presented: str) -> Principal: ...

    def note(self, caller: Caller) -> None: ...


class Visitors(Protocol):
    """Turns a presented access token into a live session."""

    async def visit(self, presented: str) -> Visit: ...


class Auth:
    """Authenticates and authorizes. The address of the caller is the gateway's word only where nobody but the gateway,
    or the POP's own user, can speak: over the unix socket, or where the operator says so (`trust_gateway`)."""

    def __init__(self, verifier: Verifier, visitors: Visitors, *, gateway_secret: bytes, trust_gateway: bool) -> None:
        """`gateway_secret` is 64 hexadecimal digits."""
        self._verifier = verifier
        self._visitors = visitors
        self._gateway_secret = gateway_secret
        self._trust_gateway = trust_gateway

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        need = ACCESS[rpc.path]
        authenticate = self._authenticator(need)

        async def handle(call: Call, request: Any) -> Any:
            await authenticate(call)
            return await proceed(call, request)

        return handle

    def _authenticator(self, need: Need) -> Callable[[Call], Awaitable[None]]:
        if need.who is Who.GATEWAY:
            return self._gateway
        if need.who is Who.PERSON:
            return self._person
        if need.who is Who.ANYONE:
            return self._anyone

        async def member(call: Call) -> None:
            presented = _credential(call)
            if _is_token(call, presented):
                visit = await self._visit(call, presented)
                call.caller = self._caller(call, visit.principal(call.header(ORGANIZATION)))
            else:
                await self._api_key(call, presented)
            _authorize(need, call.caller.principal)

        return member

    async def _gateway(self, call: Call) -> None:
        """One answer for everybody else, whatever they bring."""
        scheme, _, presented = (call.header("authorization") or "").partition(" ")
        same = hmac.compare_digest(presented.encode("utf-8", "replace"), self._gateway_secret)
        if scheme.lower() != "bearer" or not same:
            raise errors.CredentialsInvalid("This RPC is the gateway's alone.")

    async def _person(self, call: Call) -> None:
        presented = _credential(call)
        if not _is_token(call, presented):
            await self._api_key(call, presented)
            raise errors.PersonRequired
        await self._visit(call, presented)

    async def _anyone(self, call: Call) -> None:
        presented = _credential(call)
        if not _is_token(call, presented):
            await self._api_key(call, presented)
            return
        visit = await self._visit(call, presented)
        named = call.header(ORGANIZATION)
        if named or len(visit.organizations) == 1:
            call.caller = self._caller(call, visit.principal(named))

    async def _api_key(self, call: Call, presented: str) -> None:
        """An API key belongs to one organization, so what the call names is not asked."""
        caller = self._caller(call, await self._verifier.principal(presented))
        if not caller.principal.bounds.admit(caller.ip_address):
            raise errors.AddressNotAllowed
        call.caller = caller
        self._verifier.note(caller)

    async def _visit(self, call: Call, presented: str) -> Visit:
        visit = await self._visitors.visit(presented)
        call.person = visit.person(ip_address=self._address(call), user_agent=_agent(call))
        return visit

    def _caller(self, call: Call, principal: Principal) -> Caller:
        return Caller(principal=principal, ip_address=self._address(call), user_agent=_agent(call))

    def _address(self, call: Call) -> str | None:
        peer: str = call.context.peer()
        if peer.startswith("unix:") or self._trust_gateway:
            told = call.header("x-envoy-external-address")
            if told is not None:
                return _address(told)
        return _peer_address(peer)


def _authorize(need: Need, principal: Principal) -> None:
    if need.scope is not None and need.scope not in principal.scopes:
        raise errors.ScopeMissing(need.scope.value)
    if need.role is not None and principal.role < need.role:
        raise errors.RoleMissing(need.role.name)


def _is_token(call: Call, presented: str) -> bool:
    """Three parts (RFC 7515 3.1), as a bearer; no API key has a point."""
    return presented.count(".") == 2 and call.header("authorization") is not None


def _agent(call: Call) -> str | None:
    return (call.header("user-agent") or "")[:MAX_USER_AGENT] or None


def _credential(call: Call) -> str:
    authorization = call.header("authorization")
    if authorization is not None:
        if authorization[:7].lower() == BEARER:
            return authorization[7:].strip()
        raise errors.CredentialsMissing
    presented = call.header("x-api-key")
    if presented is None:
        raise errors.CredentialsMissing
    presented = presented.strip()
    if _is_token(call, presented):
        raise errors.CredentialsInvalid("An access token goes into `authorization: Bearer …`.")
    return presented


@lru_cache(ADDRESSES)
def _address(text: str) -> str | None:
    try:
        # Without the zone of a link-local address (RFC 4007): the audit trail's type has none.
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None


@lru_cache(ADDRESSES)
def _peer_address(peer: str) -> str | None:
    """`ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`, without the port."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    return _address(unquote(rest).rpartition(":")[0].strip("[]"))
