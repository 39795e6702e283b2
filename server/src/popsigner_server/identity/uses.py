"""When API keys were used: noted behind the calls, at most once a minute a key.

A call only asks the clock and leaves its caller here. One writer takes them from there, a database transaction each,
so that uses never hold more than one connection; what it cannot write is logged and counted, and no call is slower or
refused for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from uuid import UUID

import structlog

from popsigner_server.domain.memory import Fading
from popsigner_server.domain.principals import ActorKind, Caller

# Keys that wait to be noted; one more is lost.
WAITING = 4_096
# Keys of which this process remembers when they may be noted again, at most. One that was forgotten costs a look at
# the database, which decides.
REMEMBERED = 16_384
# Seconds until the next use of a key is noted that could not be.
RETRY = 5.0
# Seconds that the end of the process waits for the last notes.
LAST_NOTES = 5.0

log = structlog.get_logger(__name__)


class Uses:
    """Notes the uses of API keys. `write` writes one down and returns the seconds until that key may be noted again;
    `lost` is told of each that could not be."""

    def __init__(
        self, write: Callable[[Caller], Awaitable[float]], *, clock: Callable[[], float], lost: Callable[[], None]
    ) -> None:
        self._write = write
        self._lost = lost
        # Keys whose next note is not due yet.
        self._noted: Fading[UUID, UUID, bool] = Fading(REMEMBERED, seconds=RETRY, clock=clock)
        self._waiting: dict[UUID, Caller] = {}
        self._writer: asyncio.Task[None] | None = None

    def note(self, caller: Caller) -> None:
        """Note that this caller's API key was used; nothing for a person. Does not wait."""
        principal = caller.principal
        if principal.actor_kind is not ActorKind.API_KEY:
            return
        if self._noted.peek(principal.actor_id):
            return
        if len(self._waiting) >= WAITING:
            self._fail(principal.actor_id, "too many wait")
            return
        # Until it is written: uses of one key at once are one note.
        self._not_for(inf, principal.actor_id)
        self._waiting[principal.actor_id] = caller
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        while self._waiting:
            api_key_id = next(iter(self._waiting))
            caller = self._waiting.pop(api_key_id)
            try:
                seconds = await self._write(caller)
            except Exception as error:  # whatever it is, the notes of the other keys go on
                self._fail(api_key_id, type(error).__name__)
            else:
                self._not_for(seconds, api_key_id)

    def _fail(self, api_key_id: UUID, why: str) -> None:
        self._not_for(RETRY, api_key_id)
        self._lost()
        log.warning("the use of an API key could not be noted", api_key=str(api_key_id), error=why)

    def _not_for(self, seconds: float, api_key_id: UUID) -> None:
        self._noted.put(api_key_id, api_key_id, True, seconds=seconds)

    async def close(self) -> None:
        """Write what waits, within seconds."""
        if self._writer is not None:
            await asyncio.wait((self._writer,), timeout=LAST_NOTES)
            self._writer.cancel()
