"""What the engine does: which request does what, signing and verifying. Paths and fields are in docs/engine.md."""

import binascii
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from popsigner_plugin.batch import BatchSigner
from popsigner_plugin.curve import verify
from popsigner_plugin.errors import BadInput, Conflict, EngineError, UnknownKey
from popsigner_plugin.fields import Fields
from popsigner_plugin.keys import Key, checked_name
from popsigner_plugin.leaving import EXPORT, Leaving
from popsigner_plugin.life import CONFIGURE, CREATE, IMPORT, RECOVER, ROTATE, Life
from popsigner_plugin.shelf import PREFIX as KEYS
from popsigner_plugin.shelf import Shelf
from popsigner_plugin.storage import Storage
from popsigner_plugin.turns import Turns
from popsigner_plugin.wrapping import PREFIX as WRAPPING_KEYS
from popsigner_plugin.wrapping import WrappingKeys

SEALED: Final = (KEYS, WRAPPING_KEYS)
PAGE: Final = 1000

_NONE: Final[frozenset[str]] = frozenset()
_LIST: Final = frozenset({"after", "limit"})
_INPUT: Final = frozenset({"input", "prehashed", "hash", "format", "key_version"})


class Engine:
    """The secrets engine on one storage. clock: milliseconds since 1970-01-01T00:00:00Z."""

    def __init__(self, storage: Storage, *, clock: Callable[[], int]) -> None:
        turns = Turns()
        # RSA keys are made and private keys sealed here: beside the signatures, and not in their threads' way.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="wrap")
        self._shelf = Shelf(storage, turns)
        self._batches = BatchSigner(self._shelf.cache)
        self._wrapping = WrappingKeys(storage, turns, clock=clock, threads=self._threads)
        self._life = Life(self._shelf, turns, self._wrapping, clock=clock, threads=self._threads)
        self._leaving = Leaving(self._shelf, turns, threads=self._threads)

    async def handle(self, operation: str, path: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
        """Answer one request; None is "done, nothing to say". Raises EngineError, StorageError."""
        # Paths are taken as they are: a second spelling of one would pass by a policy that forbids the first.
        steps = path.split("/")
        match operation, steps:
            case "create" | "update" | "patch", ["batch", "sign"]:
                return await self._sign_batch(Fields(data, known=frozenset({"packed"})))
            case "create" | "update", ["sign", name]:
                return await self._sign(checked_name(name), Fields(data, known=_INPUT))
            case "create" | "update", ["verify", name]:
                return await self._verify(checked_name(name), Fields(data, known=_INPUT | {"signature"}))
            case _, ["keys", *_]:
                return await self._keys(operation, steps, data)
            case "create" | "update", ["export", name]:
                return await self._leaving.export(name, Fields(data, known=EXPORT))
            case _, ["recovery", name]:
                return await self._recovery(operation, name, data)
            case "read", ["wrapping_key"]:
                Fields(data, known=_NONE)
                return (await self._wrapping.current()).public_data()
            case "create" | "update", ["wrapping_key", "rotate"]:
                fields = Fields(data, known=frozenset({"replaces"}))
                return (await self._wrapping.rotated(fields.text("replaces"))).public_data()
            case "rollback", _:
                # OpenBao asks about once a minute, and only where writing is possible.
                await self._wrapping.erase_expired()
                return None
        raise _refused(operation, path)

    async def _keys(self, operation: str, steps: list[str], data: Mapping[str, Any]) -> dict[str, Any] | None:
        match operation, steps[1:]:
            case "list", [""]:
                return await self._list(Fields(data, known=_LIST))
            case "read", [name]:
                Fields(data, known=_NONE)
                return {"name": name, **(await self._known(checked_name(name))).public_data()}
            case "create" | "update", [name]:
                return await self._life.create(name, Fields(data, known=CREATE))
            case "create" | "update", [name, "import"]:
                return await self._life.bring_in(name, Fields(data, known=IMPORT))
            case "create" | "update", [name, "rotate"]:
                return await self._life.rotate(name, Fields(data, known=ROTATE))
            case "create" | "update", [name, "config"]:
                return await self._life.configure(name, Fields(data, known=CONFIGURE))
            case "delete", [name]:
                await self._life.delete(name)
                return None
        raise _refused(operation, "/".join(steps))

    async def _recovery(self, operation: str, name: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
        match operation:
            case "read":
                Fields(data, known=_NONE)
                return await self._leaving.recovery(name)
            case "create" | "update":
                return await self._life.recoverable(name, Fields(data, known=RECOVER))
            case "delete":
                await self._life.unrecoverable(name)
                return None
        raise _refused(operation, f"recovery/{name}")

    def invalidate(self, storage_key: str) -> None:
        """Another node of the cluster changed this storage key."""
        if storage_key.startswith(KEYS):
            self._shelf.cache.drop(storage_key.removeprefix(KEYS))

    def close(self) -> None:
        """Forget all keys and end the threads."""
        self._shelf.cache.clear()
        self._batches.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _sign_batch(self, fields: Fields) -> dict[str, Any]:
        return {"packed": _base64(await self._batches.sign(fields.binary("packed")))}

    async def _sign(self, name: str, fields: Fields) -> dict[str, Any]:
        digest, form, number = fields.digest(), fields.form(), fields.number("key_version") or 0
        key = await self._known(name)
        if not key.enabled:
            raise Conflict(f"The key {name!r} is disabled.", code="KEY_DISABLED")
        version = key.signing_version(number)
        if version is None:
            raise BadInput(
                f"The key {name!r} signs with versions {key.min_signing_version} to {key.latest.number}.",
                code="VERSION_UNAVAILABLE",
            )
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
            raise BadInput(f"The key {name!r} has no version {number}.", code="VERSION_UNAVAILABLE")
        return {"valid": verify(version.signer.public_key, digest, signature, form), "key_version": version.number}

    async def _list(self, fields: Fields) -> dict[str, Any]:
        after, limit = fields.text("after"), fields.number("limit") or PAGE
        return {"keys": await self._shelf.page(after=after, limit=min(limit, PAGE))}

    async def _known(self, name: str) -> Key:
        key = await self._shelf.cache.get(name)
        if key is None:
            raise UnknownKey(name)
        return key


def _refused(operation: str, path: str) -> EngineError:
    match path.split("/"):
        case (
            ["keys" | "sign" | "verify" | "export" | "recovery", _]
            | ["keys", _, "config" | "rotate" | "import"]
            | ["batch", "sign"]
            | ["wrapping_key"]
            | ["wrapping_key", "rotate"]
        ):
            sentence = f"The operation {operation!r} is not possible on {path!r}."
            return EngineError(405, sentence, code="OPERATION_IMPOSSIBLE")
    return EngineError(404, f"The engine has no path {path!r}.", code="PATH_UNKNOWN")


def _base64(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode()
