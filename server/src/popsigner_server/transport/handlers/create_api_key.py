"""ApiKeyService.CreateApiKey."""

from collections.abc import Iterable, Sized
from datetime import UTC, datetime

from popsigner_server import errors
from popsigner_server.domain.principals import Bounds, Role, Scope
from popsigner_server.gen.popsigner.v1 import api_key_pb2
from popsigner_server.identity import prefix_of
from popsigner_server.identity.api_keys import ApiKeys
from popsigner_server.identity.bounds import Wish, networks_of
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.tenancy.namespaces import Namespaces
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler

MAX_NAME = 100
MAX_NAMESPACES = 64
MAX_KEYS = 256


def create_api_key(api_keys: ApiKeys, namespaces: Namespaces, catalogue: Catalogue, environment: str) -> Handler:
    async def handle(call: Call, request: api_key_pb2.CreateApiKeyRequest) -> api_key_pb2.CreateApiKeyResponse:
        name = request.name.strip()
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise errors.InvalidField("name", f"must be 1 to {MAX_NAME} printable characters.")
        _at_most(MAX_NAMESPACES, "namespaces", request.namespaces)
        _at_most(MAX_KEYS, "keys", request.keys)
        organization_id = call.caller.principal.organization_id
        wish = Wish(
            name=name,
            scopes=_scopes(request.scopes),
            role=_role(request.role),
            expires_at=_expiry(request),
            bounds=Bounds(
                networks=networks_of(request.ip_allow_list),
                namespace_ids=await namespaces.ids_of(organization_id, request.namespaces),
                key_ids=await catalogue.ids_of(organization_id, request.keys),
            ),
        )
        key, text = await api_keys.create(call.caller, wish)
        return api_key_pb2.CreateApiKeyResponse(
            api_key=convert.api_key_to_proto(key, prefix_of(environment, key.id)), key=text
        )

    return handle


def _at_most(most: int, field: str, values: Sized) -> None:
    if len(values) > most:
        raise errors.InvalidField(field, f"must be at most {most}.")


def _scopes(named: Iterable[str]) -> frozenset[Scope]:
    try:
        return frozenset(Scope(name) for name in named)
    except ValueError as error:
        raise errors.InvalidField("scopes", f"each must be one of {', '.join(Scope)}.") from error


def _role(code: int) -> Role:
    try:
        return Role(code)
    except ValueError as error:
        raise errors.InvalidField("role", "must be VIEWER, OPERATOR, ADMIN or OWNER.") from error


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
