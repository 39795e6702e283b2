"""One real POP for all tests of the SDK, and clients of it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from popsigner import AsyncClient, Client
from tests.support.pop import Pop


@pytest.fixture(scope="package")
def pop() -> Iterator[Pop]:
    with Pop.started() as pop:
        yield pop


@pytest.fixture
def client(pop: Pop) -> Iterator[Client]:
    with Client(api_key=pop.api_key, endpoint=pop.http) as client:
        yield client


@pytest.fixture
async def async_client(pop: Pop) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(api_key=pop.api_key, endpoint=pop.http) as client:
        yield client
