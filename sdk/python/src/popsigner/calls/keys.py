"""KeyService: the catalogue of keys."""

from collections.abc import Iterable, Mapping

from ..gen.popsigner.v1 import (
    BatchCreateKeysRequest,
    BatchCreateKeysResponse,
    CreateKeyRequest,
    CreateKeyResponse,
    DeleteKeyRequest,
    DeleteKeyResponse,
    GetKeyRequest,
    GetKeyResponse,
    Key,
    KeyName,
    KeyState,
    ListKeysRequest,
    ListKeysResponse,
    UpdateKeyRequest,
    UpdateKeyResponse,
)
from . import Call, Page, Repeat, Rpc, call, present

_SERVICE = "/popsigner.v1.KeyService/"
CREATE = Rpc(_SERVICE + "CreateKey", CreateKeyRequest, CreateKeyResponse, Repeat.NEVER)
BATCH_CREATE = Rpc(_SERVICE + "BatchCreateKeys", BatchCreateKeysRequest, BatchCreateKeysResponse, Repeat.NEVER)
GET = Rpc(_SERVICE + "GetKey", GetKeyRequest, GetKeyResponse, Repeat.ALWAYS)
LIST = Rpc(_SERVICE + "ListKeys", ListKeysRequest, ListKeysResponse, Repeat.ALWAYS)
UPDATE = Rpc(_SERVICE + "UpdateKey", UpdateKeyRequest, UpdateKeyResponse, Repeat.NEVER)
DELETE = Rpc(_SERVICE + "DeleteKey", DeleteKeyRequest, DeleteKeyResponse, Repeat.NEVER)


def key_name(key: str | Key) -> str:
    """The `key_id` of a request: an id, `namespace/name`, or a key that was answered before."""
    return key.id if isinstance(key, Key) else key


def create(
    *,
    name: str,
    namespace: str = "",
    exportable: bool = False,
    metadata: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Call[Key]:
    """Create a key; its private key is made inside OpenBao and stays there. An empty namespace means `production`.

    Raises InvalidField, NamespaceNotFound, KeyNameTaken, QuotaExceeded, VaultUnavailable.
    """
    request = CreateKeyRequest(name=name, namespace=namespace, exportable=exportable, metadata=dict(metadata or {}))
    return call(CREATE, request, lambda answer: present(answer.key), timeout)


def create_batch(
    *,
    names: Iterable[str] = (),
    prefix: str = "",
    count: int = 0,
    namespace: str = "",
    exportable: bool = False,
    metadata: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Call[tuple[Key, ...]]:
    """Create 1 to 256 keys, all or none: by `names`, or `prefix-1` … `prefix-count`. The answer keeps the order.

    Raises InvalidField, BatchEmpty, BatchTooLarge, NamespaceNotFound, KeyNameTaken, QuotaExceeded, VaultUnavailable.
    """
    request = BatchCreateKeysRequest(
        keys=[KeyName(name=name) for name in names],
        prefix=prefix,
        count=count,
        namespace=namespace,
        exportable=exportable,
        metadata=dict(metadata or {}),
    )
    return call(BATCH_CREATE, request, lambda answer: tuple(answer.keys), timeout)


def get(key: str | Key, *, timeout: float | None = None) -> Call[Key]:
    """One key, by id or `namespace/name`. Raises KeyNotFound."""
    return call(GET, GetKeyRequest(key_id=key_name(key)), lambda answer: present(answer.key), timeout)


def page(
    cursor: str,
    /,
    *,
    namespace: str = "",
    state: KeyState = KeyState.STATE_UNSPECIFIED,
    labels: Mapping[str, str] | None = None,
    name_prefix: str = "",
    page_size: int = 0,
    timeout: float | None = None,
) -> Call[Page[Key]]:
    """Keys, oldest first; without `state` all but destroyed ones. `labels` are metadata entries that a key must carry.

    Raises InvalidField, NamespaceNotFound.
    """
    request = ListKeysRequest(
        page_size=page_size,
        cursor=cursor,
        namespace=namespace,
        state=state,
        labels=[f"{name}={value}" for name, value in (labels or {}).items()],
        name_prefix=name_prefix,
    )
    return call(LIST, request, lambda answer: Page(entries=tuple(answer.keys), next_cursor=answer.next_cursor), timeout)


def update(
    key: str | Key,
    *,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Call[Key]:
    """Rename a key, or change entries of its metadata (an empty value removes one; what is not named stays).

    Raises InvalidField, KeyNotFound, KeyNameTaken, KeyDeleted.
    """
    request = UpdateKeyRequest(key_id=key_name(key), name=name, metadata=dict(metadata or {}))
    return call(UPDATE, request, lambda answer: present(answer.key), timeout)


def delete(key: str | Key, *, force: bool = False, timeout: float | None = None) -> Call[Key]:
    """Delete a key: it stops signing at once; its private key is destroyed after the restore window of 7 days, with
    `force` now, and that cannot be undone.

    Raises KeyNotFound, KeyDeleted, VaultUnavailable.
    """
    request = DeleteKeyRequest(key_id=key_name(key), force=force)
    return call(DELETE, request, lambda answer: present(answer.key), timeout)
