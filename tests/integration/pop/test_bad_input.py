"""Requests that cannot be served, over gRPC: each is refused with its code and reason, and nothing else happens."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from popsigner_server.gen.popsigner.v1 import (
    api_key_pb2,
    audit_pb2,
    billing_pb2,
    errors_pb2,
    key_pb2,
    namespace_pb2,
    sign_pb2,
)
from tests.integration.pop.wire import Refusal, Wire, refusal_of

pytestmark = pytest.mark.usefixtures("unharmed")

MIB = 1 << 20
UNKNOWN_KEY = "key_01J00000000000000000000000"
NAMES = ["", " ", "a b", "a/b", "../a", "-a", ".a", "_a", "ключ", "a\n", "a\x00", "a" * 101, "💥"]

Sign = sign_pb2.SignRequest
Item = sign_pb2.SignItem
Batch = sign_pb2.BatchSignRequest
Verify = sign_pb2.VerifyRequest
Create = key_pb2.CreateKeyRequest
CreateMany = key_pb2.BatchCreateKeysRequest
Name = key_pb2.KeyName


async def assert_refused(owner: Wire, request: Any, reason: str, *fields: str) -> None:
    """Refused as INVALID_ARGUMENT with a sentence; BadRequest names the fields."""
    refusal = await owner.refused(request)
    assert refusal == Refusal(code="INVALID_ARGUMENT", reason=reason, message=refusal.message, fields=fields)
    assert refusal.message.endswith(".")


SIGNING: dict[str, tuple[Callable[[str], Any], str, tuple[str, ...]]] = {
    "data too large": (lambda key: Sign(key_id=key, data=bytes(MIB + 1)), "DATA_TOO_LARGE", ()),
    "data too large to verify": (lambda key: Verify(key_id=key, data=bytes(MIB + 1)), "DATA_TOO_LARGE", ()),
    "digest of 31 bytes": (lambda key: Sign(key_id=key, data=bytes(31), prehashed=True), "DIGEST_LENGTH", ()),
    "digest of 33 bytes": (lambda key: Sign(key_id=key, data=bytes(33), prehashed=True), "DIGEST_LENGTH", ()),
    "no digest": (lambda key: Sign(key_id=key, prehashed=True), "DIGEST_LENGTH", ()),
    "digest to verify": (lambda key: Verify(key_id=key, data=bytes(31), prehashed=True), "DIGEST_LENGTH", ()),
    "empty batch": (lambda key: Batch(), "BATCH_EMPTY", ()),
    "257 items": (lambda key: Batch(requests=[Item(key_id=key, data=b"1")] * 257), "BATCH_TOO_LARGE", ()),
    "hexadecimal": (lambda key: Sign(key_id=key, data=b"6869", encoding="hex"), "INVALID_FIELD", ("encoding",)),
    "a batch in hexadecimal": (
        lambda key: Batch(requests=[Item(key_id=key, data=b"6869")], encoding="hex"),
        "INVALID_FIELD",
        ("encoding",),
    ),
    "verify in hexadecimal": (
        lambda key: Verify(key_id=key, data=b"6869", encoding="hex"),
        "INVALID_FIELD",
        ("encoding",),
    ),
    "unknown encoding": (lambda key: Sign(key_id=key, data=b"x", encoding="base58"), "INVALID_FIELD", ("encoding",)),
    "unknown hash": (lambda key: Sign(key_id=key, data=b"x", hash=9), "INVALID_FIELD", ("hash",)),  # type: ignore[arg-type]  # an open enum takes any number
    "unknown format": (lambda key: Sign(key_id=key, data=b"x", format=9), "INVALID_FIELD", ("format",)),  # type: ignore[arg-type]  # an open enum takes any number
    "long sign mode": (lambda key: Sign(key_id=key, data=b"x", sign_mode="m" * 65), "INVALID_FIELD", ("sign_mode",)),
    "sign mode with a line break": (
        lambda key: Sign(key_id=key, data=b"x", sign_mode="a\nb"),
        "INVALID_FIELD",
        ("sign_mode",),
    ),
    "long request id": (lambda key: Sign(key_id=key, data=b"x", request_id="r" * 65), "INVALID_FIELD", ("request_id",)),
    "request id with NUL": (
        lambda key: Sign(key_id=key, data=b"x", request_id="a\x00"),
        "INVALID_FIELD",
        ("request_id",),
    ),
    "key and public key": (
        lambda key: Verify(key_id=key, public_key="02" + "11" * 32),
        "INVALID_FIELD",
        ("public_key",),
    ),
    "neither key nor public key": (lambda key: Verify(data=b"x"), "INVALID_FIELD", ("public_key",)),
    "public key of 32 bytes": (lambda key: Verify(public_key="11" * 32), "INVALID_FIELD", ("public_key",)),
    "public key off the curve": (lambda key: Verify(public_key="02" + "ff" * 32), "INVALID_FIELD", ("public_key",)),
    "public key that is no hexadecimal": (lambda key: Verify(public_key="zz" * 33), "INVALID_FIELD", ("public_key",)),
    "version of a bare public key": (
        lambda key: Verify(
            public_key="0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798", key_version=1
        ),
        "INVALID_FIELD",
        ("key_version",),
    ),
}


@pytest.mark.parametrize("case", SIGNING)
async def test_signing_refuses(owner: Wire, key: key_pb2.Key, case: str) -> None:
    make, reason, fields = SIGNING[case]
    used = await owner.signatures_used()

    await assert_refused(owner, make(key.id), reason, *fields)

    assert await owner.signatures_used() == used


OTHERS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "no names": (CreateMany(), "BATCH_EMPTY", ()),
    "257 names": (CreateMany(keys=[Name(name=f"n{i}") for i in range(257)]), "BATCH_TOO_LARGE", ()),
    "count of 257": (CreateMany(prefix="many", count=257), "BATCH_TOO_LARGE", ()),
    "count of a billion": (CreateMany(prefix="many", count=10**9), "BATCH_TOO_LARGE", ()),
    "prefix without count": (CreateMany(prefix="a"), "INVALID_FIELD", ("count",)),
    "count without prefix": (CreateMany(count=2), "INVALID_FIELD", ("prefix",)),
    "names and prefix": (CreateMany(keys=[Name(name="a")], prefix="a", count=1), "INVALID_FIELD", ("keys",)),
    "one name twice": (CreateMany(keys=[Name(name="a"), Name(name="a")]), "INVALID_FIELD", ("keys",)),
    "second name bad": (
        CreateMany(keys=[Name(name="fine"), Name(name="not fine")]),
        "INVALID_FIELD",
        ("keys[1].name",),
    ),
    "algorithm": (Create(name="a", algorithm="ed25519"), "INVALID_FIELD", ("algorithm",)),
    "65 notes": (Create(name="a", metadata={str(i): "x" for i in range(65)}), "INVALID_FIELD", ("metadata",)),
    "a note without name": (Create(name="a", metadata={"": "x"}), "INVALID_FIELD", ("metadata",)),
    "a note's long name": (Create(name="a", metadata={"n" * 64: "x"}), "INVALID_FIELD", ("metadata",)),
    "a note's long value": (Create(name="a", metadata={"n": "x" * 257}), "INVALID_FIELD", ("metadata",)),
    "a note with NUL": (Create(name="a", metadata={"n": "a\x00"}), "INVALID_FIELD", ("metadata",)),
    "page of 1001 keys": (key_pb2.ListKeysRequest(page_size=1001), "INVALID_FIELD", ("page_size",)),
    "page of 1001 rows": (audit_pb2.ListLogsRequest(page_size=1001), "INVALID_FIELD", ("page_size",)),
    "page of 1001 API keys": (api_key_pb2.ListApiKeysRequest(page_size=1001), "INVALID_FIELD", ("page_size",)),
    "page of 1001 namespaces": (namespace_pb2.ListNamespacesRequest(page_size=1001), "INVALID_FIELD", ("page_size",)),
    "cursor of keys": (key_pb2.ListKeysRequest(cursor="nonsense"), "INVALID_CURSOR", ()),
    "cursor of rows": (audit_pb2.ListLogsRequest(cursor="%%%"), "INVALID_CURSOR", ()),
    "cursor of API keys": (api_key_pb2.ListApiKeysRequest(cursor="ключ"), "INVALID_CURSOR", ()),
    "cursor of namespaces": (namespace_pb2.ListNamespacesRequest(cursor="A" * 4000), "INVALID_CURSOR", ()),
    "unknown state": (key_pb2.ListKeysRequest(state=9), "INVALID_FIELD", ("state",)),  # type: ignore[arg-type]  # an open enum takes any number
    "a label without value": (key_pb2.ListKeysRequest(labels=["chain"]), "INVALID_FIELD", ("labels",)),
    "nine labels": (key_pb2.ListKeysRequest(labels=["a=b"] * 9), "INVALID_FIELD", ("labels",)),
    "time that is none": (
        audit_pb2.ListLogsRequest(start_time=Timestamp(seconds=1 << 60)),
        "INVALID_FIELD",
        ("start_time",),
    ),
    "API key without rights": (api_key_pb2.CreateApiKeyRequest(name="a"), "INVALID_FIELD", ("scopes",)),
    "API key without name": (
        api_key_pb2.CreateApiKeyRequest(scopes=["api:keys:read"]),
        "INVALID_FIELD",
        ("name",),
    ),
    "unknown scope": (api_key_pb2.CreateApiKeyRequest(name="a", scopes=["api:all"]), "INVALID_FIELD", ("scopes",)),
    "unknown role": (api_key_pb2.CreateApiKeyRequest(name="a", role=9), "INVALID_FIELD", ("role",)),  # type: ignore[arg-type]  # an open enum takes any number
    "expiry in the past": (
        api_key_pb2.CreateApiKeyRequest(name="a", scopes=["api:keys:read"], expires_at=Timestamp(seconds=1)),
        "INVALID_FIELD",
        ("expires_at",),
    ),
    "namespace's name": (namespace_pb2.CreateNamespaceRequest(name="Staging"), "INVALID_FIELD", ("name",)),
    "address prefix": (
        namespace_pb2.CreateNamespaceRequest(name="a", address_prefix="Cosmos"),
        "INVALID_FIELD",
        ("address_prefix",),
    ),
}


@pytest.mark.parametrize("case", OTHERS)
async def test_the_other_rpcs_refuse(owner: Wire, case: str) -> None:
    request, reason, fields = OTHERS[case]
    before = len(await owner.doings())

    await assert_refused(owner, request, reason, *fields)

    assert len(await owner.doings()) == before


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_with_other_characters_is_refused(owner: Wire, key: key_pb2.Key, name: str) -> None:
    await assert_refused(owner, Create(name=name), "INVALID_FIELD", "name")
    await assert_refused(owner, key_pb2.UpdateKeyRequest(key_id=key.id, name=name), "INVALID_FIELD", "name")
    if name:
        await assert_refused(owner, CreateMany(prefix=name, count=2), "INVALID_FIELD", "prefix")


MONTHS = ["2026", "2026-13", "2026-00", "26-01", "2026-1", "January", "2026-01-01", "9999-12", "0000-01", "२०२६-०१"]


@pytest.mark.parametrize("month", MONTHS)
async def test_a_month_that_is_none_is_refused(owner: Wire, month: str) -> None:
    await assert_refused(owner, billing_pb2.GetUsageRequest(month=month), "INVALID_FIELD", "month")


@pytest.mark.parametrize(
    "key_id",
    [
        "",
        UNKNOWN_KEY,
        "production/nobody",
        "nowhere/nobody",
        "key_",
        "key_01J",
        "nobody",
        "a/b/c",
        "/",
        "../../sys",
        "💥",
    ],
)
async def test_a_key_that_does_not_exist_is_not_found(owner: Wire, key_id: str) -> None:
    for request in (
        Sign(key_id=key_id, data=b"x"),
        key_pb2.GetKeyRequest(key_id=key_id),
        key_pb2.UpdateKeyRequest(key_id=key_id, name="a"),
        key_pb2.DeleteKeyRequest(key_id=key_id, force=True),
        *([Verify(key_id=key_id, data=b"x"), audit_pb2.ListLogsRequest(key_id=key_id)] if key_id else []),
    ):
        refusal = await owner.refused(request)
        assert (refusal.code, refusal.reason) == ("NOT_FOUND", "KEY_NOT_FOUND"), request


async def test_other_things_that_do_not_exist_are_not_found(owner: Wire) -> None:
    refusals = [
        await owner.refused(request)
        for request in (
            audit_pb2.GetLogRequest(log_id="log_01J00000000000000000000000"),
            audit_pb2.GetLogRequest(log_id=UNKNOWN_KEY),
            api_key_pb2.RevokeApiKeyRequest(api_key_id="ak_01J00000000000000000000000"),
            namespace_pb2.DeleteNamespaceRequest(namespace_id="nowhere"),
            Create(name="a", namespace="nowhere"),
            key_pb2.ListKeysRequest(namespace="nowhere"),
        )
    ]

    assert {refusal.code for refusal in refusals} == {"NOT_FOUND"}
    assert [refusal.reason for refusal in refusals] == [
        "AUDIT_LOG_NOT_FOUND",
        "AUDIT_LOG_NOT_FOUND",
        "API_KEY_NOT_FOUND",
        "NAMESPACE_NOT_FOUND",
        "NAMESPACE_NOT_FOUND",
        "NAMESPACE_NOT_FOUND",
    ]


async def test_a_cursor_belongs_to_the_list_that_gave_it_out(owner: Wire, key: key_pb2.Key) -> None:
    del key
    await owner(CreateMany(prefix="cursor", count=2))
    cursor = (await owner(key_pb2.ListKeysRequest(page_size=1))).next_cursor

    assert cursor
    await assert_refused(owner, audit_pb2.ListLogsRequest(cursor=cursor), "INVALID_CURSOR")
    await assert_refused(owner, api_key_pb2.ListApiKeysRequest(cursor=cursor), "INVALID_CURSOR")


async def test_a_bad_item_of_a_batch_fails_alone_and_the_others_are_signed(owner: Wire, key: key_pb2.Key) -> None:
    items = [
        Item(key_id=key.id, data=b"good"),
        Item(key_id=UNKNOWN_KEY, data=b"x"),
        Item(key_id=key.id, data=bytes(31), prehashed=True),
        Item(key_id=key.id, data=bytes(MIB + 1)),
        Item(key_id=key.id, data=b"x", key_version=9),
        Item(key_id=key.id, data=b"x", format=9),  # type: ignore[arg-type]  # an open enum takes any number
        Item(key_id=key.id, data=b"first", request_id="twice"),
        Item(key_id=key.id, data=b"second", request_id="twice"),
        Item(key_id=key.id, data=b"good"),
    ]
    used = await owner.signatures_used()

    results = (await owner(Batch(requests=items))).signatures

    reasons = [errors_pb2.ErrorReason.Name(result.error.reason) for result in results]
    assert reasons[1:6] == [
        "KEY_NOT_FOUND",
        "DIGEST_LENGTH",
        "DATA_TOO_LARGE",
        "KEY_VERSION_UNAVAILABLE",
        "INVALID_FIELD",
    ]
    assert reasons[7] == "INVALID_FIELD"
    signed = [results[place] for place in (0, 6, 8)]
    assert not any(result.HasField("error") for result in signed)
    assert results[0].signature == results[8].signature
    assert [result.key_id for result in results] == [item.key_id for item in items]
    assert all(bool(result.signature) != result.HasField("error") for result in results)
    assert await owner.signatures_used() == used + 3


async def test_the_largest_allowed_is_served(owner: Wire, key: key_pb2.Key) -> None:
    assert len((await owner(Sign(key_id=key.id, data=bytes(MIB)))).signature) == 64
    results = (await owner(Batch(requests=[Item(key_id=key.id, data=b"%d" % i) for i in range(256)]))).signatures
    assert len({result.signature for result in results}) == 256
    notes = {"n" * 60 + f"{i:03}": "x" * 256 for i in range(64)}
    assert (await owner(Create(name="n" * 100, metadata=notes))).key.metadata == notes


async def test_a_message_of_many_megabytes_is_refused_by_grpc_itself(owner: Wire, key: key_pb2.Key) -> None:
    refusal = await owner.refused(Sign(key_id=key.id, data=bytes(8 * MIB)))

    assert refusal.code == "RESOURCE_EXHAUSTED"


async def test_an_rpc_that_does_not_exist_is_refused(owner: Wire) -> None:
    call: Any = owner.channel.unary_unary("/popsigner.v1.SignService/Export")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"", metadata=owner.metadata, timeout=10)

    assert refusal_of(caught.value).code == "UNIMPLEMENTED"


async def test_bytes_that_are_no_message_are_refused(owner: Wire) -> None:
    call: Any = owner.channel.unary_unary("/popsigner.v1.SignService/Sign")

    for garbage in (b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f"):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(garbage, metadata=owner.metadata, timeout=10)
