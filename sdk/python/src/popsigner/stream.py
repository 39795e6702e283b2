"""SignStream: signatures for as long as there is something to sign.

Three parts keep each other in step. The feeder takes items from the caller's iterator while there is room; the sender
puts what has gathered into one message, as soon as the window has a place; the caller's own `async for` reads the
answers. A place in the window is free again when the caller has consumed an answer, not when it has arrived: so a
slow consumer fills the window, the sender waits, the room fills up, and the caller's iterator is left alone.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from grpc import aio

from .calls.signing import message_of, result_of
from .carrier import AsyncCarrier
from .ending import Ending
from .errors import Cancelled, InternalError, PopsignerError, Unavailable
from .gen.popsigner.v1 import SignStreamResponse
from .signing import SignItem, SignResult
from .status import error_of_item
from .wire import encode_item, encode_message

_MOST_ITEMS = 256
_MOST_MESSAGES = 64
# A message that has reached this many bytes is sent without waiting for its last items.
_FULL_MESSAGE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Entry:
    """An item on its way: what its result needs, and its bytes."""

    tag: Any
    key_id: str
    request_id: str
    encoded: bytes

    def refused(self, error: PopsignerError) -> tuple[Any, SignResult]:
        return self.tag, SignResult(key_id=self.key_id, outcome=error)


def sign_stream(
    carrier: AsyncCarrier, items: AsyncIterable[SignItem] | Iterable[SignItem], *, batch: int, in_flight: int
) -> AsyncGenerator[tuple[Any, SignResult], None]:
    """Sign what `items` gives; yields `(tag, result)` as answers come, in any order.

    Every item that was taken from `items` gets exactly one result. If the stream breaks, the items without an answer
    get the error that broke it as their result, and then the error is raised: the rest of `items` was not taken. If
    `items` raises, what it gave before is signed and yielded, and then its exception is raised. Closing the
    generator, or cancelling its task, ends the call; `contextlib.aclosing` closes it at the end of a block.
    """
    if not 1 <= batch <= _MOST_ITEMS:
        raise ValueError(f"batch is 1 to {_MOST_ITEMS} items")
    if not 1 <= in_flight <= _MOST_MESSAGES:
        raise ValueError(f"in_flight is 1 to {_MOST_MESSAGES} messages")
    return _Stream(carrier, items, batch=batch, in_flight=in_flight).results()


async def _each(items: AsyncIterable[SignItem] | Iterable[SignItem]) -> AsyncGenerator[SignItem, None]:
    """Each item. Closing this closes an iterator that was made for it alone, where else the collector would, after the
    stream's end; an iterator that the caller has given is the caller's to close, or to go on with."""
    if isinstance(items, AsyncIterable):
        source = aiter(items)
        try:
            async for item in source:
                yield item
        finally:
            if source is not items and isinstance(source, AsyncGenerator):
                await _close(source)
    else:
        for item in items:
            yield item


async def _close(source: AsyncGenerator[SignItem, None]) -> None:
    try:
        await source.aclose()
    except Exception as error:
        # The stream is over, and why is told already; this is told as Python tells it of what its collector closes.
        asyncio.get_running_loop().call_exception_handler(
            {"message": "the input of a stream failed when it was closed", "exception": error, "asyncgen": source}
        )


class _Stream:
    def __init__(
        self,
        carrier: AsyncCarrier,
        items: AsyncIterable[SignItem] | Iterable[SignItem],
        *,
        batch: int,
        in_flight: int,
    ) -> None:
        self._carrier = carrier
        self._items = items
        self._batch = batch
        self._room = asyncio.Semaphore(batch)
        self._window = asyncio.Semaphore(in_flight)
        self._gathered: deque[_Entry] = deque()
        self._stirred = asyncio.Event()
        self._exhausted = False
        self._input_error: BaseException | None = None
        self._unanswered: dict[int, list[_Entry]] = {}

    async def results(self) -> AsyncGenerator[tuple[Any, SignResult], None]:
        call, token = await self._carrier.open_stream()
        ending = Ending(call, endpoint=self._carrier.dealings.connection.endpoint.shown)
        tasks = [asyncio.create_task(self._feed()), asyncio.create_task(self._send(call))]
        broken: PopsignerError | None = None
        try:
            while broken is None:
                try:
                    answer = await call.read()
                    if not isinstance(answer, SignStreamResponse):
                        break
                    settled = self._settle(answer)
                except aio.AioRpcError:
                    broken = await ending.error()
                except PopsignerError as fault:
                    broken = fault
                except asyncio.CancelledError:
                    if not _closed_under_us(call):
                        raise
                    broken = Cancelled("the client was closed while it signed a stream")
                else:
                    for entry in settled:
                        yield entry
                    self._window.release()
            exhausted, input_error = self._exhausted, self._input_error
            await _stop(tasks)
            left = [entry for entries in self._unanswered.values() for entry in entries] + list(self._gathered)
            if broken is None and (left or not exhausted):
                broken = Unavailable("the POP closed the stream before it had answered everything")
            if broken is not None:
                self._carrier.dealings.refused(broken, token)
                for unanswered in left:
                    yield unanswered.refused(broken)
                raise broken
            if input_error is not None:
                raise input_error
        finally:
            call.cancel()
            await _stop(tasks)

    async def _feed(self) -> None:
        position = 0
        try:
            async with aclosing(_each(self._items)) as source:
                while True:
                    # Room first: an item that has been taken is never without a place.
                    await self._room.acquire()
                    item = await anext(source)
                    message = message_of(item)
                    tag = position if item.tag is None else item.tag
                    self._gathered.append(_Entry(tag, message.key_id, message.request_id, encode_item(message)))
                    self._stirred.set()
                    position += 1
        except StopAsyncIteration:
            pass
        except (Exception, asyncio.CancelledError) as error:
            self._input_error = error
        finally:
            self._exhausted = True
            self._stirred.set()

    async def _send(self, call: "aio.StreamStreamCall[bytes, SignStreamResponse]") -> None:
        number = 0
        try:
            while True:
                while not self._gathered and not self._exhausted:
                    self._stirred.clear()
                    await self._stirred.wait()
                if not self._gathered:
                    await call.done_writing()
                    return
                # While this waits, more items gather: messages grow with the load.
                await self._window.acquire()
                number += 1
                # Registered before anything is awaited: from here on it is answered or counted as unanswered.
                self._unanswered[number] = entries = self._pack()
                await call.write(encode_message(number, [entry.encoded for entry in entries]))
        except (aio.AioRpcError, asyncio.InvalidStateError):
            # The call has ended; whoever reads the answers learns how.
            return

    def _pack(self) -> list[_Entry]:
        entries: list[_Entry] = []
        size = 0
        while self._gathered and len(entries) < self._batch and size < _FULL_MESSAGE:
            entry = self._gathered.popleft()
            self._room.release()
            entries.append(entry)
            size += len(entry.encoded)
        return entries

    def _settle(self, answer: SignStreamResponse) -> list[tuple[Any, SignResult]]:
        entries = self._unanswered.get(answer.correlation_id)
        if entries is None:
            raise InternalError(f"the POP answered message {answer.correlation_id}, which awaits no answer")
        if answer.error is None and len(answer.signatures) != len(entries):
            raise InternalError(f"the POP answered {len(answer.signatures)} of {len(entries)} items")
        del self._unanswered[answer.correlation_id]
        if answer.error is not None:
            error = error_of_item(answer.error)
            return [entry.refused(error) for entry in entries]
        return [
            (entry.tag, result_of(entry.key_id, entry.request_id, result))
            for entry, result in zip(entries, answer.signatures, strict=True)
        ]


def _closed_under_us(call: "aio.StreamStreamCall[bytes, SignStreamResponse]") -> bool:
    """Whether a CancelledError means that the channel was closed, and not that the caller's task is to end."""
    task = asyncio.current_task()
    return call.cancelled() and task is not None and not task.cancelling()


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
