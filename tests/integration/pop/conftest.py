"""One POP for the whole folder, an owner's wires to it, and a second organization beside the first."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import aiohttp
import grpc
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import create_async_engine

from popsigner_node.postgres import EmbeddedPostgres
from popsigner_server.gen.popsigner.v1 import key_pb2, sign_pb2
from popsigner_server.identity import PresentedKey
from popsigner_server.identity.hashing import hash_secret, new_secret
from popsigner_server.storage.tables import api_keys
from tests.integration.pop.wire import Json, Wire
from tests.support.organizations import found_organization
from tests.support.pop import Pop


@pytest.fixture(scope="package")
def pop() -> Iterator[Pop]:
    with Pop.started() as pop:
        yield pop
        # Whatever the tests sent was their callers' mistake, and none of the POP's.
        assert "internal fault" not in (pop.data_dir / "logs" / "server.log").read_text()


@pytest.fixture(scope="package")
async def channel(pop: Pop) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(pop.grpc) as opened:
        yield opened


@pytest.fixture(scope="package")
def owner(pop: Pop, channel: grpc.aio.Channel) -> Wire:
    return Wire(channel, pop.api_key)


@pytest.fixture(scope="package")
async def http(pop: Pop) -> AsyncIterator[Json]:
    async with aiohttp.ClientSession() as session:
        yield Json(pop.http, pop.api_key, session)


@pytest.fixture(scope="package")
async def neighbour(pop: Pop, channel: grpc.aio.Channel) -> Wire:
    """The owner of another organization. Nothing in the contract founds a second one, so its rows are written here."""
    cluster = EmbeddedPostgres(folder=pop.data_dir / "postgres", sockets=pop.data_dir / "run")
    engine = create_async_engine(cluster.url().replace("postgresql://", "postgresql+psycopg://"))
    organization = await found_organization(engine, keys_of=0)
    api_key_id = organization.caller.principal.actor_id
    assert api_key_id is not None
    presented = PresentedKey(environment="live", id=api_key_id, secret=new_secret())
    async with engine.begin() as connection:
        await connection.execute(
            update(api_keys).where(api_keys.c.id == api_key_id).values(key_hash=hash_secret(presented.secret))
        )
    await engine.dispose()
    return Wire(channel, presented.text)


@pytest.fixture
async def key(owner: Wire) -> key_pb2.Key:
    """A key that the test has to itself."""
    created: key_pb2.Key = (await owner(key_pb2.CreateKeyRequest(name=f"key-{uuid4().hex}"))).key
    return created


@pytest.fixture(scope="package")
async def witness(owner: Wire) -> tuple[str, bytes]:
    """A key and its signature of `unharmed`, made before anything bad came in."""
    key_id = (await owner(key_pb2.CreateKeyRequest(name=f"witness-{uuid4().hex}"))).key.id
    return key_id, (await owner(sign_pb2.SignRequest(key_id=key_id, data=b"unharmed"))).signature


@pytest.fixture
async def unharmed(pop: Pop, owner: Wire, witness: tuple[str, bytes]) -> AsyncIterator[None]:
    """For tests that send bad input: afterwards the same processes still sign the same."""
    # The engine is missing here until its first request.
    before = pop.processes
    yield
    key_id, signature = witness
    assert (await owner(sign_pb2.SignRequest(key_id=key_id, data=b"unharmed"))).signature == signature
    assert pop.processes.items() >= before.items()
