"""The vault's HTTP: kept connections, every way in which an answer fails to come, and nobody gets another's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from popsigner_server.vault import http
from popsigner_server.vault.http import HttpClient, HttpError

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server that answers each request as the test says."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.connections = 0
        self.requests: list[bytes] = []
        self.answer: Answer = said(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.requests.append(head + body)
                await self.answer(head + body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def ask(self, client: HttpClient, body: bytes = b"", timeout: float = 20.0) -> tuple[int, bytes]:
        return await client.request("POST", "/v1/x", token="t", body=body, content_type="a/b", timeout=timeout)


def said(answer: bytes) -> Answer:
    async def answered(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return answered


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    made = Peer(f"unix://{tmp_path}/s")
    server = await asyncio.start_unix_server(made.serve, tmp_path / "s")
    async with server:
        yield made


async def test_a_request_is_whole_and_its_connection_is_used_again(peer: Peer) -> None:
    client = HttpClient(peer.address)
    assert await peer.ask(client, b"body") == (200, b"{}")
    assert await peer.ask(client) == (200, b"{}")
    assert peer.connections == 1
    assert peer.requests[0] == (
        b"POST /v1/x HTTP/1.1\r\nHost: openbao\r\nX-Vault-Token: t\r\n"
        b"Content-Type: a/b\r\nContent-Length: 4\r\n\r\nbody"
    )
    client.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", (200, b"abcde")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 307 Moved\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n", (307, b"")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", (200, b"x")),
    ],
)
async def test_every_form_of_an_answer_is_read(peer: Peer, answer: bytes, expected: tuple[int, bytes]) -> None:
    client = HttpClient(peer.address)
    peer.answer = said(answer)
    assert [await peer.ask(client) for _ in range(2)] == [expected] * 2
    assert peer.connections == (2 if b"close" in answer else 1)
    client.close()


async def test_an_answer_in_single_bytes_is_one_answer(peer: Peer) -> None:
    async def slowly(_: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    peer.answer = slowly
    client = HttpClient(peer.address)
    assert await peer.ask(client) == (200, b"abc")
    client.close()


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
async def test_what_is_not_http_is_an_error(peer: Peer, answer: bytes) -> None:
    peer.answer = said(answer)
    with pytest.raises(HttpError, match="not HTTP"):
        await peer.ask(HttpClient(peer.address))


async def test_an_answer_that_never_ends_is_an_error(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER", 1 << 20)
    peer.answer = said(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(2 << 20))
    with pytest.raises(HttpError, match="too long"):
        await peer.ask(HttpClient(peer.address))


async def test_a_kept_connection_that_is_over_is_replaced_once(peer: Peer) -> None:
    client = HttpClient(peer.address)
    await peer.ask(client)

    async def hung_up(_: bytes, writer: asyncio.StreamWriter) -> None:
        peer.answer = said(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
        writer.transport.abort()

    peer.answer = hung_up
    assert await peer.ask(client) == (200, b"1")
    assert peer.connections == 2
    client.close()


async def test_a_server_that_hangs_up_on_a_new_connection_is_an_error(peer: Peer) -> None:
    async def hung_up(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    peer.answer = hung_up
    with pytest.raises(HttpError, match="ended"):
        await peer.ask(HttpClient(peer.address))
    assert peer.connections == 1


async def test_an_answer_that_came_too_late_is_nobodys(peer: Peer) -> None:
    late = asyncio.Event()

    async def slowly(request: bytes, writer: asyncio.StreamWriter) -> None:
        if request.endswith(b"slow"):
            await late.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + request[-4:])

    peer.answer = slowly
    client = HttpClient(peer.address)
    with pytest.raises(TimeoutError):
        await peer.ask(client, b"slow", timeout=0.2)
    late.set()
    assert await peer.ask(client, b"next") == (200, b"next")
    client.close()


async def test_requests_at_once_get_their_own_answers(peer: Peer) -> None:
    async def echoed(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.001)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + request[-3:])

    peer.answer = echoed
    client = HttpClient(peer.address)
    answers = await asyncio.gather(*(peer.ask(client, b"%03d" % number) for number in range(100)))
    assert answers == [(200, b"%03d" % number) for number in range(100)]
    client.close()


async def test_nobody_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="s"):
        await HttpClient(f"unix://{tmp_path}/s").request("GET", "/", content_type="a/b", timeout=5)


def test_an_address_that_is_none_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="is no address of a vault"):
        HttpClient("vault.example:8200")
