"""HTTP/1.1 to one server, over a unix socket or TCP: connections are kept, each carries one request at a time.

A client library does far more for a request than the door to the vault needs, and takes a quarter of a lone
signature's time for it. The parser is llhttp (httptools).
"""

import asyncio
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

UNIX: Final = "unix://"
# The largest answer is a page of 1 000 names, or a batch of signatures; whoever sends more is not the vault.
MAX_ANSWER: Final = 16 << 20
# Seconds to open a connection.
CONNECT: Final = 2.0


class HttpError(OSError):
    """No answer came, or one that is not HTTP."""


@dataclass(slots=True)
class _Exchange:
    """One request that is out: what has come back so far."""

    done: asyncio.Future[tuple[int, bytes]]
    body: list[bytes] = field(default_factory=list)
    size: int = 0


class _Line(asyncio.Protocol):
    """One connection. Used from the event loop's thread alone; the pool lends it to one caller at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._exchange: _Exchange | None = None
        self._parser = httptools.HttpResponseParser(self)
        # Whether another request may follow.
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Send a request; its status and body."""
        exchange = self._exchange = _Exchange(asyncio.get_running_loop().create_future())
        self.transport.write(request)
        return exchange.done

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(HttpError(f"the answer is not HTTP ({type(error).__name__})"))

    def on_body(self, part: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self._fail(HttpError("an answer to no question"))
            return
        exchange.body.append(part)
        exchange.size += len(part)
        if exchange.size > MAX_ANSWER:
            self._fail(HttpError("the answer is too long"))

    def on_message_complete(self) -> None:
        exchange, self._exchange = self._exchange, None
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if exchange is None:
            self.close()
        elif not exchange.done.done():
            exchange.done.set_result((status, b"".join(exchange.body)))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(HttpError("the connection ended before the answer"))

    def _fail(self, error: HttpError) -> None:
        exchange, self._exchange = self._exchange, None
        self.close()
        if exchange is not None and not exchange.done.done():
            exchange.done.set_exception(error)

    def close(self) -> None:
        """Carry nothing more."""
        self.usable = False
        self.transport.close()


class HttpClient:
    """Requests to the server at `address`: `unix:///path`, `http://host:port` or `https://…`."""

    def __init__(self, address: str, ca_file: Path | None = None) -> None:
        self._socket: str | None = None
        self._context: ssl.SSLContext | None = None
        self._host, self._port, authority = "", 0, "openbao"
        if address.startswith(UNIX):
            self._socket = address.removeprefix(UNIX)
        else:
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{address} is no address of a vault; write unix://…, http://… or https://….")
            self._host, authority = parts.hostname, parts.netloc
            self._port = parts.port or (443 if parts.scheme == "https" else 80)
            if parts.scheme == "https":
                self._context = ssl.create_default_context(cafile=ca_file)
        self._host_line = f"Host: {authority}\r\n"
        # The line used last is used first, so that a quiet time lets the others go.
        self._idle: list[_Line] = []

    async def request(
        self, method: str, path: str, *, token: str = "", body: bytes = b"", content_type: str, timeout: float
    ) -> tuple[int, bytes]:
        """Status and body; redirects are not followed. timeout: seconds for everything, both attempts of a request on a
        kept connection that turned out to be over. Raises HttpError, TimeoutError, OSError."""
        credential = f"X-Vault-Token: {token}\r\n" if token else ""
        head = (
            f"{method} {path} HTTP/1.1\r\n{self._host_line}{credential}"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        message = head.encode("ascii") + body
        async with asyncio.timeout(timeout):
            line = self._idle_line()
            if line is not None:
                try:
                    return await self._exchange(line, message)
                except HttpError:
                    # The server may have ended it just before, e.g. by a restart; every request may be repeated.
                    pass
            return await self._exchange(await self._open(), message)

    async def _exchange(self, line: _Line, message: bytes) -> tuple[int, bytes]:
        try:
            answer = await line.ask(message)
        except BaseException:
            # An answer that nobody waits for must not become the next request's.
            line.close()
            raise
        if line.usable:
            self._idle.append(line)
        return answer

    def _idle_line(self) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if line.usable:
                return line
        return None

    async def _open(self) -> _Line:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT):
            if self._socket is not None:
                _, line = await loop.create_unix_connection(_Line, self._socket)
            else:
                _, line = await loop.create_connection(_Line, self._host, self._port, ssl=self._context)
        return line

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()
