"""The event loop is the signatures' first: all other calls together have one step of it each time round, and a third of
it where signatures want it all."""

import asyncio
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

# Of the time that all others took in a round, what the next one's steps may take, if that is more than one step.
SHARE = 0.5
# How much the newest step counts in what a step takes on average.
NEWEST = 0.1

Result = TypeVar("Result")


class Pace:
    """Runs coroutines step by step, from one wait to the next, and one step in each round of the event loop.

    A signature comes back to the loop half a dozen times, and each time waits for what became ready before it. However
    many calls of however many organizations read meanwhile, that is one step of theirs: a millisecond or two, where it
    was as many as there were calls. They lose nothing by it but their order: rounds follow each other at once.

    Where a flood of signatures makes rounds long, one step in each would be next to nothing, and rights must be taken
    away meanwhile: then steps have half of the time that all others had in the round before.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """clock: in seconds."""
        self._clock = clock
        self._taken = False
        # When this round began, what its steps have taken, and what a step takes.
        self._began = 0.0
        self._spent = 0.0
        self._step = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @types.coroutine
    def run(self, work: Coroutine[Any, Any, Result]) -> Generator[Any, Any, Result]:
        """What `work` returns or raises. Whoever cancels the task that waits for this cancels `work`."""
        failure: BaseException | None = None
        while True:
            try:
                yield from self._turn()
            except BaseException as error:
                failure = error
            began = self._clock()
            try:
                awaited = work.send(None) if failure is None else work.throw(failure)
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                # Else this frame and the traceback of what it raises would hold each other.
                failure = None
                self._took(self._clock() - began)
            try:
                yield awaited
            except BaseException as error:
                failure = error

    def _took(self, seconds: float) -> None:
        self._spent += seconds
        self._step += NEWEST * (seconds - self._step)

    def _turn(self) -> Generator[Any, None, None]:
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            self._began, self._spent = self._clock(), 0.0
            loop.call_soon(self._pass_on)
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        yield from turn

    def _pass_on(self) -> None:
        """A new round: it is the next one's, or the next ones'."""
        now = self._clock()
        allowed = SHARE * (now - self._began - self._spent)
        self._began, self._spent = now, 0.0
        let_in = 0
        while self._waiting and (let_in == 0 or (let_in + 1) * self._step < allowed):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                let_in += 1
        if let_in:
            asyncio.get_running_loop().call_soon(self._pass_on)
        else:
            self._taken = False
