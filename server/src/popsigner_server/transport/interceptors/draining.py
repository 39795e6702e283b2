"""A server that goes away says so: calls under way are answered, new ones are refused with DRAINING.

Closing connections does less: what arrives between its beginning and the client's hearing of it has no answer, and open
streams are cut when the grace ends.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from popsigner_server import errors
from popsigner_server.transport.interceptors.base import Call, Handler, Rpc


class Draining:
    """Refuses new calls after `begin`. A stream takes no more messages, answers those it has, and ends the same way."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._under_way = 0
        self._answered = asyncio.Event()

    async def begin(self, seconds: float) -> None:
        """Take no more, and wait until the calls under way are answered, at most so long."""
        self._begun.set()
        if self._under_way:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), seconds)

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        begun = self._begun

        async def handle(call: Call, request: Any) -> Any:
            if begun.is_set():
                raise errors.Draining
            self._under_way += 1
            try:
                return await proceed(call, request)
            finally:
                self._under_way -= 1
                if begun.is_set() and not self._under_way:
                    self._answered.set()

        async def handle_stream(call: Call, messages: AsyncIterator[Any]) -> None:
            await handle(call, self._until_begun(messages))
            if begun.is_set():
                raise errors.Draining

        return handle_stream if rpc.streams else handle

    async def _until_begun(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        begun = asyncio.ensure_future(self._begun.wait())
        following = None
        try:
            while True:
                following = asyncio.ensure_future(anext(messages))
                await asyncio.wait((following, begun), return_when=asyncio.FIRST_COMPLETED)
                if begun.done():
                    return
                try:
                    message = following.result()
                except StopAsyncIteration:
                    return
                yield message
        finally:
            begun.cancel()
            if following is not None:
                following.cancel()
                # Its error has come through this frame, which must not hold it in turn.
                following = None
