"""Who calls, and whether this RPC is theirs to call. An RPC without a row in the access table does not get past
start-up."""

import ipaddress
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

from popsigner_server import errors
from popsigner_server.domain.principals import Caller, Principal
from popsigner_server.identity.access import ACCESS
from popsigner_server.transport.interceptors.base import Call, Handler, Rpc

BEARER = "bearer "
MAX_USER_AGENT = 200


class Verifier(Protocol):
    """Turns a presented API key into a principal."""

    async def principal(self, presented: str) -> Principal: ...


class Auth:
    """Authenticates and authorizes. The address of the caller is the gateway's word only where nobody but the gateway,
    or the POP's own user, can speak: over the unix socket, or where the operator says so (`trust_gateway`)."""

    def __init__(self, verifier: Verifier, *, trust_gateway: bool) -> None:
        self._verifier = verifier
        self._trust_gateway = trust_gateway

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        need = ACCESS[rpc.path]

        async def handle(call: Call, request: Any) -> Any:
            principal = await self._verifier.principal(_credential(call))
            if need.scope is not None and need.scope not in principal.scopes:
                raise errors.ScopeMissing(need.scope.value)
            if need.role is not None and principal.role < need.role:
                raise errors.RoleMissing(need.role.name)
            call.caller = Caller(
                principal=principal,
                ip_address=self._address(call),
                user_agent=(call.header("user-agent") or "")[:MAX_USER_AGENT] or None,
            )
            return await proceed(call, request)

        return handle

    def _address(self, call: Call) -> str | None:
        peer: str = call.context.peer()
        if peer.startswith("unix:") or self._trust_gateway:
            told = call.header("x-envoy-external-address")
            if told is not None:
                return _address(told)
        return _peer_address(peer)


def _credential(call: Call) -> str:
    authorization = call.header("authorization")
    if authorization is not None:
        if authorization[:7].lower() == BEARER:
            return authorization[7:].strip()
        raise errors.CredentialsMissing
    presented = call.header("x-api-key")
    if presented is None:
        raise errors.CredentialsMissing
    return presented.strip()


@lru_cache(maxsize=4096)
def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def _peer_address(peer: str) -> str | None:
    """`ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`, without the port."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    return _address(unquote(rest).rpartition(":")[0].strip("[]"))
