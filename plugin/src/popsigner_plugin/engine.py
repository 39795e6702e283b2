"""What the engine does: the life of a key, signing and verifying. Paths and fields are in docs/engine.md."""

import asyncio
import binascii
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from popsigner_plugin.batch import BatchSigner
from popsigner_plugin.cache import KeyCache
from popsigner_plugin.curve import verify
from popsigner_plugin.errors import BadInput, Conflict, EngineError, UnknownKey
from popsigner_plugin.fields import Fields
from popsigner_plugin.keys import Key, checked_name, decoded, encoded, is_name, overwritten
from popsigner_plugin.storage import Storage

PREFIX: Final = "keys/"
PAGE: Final = 1000

_Result = TypeVar("_Result")
_NONE: Final[frozenset[str]] = frozenset()
_CREATE: Final = frozenset({"exportable", "deletion_allowed"})
_CONFIGURE: Final = frozenset({"exportable", "deletion_allowed", "enabled", "min_signing_version"})
_LIST: Final = frozenset({"after", "limit"})
_INPUT: Final = frozenset({"input", "prehashed", "hash", "format", "key_version"})


class Engine:
    """The secrets engine on one storage. clock: milliseconds since 1970-01-01T00:00:00Z."""

    def __init__(self, storage: Storage, *, clock: Callable[[], int]) -> None:
        self._storage = storage
        self._clock = clock
        self._cache = KeyCache(self._load)
        self._batches = BatchSigner(self._cache)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def handle(self, operation: str, path: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
        """Answer one request; None is "done, nothing to say". Raises EngineError, StorageError."""
        # Paths are taken as they are: a second spelling of one would pass by a policy that forbids the first.
        match operation, path.split("/"):
            case "create" | "update" | "patch", ["batch", "sign"]:
                return await self._sign_batch(Fields(data, known=frozenset({"packed"})))
            case "create" | "update", ["sign", name]:
                return await self._sign(checked_name(name), Fields(data, known=_INPUT))
            case "create" | "update", ["verify", name]:
                return await self._verify(checked_name(name), Fields(data, known=_INPUT | {"signature"}))
            case "create" | "update", ["keys", name]:
                fields = Fields(data, known=_CREATE)
                return await self._alone(name, lambda: self._create(checked_name(name), fields))
            case "create" | "update", ["keys", name, "config"]:
                fields = Fields(data, known=_CONFIGURE)
                return await self._alone(name, lambda: self._configure(checked_name(name), fields))
            case "delete", ["keys", name]:
                return await self._alone(name, lambda: self._delete(checked_name(name)))
            case "read", ["keys", name]:
                return await self._read(checked_name(name), Fields(data, known=_NONE))
            case "list", ["keys", ""]:
                return await self._list(Fields(data, known=_LIST))
            case "rollback", _:
                return None
            case _, ["keys" | "sign" | "verify", _] | ["keys", _, "config"] | ["batch", "sign"]:
                raise EngineError(405, f"The operation {operation!r} is not possible on {path!r}.")
        raise EngineError(404, f"The engine has no path {path!r}.")

    def invalidate(self, storage_key: str) -> None:
        """Another node of the cluster changed this storage key."""
        self._cache.drop(storage_key.removeprefix(PREFIX))

    def close(self) -> None:
        """Forget all keys and end the threads."""
        self._cache.clear()
        self._batches.close()

    async def _sign_batch(self, fields: Fields) -> dict[str, Any]:
        return {"packed": _base64(await self._batches.sign(fields.binary("packed")))}

    async def _sign(self, name: str, fields: Fields) -> dict[str, Any]:
        digest, form, number = fields.digest(), fields.form(), fields.number("key_version") or 0
        key = await self._known(name)
        if not key.enabled:
            raise Conflict(f"The key {name!r} is disabled.")
        version = key.signing_version(number)
        if version is None:
            raise BadInput(f"The key {name!r} signs with versions {key.min_signing_version} to {key.latest.number}.")
        return {
            "signature": _base64(version.signer.sign(digest, form)),
            "public_key": version.signer.public_key.hex(),
            "key_version": version.number,
        }

    async def _verify(self, name: str, fields: Fields) -> dict[str, Any]:
        digest, form, number = fields.digest(), fields.form(), fields.number("key_version") or 0
        signature = fields.binary("signature")
        version = (await self._known(name)).version(number)
        if version is None:
            raise BadInput(f"The key {name!r} has no version {number}.")
        return {"valid": verify(version.signer.public_key, digest, signature, form), "key_version": version.number}

    async def _create(self, name: str, fields: Fields) -> dict[str, Any]:
        if await self._load(name) is not None:
            raise Conflict(f"There is a key {name!r} already.")
        key = Key.created(
            now_ms=self._clock(),
            exportable=fields.flag("exportable") or False,
            deletion_allowed=fields.flag("deletion_allowed") or False,
        )
        await self._storage.put(PREFIX + name, encoded(key))
        return {"name": name, **key.public_data()}

    async def _read(self, name: str, _: Fields) -> dict[str, Any]:
        return {"name": name, **(await self._known(name)).public_data()}

    async def _list(self, fields: Fields) -> dict[str, Any]:
        after, limit = fields.text("after"), fields.number("limit") or PAGE
        names = await self._storage.list_page(PREFIX, after=after, limit=min(limit, PAGE))
        return {"keys": names}

    async def _configure(self, name: str, fields: Fields) -> dict[str, Any]:
        key = await self._stored(name)
        changed = key.configured(
            exportable=fields.flag("exportable"),
            deletion_allowed=fields.flag("deletion_allowed"),
            enabled=fields.flag("enabled"),
            min_signing_version=fields.number("min_signing_version"),
        )
        try:
            await self._storage.put(PREFIX + name, encoded(changed))
        finally:
            self._cache.drop(name)
        return {"name": name, **changed.public_data()}

    async def _delete(self, name: str) -> None:
        key = await self._stored(name)
        if not key.deletion_allowed:
            raise Conflict(f"The key {name!r} does not allow deletion; set deletion_allowed in its config first.")
        try:
            await self._storage.put(PREFIX + name, overwritten(key))
            await self._storage.delete(PREFIX + name)
        finally:
            self._cache.drop(name)

    async def _known(self, name: str) -> Key:
        key = await self._cache.get(name)
        if key is None:
            raise UnknownKey(name)
        return key

    async def _stored(self, name: str) -> Key:
        key = await self._load(name)
        if key is None:
            raise UnknownKey(name)
        return key

    async def _load(self, name: str) -> Key | None:
        # Names inside a batch come unchecked; a strange one must not reach storage as a path.
        if not is_name(name):
            return None
        blob = await self._storage.get(PREFIX + name)
        return None if blob is None else decoded(blob)

    async def _alone(self, name: str, change: Callable[[], Awaitable[_Result]]) -> _Result:
        """Run a change of a key when no other change of it runs, and to its end.

        A caller that goes away cancels only its waiting: a write that is on its way to storage cannot be called back,
        and if the lock were free by then, it could land on a key that somebody else just created.
        """
        lock = self._locks.setdefault(name, asyncio.Lock())

        async def locked() -> _Result:
            async with lock:
                return await change()

        return await asyncio.shield(asyncio.ensure_future(locked()))


def _base64(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode()
