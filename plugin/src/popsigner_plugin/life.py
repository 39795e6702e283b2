"""The changes of a key, from its first version to its end. Each is one write to storage but import and delete.

Whoever does not know whether a change happened repeats it: a rotation that names its version, an import of the same
private key, a deletion and a new recipient do at the second time only what the first left undone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

from popsigner_plugin.curve import SCALAR_BYTES, SigningKey, overwrite
from popsigner_plugin.errors import BadInput, Conflict
from popsigner_plugin.fields import Fields
from popsigner_plugin.keys import Key, checked_name
from popsigner_plugin.sealing import Recipient, age_recipient
from popsigner_plugin.shelf import Shelf
from popsigner_plugin.turns import Turns
from popsigner_plugin.wrapping import WrappingKeys

CREATE: Final = frozenset({"exportable", "deletion_allowed", "recovery_recipient"})
IMPORT: Final = CREATE | {"ciphertext", "wrapping_key"}
ROTATE: Final = frozenset({"to_version", "recovery_recipient"})
CONFIGURE: Final = frozenset({"exportable", "deletion_allowed", "enabled", "min_signing_version"})
RECOVER: Final = frozenset({"recipient"})

_Answer = dict[str, Any]
_Result = TypeVar("_Result")


class Life:
    """Changes keys, one change of a key at a time. clock: milliseconds since 1970-01-01T00:00:00Z."""

    def __init__(
        self, shelf: Shelf, turns: Turns, wrapping: WrappingKeys, *, clock: Callable[[], int], threads: Executor
    ) -> None:
        self._shelf = shelf
        self._turns = turns
        self._wrapping = wrapping
        self._clock = clock
        self._threads = threads

    async def create(self, name: str, fields: Fields) -> _Answer:
        """A key from fresh randomness. Raises Conflict, code NAME_TAKEN."""
        recipient = _recovery_recipient(fields)

        async def change() -> _Answer:
            if await self._shelf.find(name) is not None:
                raise _taken(name)
            return await self._written(name, await self._sealed(name, self._made(fields, None), recipient))

        return await self._alone(name, change)

    async def bring_in(self, name: str, fields: Fields) -> _Answer:
        """A key from a wrapped private key; the key as it is where it is there already.

        Raises BadInput (WRAPPED_KEY_INVALID, SCALAR_LENGTH, SCALAR_ZERO, SCALAR_TOO_LARGE), Conflict (NAME_TAKEN,
        KEY_PRESENT, WRAPPING_KEY_UNKNOWN).
        """
        ciphertext, key_id = fields.binary("ciphertext"), fields.text("wrapping_key")
        recipient = _recovery_recipient(fields)

        async def change() -> _Answer:
            key = self._made(fields, _signer(await self._wrapping.secret(ciphertext, key_id)))
            public_key = key.latest.signer.public_key
            there = await self._shelf.find(name)
            presence = self._shelf.presence
            async with presence.lock(public_key):
                if there is not None and there.versions[0].signer.public_key != public_key:
                    raise _taken(name)
                if there is None and await presence.holder(public_key) is not None:
                    raise Conflict("This private key is here already, under another name.", code="KEY_PRESENT")
                # First the index: a key without its entry could be brought in a second time.
                await presence.note(public_key, name)
                if there is not None:
                    return {"name": name, **there.public_data()}
                return await self._written(name, await self._sealed(name, key, recipient))

        return await self._alone(name, change)

    async def rotate(self, name: str, fields: Fields) -> _Answer:
        """One more version, or the one that the caller names if it is there. Raises UnknownKey, Conflict."""
        wanted, recipient = fields.number("to_version"), _recovery_recipient(fields)
        if wanted == 0:
            raise BadInput("`to_version` is the number of a version, from 1.")

        async def change() -> _Answer:
            key = await self._shelf.key(name)
            following = key.latest.number + 1
            number = wanted or following
            if number > following:
                raise Conflict(f"The next version of the key {name!r} is {following}.", code="VERSION_SKIPPED")
            if number < following:
                return {"name": name, **key.public_data(), "key_version": number}
            rotated = key.rotated(now_ms=self._clock())
            # Without copies of all versions a recovery would find the key and not its latest address.
            reader = recipient or (age_recipient(key.recovery_recipient) if key.recovery_recipient else None)
            answer = await self._written(name, await self._sealed(name, rotated, reader))
            return answer | {"key_version": number}

        return await self._alone(name, change)

    async def configure(self, name: str, fields: Fields) -> _Answer:
        """Other rights for the key. Raises UnknownKey, BadInput, Conflict."""

        async def change() -> _Answer:
            key = await self._shelf.key(name)
            changed = key.configured(
                exportable=fields.flag("exportable"),
                deletion_allowed=fields.flag("deletion_allowed"),
                enabled=fields.flag("enabled"),
                min_signing_version=fields.number("min_signing_version"),
            )
            return await self._written(name, changed)

        return await self._alone(name, change)

    async def delete(self, name: str) -> None:
        """Overwrite and remove the key, its copies with it. Raises UnknownKey, Conflict."""

        async def change() -> None:
            key = await self._shelf.key(name)
            if not key.deletion_allowed:
                raise Conflict(
                    f"The key {name!r} does not allow deletion; set deletion_allowed in its config first.",
                    code="DELETION_NOT_ALLOWED",
                )
            await self._shelf.remove(name, key)

        await self._alone(name, change)

    async def recoverable(self, name: str, fields: Fields) -> _Answer:
        """Copies of all versions for another recipient in the place of those that there are. Raises UnknownKey."""
        recipient = age_recipient(fields.text("recipient"))

        async def change() -> _Answer:
            return await self._written(name, await self._sealed(name, await self._shelf.key(name), recipient))

        return await self._alone(name, change)

    async def unrecoverable(self, name: str) -> None:
        """The key without recovery copies. Raises UnknownKey."""

        async def change() -> None:
            await self._written(name, (await self._shelf.key(name)).without_copies())

        await self._alone(name, change)

    def _made(self, fields: Fields, signer: SigningKey | None) -> Key:
        return Key.created(
            now_ms=self._clock(),
            exportable=fields.flag("exportable") or False,
            deletion_allowed=fields.flag("deletion_allowed") or False,
            signer=signer,
        )

    async def _sealed(self, name: str, key: Key, recipient: Recipient | None) -> Key:
        if recipient is None:
            return key
        # 64 versions take 6 ms, which signatures need not wait for.
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, key.sealed_to, recipient.text, lambda version: recipient.seal(name, version)
        )

    async def _written(self, name: str, key: Key) -> _Answer:
        await self._shelf.put(name, key)
        return {"name": name, **key.public_data()}

    async def _alone(self, name: str, change: Callable[[], Awaitable[_Result]]) -> _Result:
        return await self._turns.alone(checked_name(name), change)


def _recovery_recipient(fields: Fields) -> Recipient | None:
    text = fields.text("recovery_recipient")
    return age_recipient(text) if text else None


def _signer(scalar: bytes) -> SigningKey:
    """The key of what somebody wrapped, which is overwritten."""
    try:
        if len(scalar) != SCALAR_BYTES:
            raise BadInput(f"The private key has {len(scalar)} bytes, not {SCALAR_BYTES}.", code="SCALAR_LENGTH")
        if not any(scalar):
            raise BadInput("The private key is 0, which is none.", code="SCALAR_ZERO")
        try:
            return SigningKey.of(scalar)
        except ValueError:
            raise BadInput(
                "The private key is not below the order of secp256k1; it belongs to another curve.",
                code="SCALAR_TOO_LARGE",
            ) from None
    finally:
        overwrite(scalar)


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a key {name!r} already.", code="NAME_TAKEN")
