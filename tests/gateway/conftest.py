"""One upstream and one Envoy for the tests of a module that change neither.

Not for all modules: while a test without `await` runs, this process answers no health check, and Envoy takes its
upstream for dead.
"""

from collections.abc import AsyncIterator

import grpc
import pytest

from tests.gateway import proxy, upstream
from tests.gateway.proxy import Proxy
from tests.gateway.upstream import Upstream


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Upstream]:
    async with upstream.serving() as (running, _):
        yield running


@pytest.fixture(scope="module")
async def envoy(server: Upstream) -> AsyncIterator[Proxy]:
    async with proxy.running(server.address) as running:
        yield running


@pytest.fixture(scope="module")
async def channel(envoy: Proxy) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}") as opened:
        yield opened


@pytest.fixture(scope="module")
async def key_id(envoy: Proxy) -> str:
    """The id of `production/worker-0`."""
    answer = await envoy.ask("POST", "/v1/keys", {"name": "worker-0"})
    return str(answer.json["id"])
