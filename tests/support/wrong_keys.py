"""A flood of wrong API keys on one server process: real prefixes, secrets that nobody has."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import grpc
import psutil

from popsigner_server.gen.popsigner.v1 import api_key_pb2, key_pb2, sign_pb2, sign_pb2_grpc
from popsigner_server.identity import parse_api_key
from popsigner_server.identity.hashing import new_secret
from tests.support.load import PATIENCE, Wire, reason_of
from tests.support.pop import Pop
from tests.support.scrape import metric


async def victims(owner: Wire, count: int) -> list[str]:
    """API keys of an organization, of which the flood is said to know everything but the secret."""
    made = []
    for number in range(count):
        request = api_key_pb2.CreateApiKeyRequest(name=f"victim-{number}", scopes=["api:keys:sign"])
        made.append((await owner.api_keys.CreateApiKey(request, metadata=owner.metadata, timeout=PATIENCE)).key)
    return made


async def signing_key(owner: Wire, name: str) -> str:
    """The id of a new key."""
    request = key_pb2.CreateKeyRequest(name=name)
    return (await owner.keys.CreateKey(request, metadata=owner.metadata, timeout=PATIENCE)).key.id


async def flood(address: str, known: Sequence[str], *, per_second: int, calls: int) -> Counter[str]:
    """So many calls at a constant arrival, each with another secret; how they ended. 64 at most wait for an answer."""
    ends: Counter[str] = Counter()
    places = asyncio.Semaphore(64)
    async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub = sign_pb2_grpc.SignServiceStub(channel)

        async def one(presented: str) -> None:
            request = sign_pb2.SignRequest(key_id="production/theirs", data=b"x")
            try:
                await stub.Sign(request, metadata=(("authorization", f"Bearer {presented}"),), timeout=PATIENCE)
                ends["OK"] += 1
            except grpc.aio.AioRpcError as error:
                ends[reason_of(error)] += 1
            finally:
                places.release()

        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(calls):
                await asyncio.sleep(began + number / per_second - time.monotonic())
                await places.acquire()
                prefix = parse_api_key(known[number % len(known)])
                tasks.create_task(one(replace(prefix, secret=new_secret()).text))
    return ends


def server_process(pop: Pop) -> psutil.Process:
    """The first server process, the one behind `pop.grpc_socket`."""
    return psutil.Process(pop.processes["server"])


async def argon2_runs(pop: Pop) -> int:
    """How often its servers have run Argon2id."""
    return int(await metric(pop, "popsigner_argon2_verification_duration_seconds_count"))
