"""Counts in a Valkey or Redis, shared by every server process that uses it."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any
from uuid import UUID

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from valkey.asyncio import BlockingConnectionPool
from valkey.exceptions import ValkeyError

from popsigner_server.limits import StoreAway

# Seconds that a call waits for the store, and for which calls do not ask one that is away.
PATIENCE = 0.05
PAUSE = 1.0
# Seconds between two lines of the log about a store that is away.
TELL_AGAIN = 60.0
# Turns of the event loop that an answer needs from the socket to its call. They come after the seconds: a loop that was
# busy for so long has not looked yet, and a crowd must not switch its own limit off.
TURNS = 8
CONNECTIONS = 4
# Answers in a row that do not come in time before the store counts as away: one may be this process's own stall.
LATE = 8
# `redis` is the same protocol; the client knows it by its own name.
SCHEMES = {"valkey": "valkey", "valkeys": "valkeys", "redis": "valkey", "rediss": "valkeys", "unix": "unix"}

log = structlog.get_logger(__name__)

_item = lru_cache(maxsize=64)(RateLimitItemPerSecond)


class SharedLimiter:
    """A Limiter over a store. One call asks a store that is away, once in a while; the others do not wait for it."""

    def __init__(self, url: str, *, clock: Callable[[], float]) -> None:
        """`url` is valkey://, valkeys:// (TLS), redis://, rediss:// or unix:///path, with a password where there is
        one. Raises ValueError, without the URL."""
        scheme, _, rest = url.partition("://")
        if scheme not in SCHEMES or not rest:
            raise ValueError("The rate limit store must be valkey://, valkeys://, redis://, rediss:// or unix:///….")
        try:
            self._pool = BlockingConnectionPool.from_url(
                f"{SCHEMES[scheme]}://{rest}", max_connections=CONNECTIONS, timeout=None
            )
        except ValueError:
            raise ValueError("The URL of the rate limit store cannot be read.") from None
        options: dict[str, Any] = {"connection_pool": self._pool}
        storage = RedisStorage("async+valkey://", key_prefix="popsigner", **options)
        self._window = SlidingWindowCounterRateLimiter(storage)
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._clock = clock
        self._away = False
        self._late = 0
        self._ask_again = 0.0
        self._tell_again = 0.0

    async def take(self, subject: UUID, rate: int) -> bool:
        # Waiting for a place is this process's own crowd, and no word about the store: patience begins behind it.
        async with self._places:
            if self._away:
                now = self._clock()
                if now < self._ask_again:
                    raise StoreAway
                # This call asks; those beside it go on as before.
                self._ask_again = now + PAUSE
            try:
                admitted = await _patiently(self._window.hit(_item(rate), subject.hex))
            except TimeoutError as error:
                self._late += 1
                if self._away or self._late >= LATE:
                    self._missed(error)
                raise StoreAway from error
            except (ValkeyError, OSError) as error:
                self._missed(error)
                raise StoreAway from error
            self._late = 0
            if self._away:
                self._away = False
                log.info("rate limit store answers again")
            return admitted

    def _missed(self, error: Exception) -> None:
        now = self._clock()
        self._away, self._ask_again = True, now + PAUSE
        if now >= self._tell_again:
            self._tell_again = now + TELL_AGAIN
            log.warning("rate limit store is away, calls are let through", error=type(error).__name__)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.disconnect()


async def _patiently(question: Coroutine[Any, Any, bool]) -> bool:
    """The store's answer. Raises TimeoutError."""
    asking = asyncio.ensure_future(question)
    try:
        if not (await asyncio.wait((asking,), timeout=PATIENCE))[0]:
            for _ in range(TURNS):
                await asyncio.sleep(0)
        if not asking.done():
            raise TimeoutError
        return asking.result()
    finally:
        asking.cancel()
