"""One scripted POP for all tests of the SDK, told anew what to answer by each."""

from collections.abc import AsyncIterator, Iterator

import pytest

from popsigner import AsyncClient, Client, Retry

from .scripted_pop import API_KEY, ScriptedPop

QUICK = Retry(attempts=4, initial=0.005, ceiling=0.02)


@pytest.fixture(scope="package")
def running_pop() -> Iterator[ScriptedPop]:
    pop = ScriptedPop()
    pop.start()
    yield pop
    pop.stop()


@pytest.fixture
def pop(running_pop: ScriptedPop) -> ScriptedPop:
    running_pop.seen.clear()
    running_pop.unary.clear()
    running_pop.stream = None
    return running_pop


@pytest.fixture
def client(pop: ScriptedPop) -> Iterator[Client]:
    with Client(api_key=API_KEY, endpoint=pop.endpoint, retry=QUICK) as client:
        yield client


@pytest.fixture
async def async_client(pop: ScriptedPop) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(api_key=API_KEY, endpoint=pop.endpoint, retry=QUICK) as client:
        yield client
