"""A real Envoy in front of what a test gives it."""

import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from popsigner_gateway import envoy
from tests.gateway.upstream import API_KEY

BINARY = shutil.which("envoy", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
CREDENTIALS = {"x-api-key": API_KEY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def reason(self) -> str:
        """The reason of an error in the one shape that every error has; fails for any other body."""
        error = self.json
        assert set(error) == {"code", "message", "details"}, error
        assert isinstance(error["code"], int)
        assert isinstance(error["message"], str)
        assert error["message"]
        assert self.headers["content-type"] == "application/json"
        (info,) = (detail for detail in error["details"] if detail["@type"].endswith("/google.rpc.ErrorInfo"))
        assert info["domain"] == "popsigner.com"
        return str(info["reason"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A running Envoy."""

    port: int
    log: Path
    """Its standard output: the access log."""
    admin: Path

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """A JSON request with the test's credentials; `body` is sent as it is if it is bytes or str."""
        data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        return await self.send(method, path, data, CREDENTIALS | {k.replace("_", "-"): v for k, v in headers.items()})

    async def send(self, method: str, path: str, data: Any, headers: dict[str, str]) -> Answer:
        status, kept, body = await self.raw(method, path, data, headers)
        return Answer(status=status, headers=kept, text=body.decode())

    async def raw(
        self, method: str, path: str, data: Any, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        async with aiohttp.ClientSession() as session:
            url = URL(self.http + path, encoded=True)
            async with session.request(method, url, data=data, headers=headers) as answer:
                kept = {name.lower(): value for name, value in answer.headers.items()}
                return answer.status, kept, await answer.read()

    async def until_health(self, status: int) -> None:
        """Wait until /healthz answers this and requests go where it says; three checks of a silent server fit in.

        /healthz knows a moment earlier than the worker thread that sends requests on. The request that is tried is for
        a service that the upstream does not have.
        """
        for _ in range(200):
            health, tried = await self.ask("GET", "/healthz"), await self.ask("GET", "/v1/billing/usage")
            if health.status == status and (tried.status != 503) == (status == 200):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"/healthz still answers {health.status}, and a request {tried.status}")

    def access_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


async def _listens(port: int, process: asyncio.subprocess.Process, errors: Path) -> None:
    for _ in range(400):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None:
                break
            await asyncio.sleep(0.025)
        else:
            writer.close()
            return
    said = await asyncio.to_thread(errors.read_text)
    raise AssertionError(f"envoy does not listen (exit code {process.returncode}):\n{said[-3000:]}")


@asynccontextmanager
async def running(*upstreams: str, port: int | None = None, **places: Any) -> AsyncIterator[Proxy]:
    """Envoy with `envoy.yaml` and these arguments of popsigner_gateway.envoy.render, by default on a free loopback
    port."""
    assert BINARY is not None, "there is no envoy beside this Python"
    home = Path(tempfile.mkdtemp(prefix="gw-"))
    port = port or free_port()
    log, errors, admin = home / "access.log", home / "errors.log", home / "admin.sock"
    config = envoy.render(listen=f"127.0.0.1:{port}", upstreams=upstreams, admin_socket=admin, **places)
    (home / "envoy.yaml").write_text(config)
    flags = [
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "--log-level",
        "warning",
        "--file-flush-interval-msec",
        "50",
    ]
    with log.open("wb") as output, errors.open("wb") as complaints:
        process = await asyncio.create_subprocess_exec(
            BINARY, "-c", str(home / "envoy.yaml"), *flags, stdout=output, stderr=complaints
        )
    try:
        await _listens(port, process, errors)
        proxy = Proxy(port=port, log=log, admin=admin)
        if "tls" not in places:
            await proxy.until_health(200)
        yield proxy
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        shutil.rmtree(home, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
