"""Storage in memory, with a gate and an end: races and crashes need an exact point, which the real one cannot give."""

import asyncio

from popsigner_plugin.errors import StorageError


class Killed(Exception):
    """The process is no more: nothing that it asks of storage happens."""


class MemoryStorage:
    """Follows the door `popsigner_plugin.storage.Storage`.

    hold: operations ("put", "delete", "get") that wait at the gate before they take effect.
    reached: set once one waits.
    writes_left: how many writes happen before the process is killed; None for a process that lives.
    """

    def __init__(self, blobs: dict[str, bytes] | None = None, *, writes_left: int | None = None) -> None:
        self.blobs: dict[str, bytes] = dict(blobs or {})
        self.hold: set[str] = set()
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()
        self.writes: list[tuple[str, str, bytes]] = []
        self.refusal = ""
        self.writes_left = writes_left
        self.dead = False

    async def _pass(self, operation: str) -> None:
        if self.refusal:
            raise StorageError(self.refusal)
        if operation in self.hold:
            self.reached.set()
            await self.gate.wait()
        # Storage is far away: whoever asks it lets others run.
        await asyncio.sleep(0)
        if operation != "get" and self.writes_left is not None:
            self.dead = self.dead or self.writes_left == 0
            self.writes_left -= 1
        if self.dead:
            raise Killed

    async def get(self, key: str) -> bytes | None:
        await self._pass("get")
        return self.blobs.get(key)

    async def put(self, key: str, value: bytes) -> None:
        await self._pass("put")
        self.writes.append(("put", key, value))
        self.blobs[key] = value

    async def delete(self, key: str) -> None:
        await self._pass("delete")
        self.writes.append(("delete", key, b""))
        self.blobs.pop(key, None)

    async def list_page(self, prefix: str, *, after: str, limit: int) -> list[str]:
        names = sorted(key.removeprefix(prefix) for key in self.blobs if key.startswith(prefix))
        return [name for name in names if name > after][:limit]
