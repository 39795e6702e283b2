"""The gateway's web application as a process of its own, as an operator runs it; and small sites on this test's
loop."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from starlette.types import ASGIApp

from tests.gateway.proxy import free_port
from tests.gateway.web.fake_server import SECRET


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """A running application. url: its public URL, where it listens itself unless Envoy stands there."""

    url: str
    listen: str
    log: Path
    process: asyncio.subprocess.Process

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    async def end(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()


COMMAND = (sys.executable, "-m", "popsigner_gateway.web.cli", "serve")


def environment(**settings: str) -> dict[str, str]:
    """A process's environment with these settings, without whatever the caller's own says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POPSIGNER_")}
    return kept | {f"POPSIGNER_GATEWAY_{name.upper()}": value for name, value in settings.items()}


@asynccontextmanager
async def running(
    server: str, *, listen: str | None = None, public_url: str | None = None, more: Mapping[str, str] | None = None
) -> AsyncIterator[Web]:
    """server: where the server answers. listen: a free loopback port by default. public_url: `listen` by default."""
    home = Path(tempfile.mkdtemp(prefix="web-"))
    listen = listen or f"127.0.0.1:{free_port()}"
    url = public_url or f"http://{listen}"
    secret, log = home / "gateway.secret", home / "log"
    secret.write_text(SECRET + "\n")
    settings = {"listen": listen, "server": server, "secret_file": str(secret), "public_url": url} | dict(more or {})
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*COMMAND, stderr=output, env=environment(**settings))
    web = Web(url=url, listen=listen, log=log, process=process)
    try:
        await _until_ready(web)
        yield web
    finally:
        await web.end()


def transport(listen: str) -> httpx2.AsyncHTTPTransport:
    return httpx2.AsyncHTTPTransport(uds=listen.removeprefix("unix://") if listen.startswith("unix:") else None)


async def _until_ready(web: Web) -> None:
    host = "gateway" if web.listen.startswith("unix:") else web.listen
    async with httpx2.AsyncClient(transport=transport(web.listen), trust_env=False) as client:
        for _ in range(400):
            try:
                if (await client.get(f"http://{host}/internal/ready")).status_code == 200:
                    return
            except httpx2.TransportError:
                assert web.process.returncode is None, web.log.read_text()
            await asyncio.sleep(0.05)
    raise AssertionError(f"the gateway does not get ready:\n{web.log.read_text()}")


class _Quiet(uvicorn.Server):
    """Leaves signals to the test runner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def site(app: ASGIApp) -> AsyncIterator[str]:
    """Serve `app` on this loop; yields its URL. The app may want its URL only later, so it is told by its caller."""
    port = free_port()
    config = uvicorn.Config(
        app, port=port, log_config=None, access_log=False, lifespan="off", http="h11", loop="asyncio"
    )
    server = _Quiet(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not serving.done()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving
