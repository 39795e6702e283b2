"""ApiKeyService.CreateApiKey."""

from collections.abc import Iterable
from datetime import UTC, datetime

from popsigner_server import errors
from popsigner_server.domain.principals import Principal, Role, Scope
from popsigner_server.gen.popsigner.v1 import api_key_pb2
from popsigner_server.identity import prefix_of
from popsigner_server.identity.api_keys import ApiKeys
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler

MAX_NAME = 100


def create_api_key(api_keys: ApiKeys, environment: str) -> Handler:
    async def handle(call: Call, request: api_key_pb2.CreateApiKeyRequest) -> api_key_pb2.CreateApiKeyResponse:
        name = request.name.strip()
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise errors.InvalidField("name", f"must be 1 to {MAX_NAME} printable characters.")
        scopes = _scopes(request.scopes, call.caller.principal)
        role = _role(request.role, call.caller.principal)
        if not scopes and role is Role.UNSPECIFIED:
            raise errors.InvalidField("scopes", "give at least one scope, or a role.")
        key, text = await api_keys.create(call.caller, name=name, scopes=scopes, role=role, expires_at=_expiry(request))
        return api_key_pb2.CreateApiKeyResponse(
            api_key=convert.api_key_to_proto(key, prefix_of(environment, key.id)), key=text
        )

    return handle


def _scopes(named: Iterable[str], principal: Principal) -> frozenset[Scope]:
    scopes = set()
    for name in named:
        try:
            scopes.add(Scope(name))
        except ValueError as error:
            raise errors.InvalidField("scopes", f"each must be one of {', '.join(Scope)}.") from error
    for scope in sorted(scopes - principal.scopes):
        raise errors.ScopeMissing(scope)
    return frozenset(scopes)


def _role(code: int, principal: Principal) -> Role:
    try:
        role = Role(code)
    except ValueError as error:
        raise errors.InvalidField("role", "must be VIEWER, OPERATOR, ADMIN or OWNER.") from error
    if role > principal.role:
        raise errors.RoleMissing(role.name)
    return role


def _expiry(request: api_key_pb2.CreateApiKeyRequest) -> datetime | None:
    if not request.HasField("expires_at"):
        return None
    try:
        expires_at = request.expires_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise errors.InvalidField("expires_at", "is not a moment in time.") from error
    if expires_at <= datetime.now(UTC):
        raise errors.InvalidField("expires_at", "must lie in the future.")
    return expires_at
