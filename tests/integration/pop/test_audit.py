"""The audit trail and the usage: every signature once, in order, with who, what and from where."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from Crypto.Hash import keccak
from google.protobuf.timestamp_pb2 import Timestamp

from popsigner_server.gen.popsigner.v1 import api_key_pb2, audit_pb2, billing_pb2, key_pb2, namespace_pb2, sign_pb2
from tests.integration.pop.wire import Json, Wire
from tests.support.pop import Pop


def stamp(moment: datetime) -> Timestamp:
    written = Timestamp()
    written.FromDatetime(moment)
    return written


async def test_a_signatures_row_says_who_signed_what_when_and_from_where(owner: Wire, key: key_pb2.Key) -> None:
    digest = hashlib.sha256(b"digest").digest()
    began = datetime.now(UTC) - timedelta(seconds=1)
    for request in (
        sign_pb2.SignRequest(data=b"one", sign_mode="SIGN_MODE_DIRECT", request_id=f"one-{key.id}"),
        sign_pb2.SignRequest(data=b"two", hash=sign_pb2.KECCAK256, format=sign_pb2.DER),
        sign_pb2.SignRequest(data=digest, prehashed=True),
    ):
        request.key_id = key.id
        await owner(request)

    prehashed, by_keccak, by_sha = await owner.rows(key_id=key.id, event_type="key.signed")

    assert by_sha.metadata == {
        "data_hash": "sha256:" + hashlib.sha256(b"one").hexdigest(),
        "key_version": "1",
        "sign_mode": "SIGN_MODE_DIRECT",
        "request_id": f"one-{key.id}",
    }
    assert by_keccak.metadata == {
        "data_hash": "keccak256:" + keccak.new(digest_bits=256, data=b"two").hexdigest(),
        "key_version": "1",
    }
    assert prehashed.metadata["data_hash"] == "digest:" + digest.hex()
    for row in (by_sha, by_keccak, prehashed):
        assert (row.event, row.key_id, row.resource_id) == ("key.signed", key.id, "")
        assert row.actor == "ak_" + owner.api_key.split("_")[2]
        assert row.ip_address == "127.0.0.1"
        assert row.user_agent.startswith("grpc-python-asyncio/")
        assert began <= row.timestamp.ToDatetime(tzinfo=UTC) <= datetime.now(UTC)
        assert (await owner(audit_pb2.GetLogRequest(log_id=row.id))).log == row
    assert by_sha.sequence < by_keccak.sequence < prehashed.sequence


async def test_a_caller_beside_the_gateway_cannot_choose_its_address(pop: Pop, owner: Wire, http: Json) -> None:
    """On the loopback port anybody can send the gateway's header; through the gateway nobody can."""
    key_id = (await owner(key_pb2.CreateKeyRequest(name=uuid4().hex))).key.id
    claimed: Any = (*owner.metadata, ("x-envoy-external-address", "203.0.113.9"))
    await owner(sign_pb2.SignRequest(key_id=key_id, data=b"x"), metadata=claimed)
    for header in ("x-envoy-external-address", "x-forwarded-for"):
        answer = await http("POST", f"/v1/keys/{key_id}/sign", {"data": "eA=="}, headers={header: "203.0.113.9"})
        assert answer.status == 200

    rows = await owner.rows(key_id=key_id, event_type="key.signed")

    assert [row.ip_address for row in rows] == ["127.0.0.1"] * 3


async def test_every_change_has_its_row(owner: Wire) -> None:
    key = (await owner(key_pb2.CreateKeyRequest(name=uuid4().hex))).key
    await owner(key_pb2.UpdateKeyRequest(key_id=key.id, metadata={"chain": "celestia"}))
    await owner(key_pb2.DeleteKeyRequest(key_id=key.id))
    await owner(key_pb2.DeleteKeyRequest(key_id=key.id, force=True))
    made = await owner(api_key_pb2.CreateApiKeyRequest(name="a", scopes=["api:keys:read"]))
    await owner(api_key_pb2.RevokeApiKeyRequest(api_key_id=made.api_key.id))
    # Again: it changes nothing, and writes nothing.
    await owner(api_key_pb2.RevokeApiKeyRequest(api_key_id=made.api_key.id))
    namespace = (await owner(namespace_pb2.CreateNamespaceRequest(name="n" + uuid4().hex))).namespace
    await owner(namespace_pb2.DeleteNamespaceRequest(namespace_id=namespace.id))

    rows = (await owner.doings())[:8]

    assert [(row.event, row.key_id or row.resource_id) for row in reversed(rows)] == [
        ("key.created", key.id),
        ("key.updated", key.id),
        ("key.deleted", key.id),
        ("key.destroyed", key.id),
        ("api_key.created", made.api_key.id),
        ("api_key.revoked", made.api_key.id),
        ("namespace.created", namespace.id),
        ("namespace.deleted", namespace.id),
    ]


async def test_the_trail_begins_with_the_organization_and_has_no_gap(owner: Wire, pop: Pop) -> None:
    rows = await owner.rows()

    assert [row.sequence for row in rows] == list(range(len(rows), 0, -1))
    assert (rows[-1].event, rows[-1].resource_id, rows[-1].actor) == (
        "organization.created",
        pop.organization,
        "system",
    )
    # A row's time is when its change began, and those of uses are written beside everything else: the order is the
    # sequence.
    times = [row.timestamp.ToNanoseconds() for row in rows if row.event != "auth.api_key_used"]
    assert times == sorted(times, reverse=True)


async def test_pages_stay_whole_while_rows_are_added(owner: Wire, key: key_pb2.Key) -> None:
    async def sign(data: bytes) -> None:
        await owner(sign_pb2.SignRequest(key_id=key.id, data=data))

    await asyncio.gather(*(sign(b"%d" % number) for number in range(9)))
    before = [row.id for row in await owner.rows(key_id=key.id)]

    walked: list[str] = []
    cursor = ""
    while True:
        page = await owner(audit_pb2.ListLogsRequest(key_id=f"production/{key.name}", page_size=4, cursor=cursor))
        walked += [row.id for row in page.logs]
        await sign(b"meanwhile")
        cursor = page.next_cursor
        if not cursor:
            break

    assert walked == before


async def test_filters_of_time_event_and_key_hold_together(owner: Wire, key: key_pb2.Key) -> None:
    other = (await owner(key_pb2.CreateKeyRequest(name=uuid4().hex))).key
    for number in range(4):
        for key_id in (key.id, other.id):
            await owner(sign_pb2.SignRequest(key_id=key_id, data=b"%d" % number))
    newest, third, second, oldest = await owner.rows(key_id=key.id, event_type="key.signed")

    # From a moment on, inclusive; up to another, exclusive.
    between = await owner.rows(
        key_id=key.id, event_type="key.signed", start_time=second.timestamp, end_time=newest.timestamp
    )
    assert between == [third, second]
    assert await owner.rows(key_id=key.id, end_time=second.timestamp) == [
        oldest,
        (await owner.rows(key_id=key.id, event_type="key.created"))[0],
    ]
    assert await owner.rows(key_id=key.id, event_type="key.deleted") == []
    tomorrow = stamp(datetime.now(UTC) + timedelta(days=1))
    assert await owner.rows(start_time=tomorrow) == []
    assert await owner.rows(start_time=newest.timestamp, end_time=oldest.timestamp) == []


async def test_usage_equals_the_rows_under_load(pop: Pop, owner: Wire) -> None:
    keys = (await owner(key_pb2.BatchCreateKeysRequest(prefix=uuid4().hex, count=4))).keys
    used = await owner.signatures_used()
    released: list[bytes] = []

    async def one(caller: int) -> None:
        for number in range(8):
            data = b"%d-%d" % (caller, number)
            key_id = keys[caller % 4].id
            if number % 2:
                answer = await owner(sign_pb2.SignRequest(key_id=key_id, data=data))
                released.append(answer.signature)
            else:
                items = [sign_pb2.SignItem(key_id=key_id, data=data + b"-%d" % place) for place in range(5)]
                items.append(sign_pb2.SignItem(key_id="production/nobody", data=data))
                answer = await owner(sign_pb2.BatchSignRequest(requests=items))
                released.extend(result.signature for result in answer.signatures if result.signature)

    await asyncio.gather(*(one(caller) for caller in range(16)))

    assert len(set(released)) == len(released) == 16 * (4 + 4 * 5)
    assert await owner.signatures_used() == used + len(released)
    assert len(await owner.rows(event_type="key.signed")) == await owner.signatures_used()
    rows = [row for each in keys for row in await owner.rows(key_id=each.id, event_type="key.signed")]
    assert len({row.metadata["data_hash"] for row in rows}) == len(released)


async def test_usage_of_another_month_is_its_own(owner: Wire) -> None:
    usage = await owner(billing_pb2.GetUsageRequest(month="2024-02"))

    assert usage.period_start.ToJsonString() == "2024-02-01T00:00:00Z"
    assert usage.period_end.ToJsonString() == "2024-03-01T00:00:00Z"
    assert {each.metric: each.value for each in usage.usage}["signatures"] == 0


@pytest.mark.parametrize("place", ["http", "grpc_socket"])
async def test_every_address_leads_to_the_same_trail(pop: Pop, owner: Wire, key: key_pb2.Key, place: str) -> None:
    target = getattr(pop, place).removeprefix("http://")
    async with grpc.aio.insecure_channel(target) as channel:
        await Wire(channel, pop.api_key)(sign_pb2.SignRequest(key_id=key.id, data=place.encode()))

    (row,) = await owner.rows(key_id=key.id, event_type="key.signed")

    assert row.metadata["data_hash"] == "sha256:" + hashlib.sha256(place.encode()).hexdigest()
    assert row.ip_address == ("127.0.0.1" if place == "http" else "")
