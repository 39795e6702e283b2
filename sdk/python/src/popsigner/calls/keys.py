"""KeyService: the catalogue of keys."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..gen.popsigner.v1 import (
    BatchCreateKeysRequest,
    BatchCreateKeysResponse,
    CreateKeyRequest,
    CreateKeyResponse,
    DeleteKeyRequest,
    DeleteKeyResponse,
    DisableKeyRequest,
    DisableKeyResponse,
    EnableKeyRequest,
    EnableKeyResponse,
    GetKeyRequest,
    GetKeyResponse,
    Key,
    KeyName,
    KeyState,
    KeyVersion,
    ListKeysRequest,
    ListKeysResponse,
    ListKeyVersionsRequest,
    ListKeyVersionsResponse,
    RotateKeyRequest,
    RotateKeyResponse,
    UndeleteKeyRequest,
    UndeleteKeyResponse,
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
UNDELETE = Rpc(_SERVICE + "UndeleteKey", UndeleteKeyRequest, UndeleteKeyResponse, Repeat.NEVER)
# Each of the two changes nothing the second time; sent again late, it would undo what somebody else did in between.
ENABLE = Rpc(_SERVICE + "EnableKey", EnableKeyRequest, EnableKeyResponse, Repeat.NEVER)
DISABLE = Rpc(_SERVICE + "DisableKey", DisableKeyRequest, DisableKeyResponse, Repeat.NEVER)
ROTATE = Rpc(_SERVICE + "RotateKey", RotateKeyRequest, RotateKeyResponse, Repeat.NEVER)
ROTATE_EXPECTED = Rpc(_SERVICE + "RotateKey", RotateKeyRequest, RotateKeyResponse, Repeat.WITH_EXPECTED_VERSION)
VERSIONS = Rpc(_SERVICE + "ListKeyVersions", ListKeyVersionsRequest, ListKeyVersionsResponse, Repeat.ALWAYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedKey:
    """A key with the version, public key and addresses that sign from now on, and the version before."""

    key: Key
    previous: KeyVersion


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
    min_version: int = 0,
    timeout: float | None = None,
) -> Call[Key]:
    """Rename a key, change entries of its metadata (an empty value removes one; what is not named stays), or say which
    version is the oldest that may sign: `min_version`, at most the newest; 0 leaves it. Those below stop signing at
    once; lowering it lets them sign again.

    Raises InvalidField, KeyNotFound, KeyNameTaken, KeyDeleted.
    """
    request = UpdateKeyRequest(key_id=key_name(key), name=name, metadata=dict(metadata or {}), min_version=min_version)
    return call(UPDATE, request, lambda answer: present(answer.key), timeout)


def delete(key: str | Key, *, force: bool = False, timeout: float | None = None) -> Call[Key]:
    """Delete a key: it stops signing at once; its private key is destroyed after the restore window of 7 days, with
    `force` now, and that cannot be undone.

    Raises KeyNotFound, KeyDeleted, VaultUnavailable.
    """
    request = DeleteKeyRequest(key_id=key_name(key), force=force)
    return call(DELETE, request, lambda answer: present(answer.key), timeout)


def undelete(key: str | Key, *, timeout: float | None = None) -> Call[Key]:
    """Take a deletion back while the restore window lasts: the key is enabled or disabled, as it was. Changes nothing
    for a key that is not deleted.

    Raises KeyNotFound, KeyDeleted (the window has ended).
    """
    return call(UNDELETE, UndeleteKeyRequest(key_id=key_name(key)), lambda answer: present(answer.key), timeout)


def enable(key: str | Key, *, timeout: float | None = None) -> Call[Key]:
    """Let a disabled key sign again. Changes nothing for an enabled one. Raises KeyNotFound, KeyDeleted."""
    return call(ENABLE, EnableKeyRequest(key_id=key_name(key)), lambda answer: present(answer.key), timeout)


def disable(key: str | Key, *, timeout: float | None = None) -> Call[Key]:
    """Stop a key from signing, at once, until it is enabled again. Changes nothing for a disabled one.

    Raises KeyNotFound, KeyDeleted.
    """
    return call(DISABLE, DisableKeyRequest(key_id=key_name(key)), lambda answer: present(answer.key), timeout)


def rotate(key: str | Key, *, expected_version: int = 0, timeout: float | None = None) -> Call[RotatedKey]:
    """Give a key a new version, which signs from now on unless a request names another: a new private key, and so a NEW
    ADDRESS, without funds and without grants. The older versions sign on, down to `min_version`.

    `expected_version` is the one that you know as the newest, as in `key.version`. With it a repetition after a lost
    answer makes no second version, so that the client can repeat by itself; 0 means whichever is, and is sent once.
    Raises KeyNotFound, KeyDisabled, KeyDeleted, KeyVersionChanged, KeyVersionsExhausted, VaultUnavailable.
    """
    return call(
        ROTATE_EXPECTED if expected_version else ROTATE,
        RotateKeyRequest(key_id=key_name(key), expected_version=expected_version),
        lambda answer: RotatedKey(key=present(answer.key), previous=present(answer.previous)),
        timeout,
    )


def versions(key: str | Key, *, timeout: float | None = None) -> Call[tuple[KeyVersion, ...]]:
    """Every version of a key with its address, newest first; at most 64. Raises KeyNotFound."""
    request = ListKeyVersionsRequest(key_id=key_name(key))
    return call(VERSIONS, request, lambda answer: tuple(answer.versions), timeout)
