"""How a stream ended, in the POP's words.

grpc.aio forgets them: when a write fails because the POP has ended the call, it puts `INTERNAL: Internal error from
Core` in the place of the status that came with the end (https://github.com/grpc/grpc/issues/36066, grpcio 1.85). A
client that keeps writing loses most statuses so. Each status is therefore noted in the moment in which it is set.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from grpc import StatusCode, aio

from .errors import PopsignerError, Unavailable
from .status import error_of_call

R = TypeVar("R")
_OVERWRITTEN = "Internal error from Core"
# The failed write may be noticed before the status has come; it is on its way, if the connection still stands.
_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class _Noted:
    """A final status, as `popsigner.status` reads it."""

    status: StatusCode
    text: str
    metadata: Any

    def code(self) -> StatusCode:
        return self.status

    def details(self) -> str:
        return self.text

    def trailing_metadata(self) -> Any:
        return self.metadata


def _at_once(coroutine: Coroutine[Any, Any, R]) -> R:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        result: R = finished.value
        return result
    coroutine.close()
    raise AssertionError("the status of a finished call is there")


class Ending:
    """Watches one call from its beginning."""

    def __init__(self, call: "aio.StreamStreamCall[Any, Any]", *, endpoint: str) -> None:
        self._endpoint = endpoint
        self._noted: asyncio.Future[_Noted] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note)

    def _note(self, call: "aio.StreamStreamCall[Any, Any]") -> None:
        details = _at_once(call.details())
        if not self._noted.done() and details != _OVERWRITTEN:
            self._noted.set_result(_Noted(_at_once(call.code()), details, _at_once(call.trailing_metadata())))

    async def error(self) -> PopsignerError:
        """The typed error that the POP ended the call with."""
        try:
            noted = await asyncio.wait_for(self._noted, _PATIENCE)
        except TimeoutError:
            return Unavailable(f"the stream to the POP at {self._endpoint} broke off")
        return error_of_call(noted, endpoint=self._endpoint)
