"""What is written in one turn of the loop leaves together and in order; nothing stays behind."""

import asyncio
from typing import Any, cast

from popsigner_plugin.cork import Corked


class Transport:
    """Remembers what it was told, and in how many pieces."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str) -> str:
        return f"info of {name}"


def corked() -> tuple[Transport, Corked]:
    transport = Transport()
    return transport, Corked(cast(Any, transport))


async def test_one_turns_writes_leave_as_one_in_their_order() -> None:
    transport, cork = corked()
    for data in (b"head", b"ers", b"message", b"", b"trailers"):
        cork.write(data)
    assert transport.written == []
    await asyncio.sleep(0)
    assert transport.written == [b"headersmessagetrailers"]


async def test_the_next_turns_writes_leave_by_themselves() -> None:
    transport, cork = corked()
    for data in (b"a", b"b"):
        cork.write(data)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert transport.written == [b"a", b"b"]


async def test_closing_says_what_is_left_first() -> None:
    transport, cork = corked()
    cork.write(b"goodbye")
    cork.close()
    assert transport.written == [b"goodbye"]
    assert transport.closed
    await asyncio.sleep(0)
    assert transport.written == [b"goodbye"]


async def test_everything_else_is_the_transports() -> None:
    _, cork = corked()
    assert cork.get_extra_info("socket") == "info of socket"
