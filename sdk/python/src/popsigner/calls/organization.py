"""NamespaceService, ApiKeyService, AuditService and BillingService: what surrounds the keys."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from ..gen.popsigner.v1 import (
    ApiKey,
    AuditLog,
    CreateApiKeyRequest,
    CreateApiKeyResponse,
    CreateNamespaceRequest,
    CreateNamespaceResponse,
    DeleteNamespaceRequest,
    DeleteNamespaceResponse,
    GetLogRequest,
    GetLogResponse,
    GetUsageRequest,
    GetUsageResponse,
    Key,
    ListApiKeysRequest,
    ListApiKeysResponse,
    ListLogsRequest,
    ListLogsResponse,
    ListNamespacesRequest,
    ListNamespacesResponse,
    Namespace,
    RevokeApiKeyRequest,
    RevokeApiKeyResponse,
    Role,
)
from . import Call, Page, Repeat, Rpc, call, present
from .keys import key_name

_NAMESPACES = "/popsigner.v1.NamespaceService/"
CREATE_NAMESPACE = Rpc(_NAMESPACES + "CreateNamespace", CreateNamespaceRequest, CreateNamespaceResponse, Repeat.NEVER)
LIST_NAMESPACES = Rpc(_NAMESPACES + "ListNamespaces", ListNamespacesRequest, ListNamespacesResponse, Repeat.ALWAYS)
DELETE_NAMESPACE = Rpc(_NAMESPACES + "DeleteNamespace", DeleteNamespaceRequest, DeleteNamespaceResponse, Repeat.NEVER)
_API_KEYS = "/popsigner.v1.ApiKeyService/"
CREATE_API_KEY = Rpc(_API_KEYS + "CreateApiKey", CreateApiKeyRequest, CreateApiKeyResponse, Repeat.NEVER)
LIST_API_KEYS = Rpc(_API_KEYS + "ListApiKeys", ListApiKeysRequest, ListApiKeysResponse, Repeat.ALWAYS)
REVOKE_API_KEY = Rpc(_API_KEYS + "RevokeApiKey", RevokeApiKeyRequest, RevokeApiKeyResponse, Repeat.NEVER)
_AUDIT = "/popsigner.v1.AuditService/"
LIST_LOGS = Rpc(_AUDIT + "ListLogs", ListLogsRequest, ListLogsResponse, Repeat.ALWAYS)
GET_LOG = Rpc(_AUDIT + "GetLog", GetLogRequest, GetLogResponse, Repeat.ALWAYS)
GET_USAGE = Rpc("/popsigner.v1.BillingService/GetUsage", GetUsageRequest, GetUsageResponse, Repeat.ALWAYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A created API key: what is kept of it, and the `key` itself, which is shown this once and left out of the
    repr."""

    api_key: ApiKey
    key: str = field(repr=False)


def create_namespace(*, name: str, address_prefix: str = "", timeout: float | None = None) -> Call[Namespace]:
    """Create a namespace. `address_prefix` is the bech32 prefix of its keys' addresses, `celestia` where it is empty.

    Raises InvalidField, NamespaceNameTaken, QuotaExceeded.
    """
    request = CreateNamespaceRequest(name=name, address_prefix=address_prefix)
    return call(CREATE_NAMESPACE, request, lambda answer: present(answer.namespace), timeout)


def namespaces(cursor: str, /, *, page_size: int = 0, timeout: float | None = None) -> Call[Page[Namespace]]:
    """The namespaces, oldest first."""
    return call(
        LIST_NAMESPACES,
        ListNamespacesRequest(page_size=page_size, cursor=cursor),
        lambda answer: Page(entries=tuple(answer.namespaces), next_cursor=answer.next_cursor),
        timeout,
    )


def delete_namespace(namespace: str | Namespace, *, timeout: float | None = None) -> Call[None]:
    """Delete an empty namespace, by id or name. Raises NamespaceNotFound, NamespaceNotEmpty."""
    name = namespace.id if isinstance(namespace, Namespace) else namespace
    return call(DELETE_NAMESPACE, DeleteNamespaceRequest(namespace_id=name), lambda _answer: None, timeout)


def create_api_key(
    *,
    name: str,
    scopes: Iterable[str] = (),
    role: Role = Role.ROLE_UNSPECIFIED,
    expires_at: datetime | None = None,
    timeout: float | None = None,
) -> Call[NewApiKey]:
    """Create an API key with at least one scope (`api:keys:sign`, …) or a role. `expires_at` is an aware datetime.

    Raises InvalidField, ScopeMissing, RoleMissing.
    """
    if expires_at is not None and expires_at.tzinfo is None:
        raise ValueError("expires_at needs a time zone, as in datetime.now(UTC) + timedelta(days=30)")
    request = CreateApiKeyRequest(name=name, scopes=list(scopes), role=role, expires_at=expires_at)
    return call(
        CREATE_API_KEY, request, lambda answer: NewApiKey(api_key=present(answer.api_key), key=answer.key), timeout
    )


def api_keys(cursor: str, /, *, page_size: int = 0, timeout: float | None = None) -> Call[Page[ApiKey]]:
    """The API keys, oldest first, revoked ones too."""
    return call(
        LIST_API_KEYS,
        ListApiKeysRequest(page_size=page_size, cursor=cursor),
        lambda answer: Page(entries=tuple(answer.api_keys), next_cursor=answer.next_cursor),
        timeout,
    )


def revoke_api_key(api_key: str | ApiKey, *, timeout: float | None = None) -> Call[ApiKey]:
    """Revoke an API key, at once; it cannot be undone. Raises ApiKeyNotFound, RoleMissing."""
    request = RevokeApiKeyRequest(api_key_id=api_key.id if isinstance(api_key, ApiKey) else api_key)
    return call(REVOKE_API_KEY, request, lambda answer: present(answer.api_key), timeout)


def logs(
    cursor: str,
    /,
    *,
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    event_type: str = "",
    key: str | Key = "",
    page_size: int = 0,
    timeout: float | None = None,
) -> Call[Page[AuditLog]]:
    """Audit rows, newest first: from `start_time` on and before `end_time`, of one event (`key.signed`, …), of one
    key."""
    if any(time is not None and time.tzinfo is None for time in (start_time, end_time)):
        raise ValueError("start_time and end_time need a time zone")
    request = ListLogsRequest(
        page_size=page_size,
        cursor=cursor,
        start_time=start_time,
        end_time=end_time,
        event_type=event_type,
        key_id=key_name(key),
    )
    return call(
        LIST_LOGS, request, lambda answer: Page(entries=tuple(answer.logs), next_cursor=answer.next_cursor), timeout
    )


def log(log_id: str, *, timeout: float | None = None) -> Call[AuditLog]:
    """One audit row. Raises AuditLogNotFound."""
    return call(GET_LOG, GetLogRequest(log_id=log_id), lambda answer: present(answer.log), timeout)


def usage(*, month: str = "", timeout: float | None = None) -> Call[GetUsageResponse]:
    """What was used in a month (`YYYY-MM` in UTC, by default this one). Raises InvalidField."""
    return call(GET_USAGE, GetUsageRequest(month=month), lambda answer: answer, timeout)
