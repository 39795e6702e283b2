"""The event loop is the signatures' first: all other calls together have one step of it each time round."""

import asyncio
import types
from collections import deque
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


class Pace:
    """Runs coroutines step by step, from one wait to the next, and no two steps in one round of the event loop.

    A signature comes back to the loop half a dozen times, and each time waits for what became ready before it. However
    many calls of however many organizations read meanwhile, that is one step of theirs: a millisecond or two, where it
    was as many as there were calls. They lose nothing by it but their order: rounds follow each other at once.
    """

    def __init__(self) -> None:
        self._taken = False
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
            try:
                awaited = work.send(None) if failure is None else work.throw(failure)
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                # Else this frame and the traceback of what it raises would hold each other.
                failure = None
            try:
                yield awaited
            except BaseException as error:
                failure = error

    def _turn(self) -> Generator[Any, None, None]:
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._pass_on)
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        yield from turn

    def _pass_on(self) -> None:
        """A new round: it is the next one's."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._pass_on)
                return
        self._taken = False
