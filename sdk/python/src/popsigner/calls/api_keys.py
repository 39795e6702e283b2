"""ApiKeyService: how programs say who they are."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ..gen.popsigner.v1 import (
    ApiKey,
    CreateApiKeyRequest,
    CreateApiKeyResponse,
    Key,
    ListApiKeysRequest,
    ListApiKeysResponse,
    Namespace,
    RevokeApiKeyRequest,
    RevokeApiKeyResponse,
    Role,
    RotateApiKeyRequest,
    RotateApiKeyResponse,
)
from . import Call, Page, Repeat, Rpc, aware, call, present
from .keys import key_name

_SERVICE = "/popsigner.v1.ApiKeyService/"
CREATE = Rpc(_SERVICE + "CreateApiKey", CreateApiKeyRequest, CreateApiKeyResponse, Repeat.NEVER)
LIST = Rpc(_SERVICE + "ListApiKeys", ListApiKeysRequest, ListApiKeysResponse, Repeat.ALWAYS)
ROTATE = Rpc(_SERVICE + "RotateApiKey", RotateApiKeyRequest, RotateApiKeyResponse, Repeat.NEVER)
REVOKE = Rpc(_SERVICE + "RevokeApiKey", RevokeApiKeyRequest, RevokeApiKeyResponse, Repeat.NEVER)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A created or rotated API key: what is kept of it, and the `key` itself, which is shown this once and left out of
    the repr."""

    api_key: ApiKey
    key: str = field(repr=False)


def _new(answer: CreateApiKeyResponse | RotateApiKeyResponse) -> NewApiKey:
    return NewApiKey(api_key=present(answer.api_key), key=answer.key)


def _id(api_key: str | ApiKey) -> str:
    return api_key.id if isinstance(api_key, ApiKey) else api_key


def create(
    *,
    name: str,
    scopes: Iterable[str] = (),
    role: Role = Role.ROLE_UNSPECIFIED,
    expires_at: datetime | None = None,
    ip_allow_list: Iterable[str] = (),
    namespaces: Iterable[str | Namespace] = (),
    keys: Iterable[str | Key] = (),
    timeout: float | None = None,
) -> Call[NewApiKey]:
    """Create an API key with at least one scope (`api:keys:sign`, …) or a role. `expires_at` is an aware datetime.

    `ip_allow_list` holds addresses and networks (`203.0.113.0/24`) that it may be used from; `namespaces` and `keys`
    are all that it may touch. Empty means no such limit. It can do nothing that its maker cannot. Raises InvalidField,
    ScopeMissing, RoleMissing, NamespaceNotFound, KeyNotFound, OrganizationDeleted.
    """
    request = CreateApiKeyRequest(
        name=name,
        scopes=list(scopes),
        role=role,
        expires_at=aware(expires_at, "expires_at"),
        ip_allow_list=list(ip_allow_list),
        namespaces=[each.id if isinstance(each, Namespace) else each for each in namespaces],
        keys=[key_name(each) for each in keys],
    )
    return call(CREATE, request, _new, timeout)


def page(cursor: str, /, *, page_size: int = 0, timeout: float | None = None) -> Call[Page[ApiKey]]:
    """The API keys, oldest first, revoked ones too."""
    return call(
        LIST,
        ListApiKeysRequest(page_size=page_size, cursor=cursor),
        lambda answer: Page(entries=tuple(answer.api_keys), next_cursor=answer.next_cursor),
        timeout,
    )


def rotate(
    api_key: str | ApiKey, *, overlap: timedelta = timedelta(0), timeout: float | None = None
) -> Call[NewApiKey]:
    """Give an API key a new secret; its id stays. The old secret is valid for `overlap` (whole seconds, at most 30
    days), by default no longer.

    Raises InvalidField, ApiKeyNotFound, ApiKeyRevoked, ApiKeyExpired, RoleMissing, ScopeMissing, OrganizationDeleted.
    """
    if not timedelta(0) <= overlap <= timedelta(days=30):
        raise ValueError("overlap is 0 to 30 days")
    request = RotateApiKeyRequest(api_key_id=_id(api_key), overlap_seconds=int(overlap.total_seconds()))
    return call(ROTATE, request, _new, timeout)


def revoke(api_key: str | ApiKey, *, timeout: float | None = None) -> Call[ApiKey]:
    """Revoke an API key, at once; it cannot be undone. Raises ApiKeyNotFound, RoleMissing."""
    request = RevokeApiKeyRequest(api_key_id=_id(api_key))
    return call(REVOKE, request, lambda answer: present(answer.api_key), timeout)
