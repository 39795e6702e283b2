"""Private keys on their way out: exports for somebody who asks now, and the copies that were sealed for recovery.

Nothing leaves in the clear, and nothing before the index says that it is known outside.
"""

import asyncio
import binascii
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, Final

from popsigner_plugin.errors import BadInput, Conflict, EngineError
from popsigner_plugin.fields import Fields
from popsigner_plugin.keys import Key, Version, checked_name
from popsigner_plugin.sealing import AGE, Recipient, recipient_of
from popsigner_plugin.shelf import Shelf
from popsigner_plugin.turns import Turns

EXPORT: Final = frozenset({"recipient", "versions"})


class Leaving:
    """Hands out sealed private keys. Takes its turn with the changes of the key."""

    def __init__(self, shelf: Shelf, turns: Turns, *, threads: Executor) -> None:
        self._shelf = shelf
        self._turns = turns
        self._threads = threads

    async def export(self, name: str, fields: Fields) -> dict[str, Any]:
        """Versions of an exportable key, sealed to the caller's recipient. Raises UnknownKey, Conflict, BadInput."""
        recipient, numbers = recipient_of(fields.text("recipient")), fields.numbers("versions")

        async def leave() -> dict[str, Any]:
            key = await self._shelf.key(name)
            if not key.exportable:
                raise Conflict(f"The key {name!r} was not created exportable, or is no longer.", code="NOT_EXPORTABLE")
            chosen = [_version(name, key, number) for number in numbers or [0]]
            await self._noted(name, chosen)
            ciphertexts = await asyncio.get_running_loop().run_in_executor(
                self._threads, _sealed, name, chosen, recipient
            )
            return {"name": name, "wrapping": recipient.wrapping, "versions": _listed(chosen, ciphertexts)}

        return await self._turns.alone(checked_name(name), leave)

    async def recovery(self, name: str) -> dict[str, Any]:
        """The sealed copies of all versions. Raises UnknownKey, EngineError (404, RECOVERY_COPY_UNKNOWN)."""

        async def leave() -> dict[str, Any]:
            key = await self._shelf.key(name)
            if not key.recovery_recipient:
                raise EngineError(404, f"The key {name!r} has no recovery copies.", code="RECOVERY_COPY_UNKNOWN")
            await self._noted(name, key.versions)
            return {
                "name": name,
                "wrapping": AGE,
                "recipient": key.recovery_recipient,
                "versions": _listed(key.versions, [version.sealed for version in key.versions]),
            }

        return await self._turns.alone(checked_name(name), leave)

    async def _noted(self, name: str, versions: Sequence[Version]) -> None:
        for version in versions:
            await self._shelf.presence.noted(version.signer.public_key, name)


def _version(name: str, key: Key, number: int) -> Version:
    version = key.version(number)
    if version is None:
        raise BadInput(f"The key {name!r} has no version {number}.", code="VERSION_UNAVAILABLE")
    return version


def _sealed(name: str, versions: list[Version], recipient: Recipient) -> list[bytes]:
    return [recipient.seal(name, version) for version in versions]


def _listed(versions: Sequence[Version], ciphertexts: list[bytes]) -> dict[str, Any]:
    return {
        str(version.number): {
            "public_key": version.signer.public_key.hex(),
            "ciphertext": binascii.b2a_base64(ciphertext, newline=False).decode(),
        }
        for version, ciphertext in zip(versions, ciphertexts, strict=True)
    }
