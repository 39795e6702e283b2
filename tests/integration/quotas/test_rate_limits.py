"""Rate limits of a whole POP: two server processes that share one budget in a Valkey, behind Envoy."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.plans import read_plans
from popsigner_server.gen.popsigner.v1 import billing_pb2, errors_pb2, key_pb2, sign_pb2
from popsigner_server.storage.engine import Database
from popsigner_server.tenancy.plans import set_plan
from tests.integration.promises.site import Tenant, founded_tenant, open_database, server_sockets
from tests.support.load import Wire, reason_of
from tests.support.pop import Pop
from tests.support.scrape import metric
from tests.support.valkey import Valkey

RATE = 50
PLANS = f"[free]\n[self-hosted]\nrequests_per_second = {RATE}\n"
STORE_AWAY = "rate limit store is away"


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with Valkey.started() as server:
        yield server


@pytest.fixture(scope="module")
def pop(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pop]:
    home = tmp_path_factory.mktemp("settings")
    (home / "plans.toml").write_text(PLANS)
    (home / "store").write_text(f"{valkey.url}\n")
    environment = {
        "POPSIGNER_PLANS_FILE": str(home / "plans.toml"),
        "POPSIGNER_RATE_LIMIT_STORE_FILE": str(home / "store"),
    }
    with Pop.started(options=["--servers", "2"], environment=environment) as pop:
        yield pop


@pytest.fixture(scope="module")
async def database(pop: Pop) -> AsyncIterator[AsyncEngine]:
    engine = open_database(pop)
    yield engine
    await engine.dispose()


@pytest.fixture
async def tenant(pop: Pop, database: AsyncEngine) -> AsyncIterator[Tenant]:
    async with founded_tenant(database, server_sockets(pop, 2)) as tenant:
        yield tenant


@pytest.fixture
async def neighbour(pop: Pop, database: AsyncEngine) -> AsyncIterator[Tenant]:
    async with founded_tenant(database, server_sockets(pop, 2)) as tenant:
        yield tenant


async def test_two_servers_share_one_budget_and_the_neighbour_is_not_limited(
    pop: Pop, tenant: Tenant, neighbour: Tenant
) -> None:
    assert await ask(tenant.owners[0]) == await ask(neighbour.owners[1]) == ""
    missed, began = await unlimited(pop), time.monotonic()
    reasons = await asyncio.gather(
        *(ask(wire) for wire in tenant.owners for _ in range(4 * RATE)),
        *(ask(neighbour.owners[number % 2]) for number in range(RATE // 2)),
    )
    elapsed = time.monotonic() - began
    loud, quiet = reasons[: 8 * RATE], reasons[8 * RATE :]
    assert set(loud) == {"", "RATE_LIMITED"}
    # A stalled machine may let a call through that the store did not answer in time.
    assert loud.count("") <= math.ceil(RATE * (1 + elapsed)) + 2 + await unlimited(pop) - missed
    assert set(quiet) == {""}


async def test_whoever_is_refused_is_told_when_to_come_again(tenant: Tenant) -> None:
    error = await refused(tenant.owners[0])
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"plan self-hosted includes {RATE} calls a second" in (error.details() or "")
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both sorts of call have
    assert status is not None
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 1.0
    assert ("retry-after", "1") in {(name, value) for name, value in error.trailing_metadata() or ()}


async def test_another_plan_holds_for_api_keys_that_are_remembered_with_the_one_before(
    tenant: Tenant, database: AsyncEngine
) -> None:
    wire = tenant.owners[0]

    async def limited() -> bool:
        return "RATE_LIMITED" in await asyncio.gather(*(ask(wire) for _ in range(4 * RATE)))

    assert await limited()
    await set_plan(Database(database), read_plans(PLANS), organization=tenant.id.hex, plan="free")
    # Well below the minute for which a verified API key is remembered.
    end = time.monotonic() + 20
    while await limited():
        assert time.monotonic() < end


async def test_json_callers_get_retry_after(pop: Pop, tenant: Tenant) -> None:
    async with aiohttp.ClientSession(headers={"x-api-key": tenant.api_key}) as session:

        async def get() -> tuple[int, str | None, Any]:
            async with session.get(f"{pop.http}/v1/billing/usage") as answer:
                return answer.status, answer.headers.get("retry-after"), await answer.json()

        for _ in range(20):
            answers = await asyncio.gather(*(get() for _ in range(4 * RATE)))
            if late := [answer for answer in answers if answer[0] != 200]:
                break
        status, retry_after, body = late[0]
    assert (status, retry_after) == (429, "1")
    details = {detail["@type"].rpartition(".")[2]: detail for detail in body["details"]}
    assert details["ErrorInfo"]["reason"] == "RATE_LIMITED"
    assert details["RetryInfo"]["retry_delay"] == "1s"


async def test_a_message_too_many_gets_its_error_and_the_stream_goes_on(tenant: Tenant) -> None:
    wire = tenant.owners[0]
    made = await wire.keys.CreateKey(key_pb2.CreateKeyRequest(name="stream"), metadata=wire.metadata, timeout=30)
    item = sign_pb2.SignItem(key_id=made.key.id, data=b"again and again")
    stream = wire.signing.SignStream(metadata=wire.metadata, timeout=60)

    async def send(number: int) -> None:
        await stream.write(sign_pb2.SignStreamRequest(correlation_id=number, requests=[item]))

    async def heard() -> sign_pb2.SignStreamResponse:
        answer = await stream.read()
        assert isinstance(answer, sign_pb2.SignStreamResponse)
        return answer

    signed: set[int] = set()
    limited: set[int] = set()
    wait = 0.0
    for number in range(100 * RATE):
        # Some on their way at once, so that the seconds hold more than their share.
        for each in range(10):
            await send(10 * number + each)
        for _ in range(10):
            answer = await heard()
            if answer.HasField("error"):
                assert answer.error.reason == errors_pb2.RATE_LIMITED
                wait = answer.error.retry_after.ToTimedelta().total_seconds()
                limited.add(answer.correlation_id)
            else:
                signed.add(answer.correlation_id)
        if limited:
            break
    assert signed
    assert wait == 1.0
    # What was refused was not signed, and after the wait the same stream signs.
    for number in range(100):
        await asyncio.sleep(wait)
        await send(1_000_000 + number)
        answer = await heard()
        if not answer.HasField("error"):
            break
    assert len(answer.signatures) == 1
    await stream.done_writing()
    await stream.read()
    usage = await wire.billing.GetUsage(billing_pb2.GetUsageRequest(), metadata=wire.metadata, timeout=30)
    assert {each.metric: each.value for each in usage.usage}["signatures"] == len(signed) + 1


async def test_while_the_store_is_away_calls_pass_and_are_counted_and_told_of_once(
    pop: Pop, valkey: Valkey, tenant: Tenant
) -> None:
    await refused(tenant.owners[0])
    before, told = await unlimited(pop), log(pop).count(STORE_AWAY)
    valkey.kill()
    try:
        reasons = await asyncio.gather(*(ask(wire) for wire in tenant.owners for _ in range(4 * RATE)))
        assert set(reasons) == {""}
        assert await unlimited(pop) - before == len(reasons)
        assert log(pop).count(STORE_AWAY) - told <= 2
        assert log(pop).count(STORE_AWAY) >= 1
    finally:
        valkey.start()
    # Back again: the limit holds, without a restart of anything.
    await refused(tenant.owners[0])
    await refused(tenant.owners[1])


async def ask(wire: Wire) -> str:
    """One cheap call; the reason of its refusal, empty for none."""
    try:
        await wire.billing.GetUsage(billing_pb2.GetUsageRequest(), metadata=wire.metadata, timeout=30)
    except grpc.aio.AioRpcError as error:
        return reason_of(error)
    return ""


async def refused(wire: Wire) -> grpc.aio.AioRpcError:
    """Call until the limit refuses."""
    for _ in range(100):
        calls = [
            wire.billing.GetUsage(billing_pb2.GetUsageRequest(), metadata=wire.metadata, timeout=30)
            for _ in range(2 * RATE)
        ]
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, grpc.aio.AioRpcError):
                assert reason_of(answer) == "RATE_LIMITED"
                return answer
    raise AssertionError("the limit never refused")


async def unlimited(pop: Pop) -> int:
    """Calls that both servers let through."""
    return int(await metric(pop, "popsigner_rate_limit_store_misses_total"))


def log(pop: Pop) -> str:
    return "".join(file.read_text() for file in (pop.data_dir / "logs").glob("server*.log"))
