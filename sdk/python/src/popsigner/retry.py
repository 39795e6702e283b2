"""When a call is tried again, and how long it waits before."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from .errors import PopsignerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """At most `attempts` in all. Before the n-th retry a call waits a random time of up to `initial` * 2^(n-1)
    seconds, never above `ceiling`, and at least as long as the POP asked for."""

    attempts: int = 5
    initial: float = 0.1
    ceiling: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.initial <= 0 or self.ceiling < self.initial:
            raise ValueError("Retry needs attempts >= 1 and 0 < initial <= ceiling")


class Attempts:
    """The attempts of one call, all within its timeout in seconds. `retry` is None for a call that must not be
    repeated."""

    def __init__(
        self,
        retry: Retry | None,
        timeout: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._retry = retry
        self._clock = clock
        self._draw = draw
        self._deadline = clock() + timeout
        self._failed = 0
        self._renewed = False

    def remaining(self) -> float:
        """Seconds that the next attempt may take."""
        return max(0.0, self._deadline - self._clock())

    def renew_once(self) -> bool:
        """Whether an access token that is over may be replaced: once a call, or a POP with a wrong clock would keep it
        busy."""
        first, self._renewed = not self._renewed, True
        return first

    def pause_after(self, error: PopsignerError) -> float:
        """Seconds to wait before the next attempt; raises `error` if there must be none."""
        self._failed += 1
        if self._retry is None or not error.retryable or self._failed >= self._retry.attempts:
            raise error
        # Full jitter: clients that failed together do not return together.
        backoff = self._draw() * min(self._retry.ceiling, self._retry.initial * 2.0 ** (self._failed - 1))
        pause = max(backoff, error.retry_after or 0.0)
        if pause >= self.remaining():
            raise error
        return pause
