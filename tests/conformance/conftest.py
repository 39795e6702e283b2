"""One POP for the whole folder."""

from collections.abc import AsyncIterator, Iterator

import aiohttp
import grpc
import pytest

from popsigner import Client
from tests.integration.pop.wire import Json, Wire
from tests.support.pop import Pop


@pytest.fixture(scope="package")
def pop() -> Iterator[Pop]:
    with Pop.started() as pop:
        yield pop


@pytest.fixture(scope="package")
async def owner(pop: Pop) -> AsyncIterator[Wire]:
    async with grpc.aio.insecure_channel(pop.grpc) as channel:
        yield Wire(channel, pop.api_key)


@pytest.fixture(scope="package")
async def http(pop: Pop) -> AsyncIterator[Json]:
    async with aiohttp.ClientSession() as session:
        yield Json(pop.http, pop.api_key, session)


@pytest.fixture(scope="package")
def sdk(pop: Pop) -> Iterator[Client]:
    with Client(api_key=pop.api_key, endpoint=pop.http) as client:
        yield client
