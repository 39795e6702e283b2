"""What several callers ask for at once: names are given once, repeats count once."""

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import grpc
import pytest

from popsigner_server.gen.popsigner.v1 import errors_pb2, key_pb2, namespace_pb2, sign_pb2
from tests.integration.pop.wire import Wire, refusal_of

pytestmark = pytest.mark.usefixtures("unharmed")

CALLERS = 24


async def outcome(wire: Wire, request: Any) -> Any:
    """The answer, or the refusal's reason."""
    try:
        return await wire(request)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason


async def test_of_many_that_create_one_name_exactly_one_wins(owner: Wire) -> None:
    name = uuid4().hex

    outcomes = await asyncio.gather(*(outcome(owner, key_pb2.CreateKeyRequest(name=name)) for _ in range(CALLERS)))

    assert outcomes.count("KEY_NAME_TAKEN") == CALLERS - 1
    (won,) = (each.key for each in outcomes if each != "KEY_NAME_TAKEN")
    assert list((await owner(key_pb2.ListKeysRequest(name_prefix=name))).keys) == [won]
    assert (await owner(sign_pb2.SignRequest(key_id=f"production/{name}", data=b"x"))).public_key == won.public_key
    assert [row.event for row in await owner.rows(key_id=won.id)] == ["key.signed", "key.created"]


async def test_of_batches_that_share_a_name_exactly_one_wins_and_the_others_make_nothing(owner: Wire) -> None:
    shared = uuid4().hex
    requests = [
        key_pb2.BatchCreateKeysRequest(
            keys=[key_pb2.KeyName(name=name) for name in (f"{shared}-{n}", shared, f"{shared}.{n}")]
        )
        for n in range(8)
    ]

    outcomes = await asyncio.gather(*(outcome(owner, request) for request in requests))

    assert outcomes.count("KEY_NAME_TAKEN") == 7
    (won,) = (list(each.keys) for each in outcomes if each != "KEY_NAME_TAKEN")
    assert list((await owner(key_pb2.ListKeysRequest(name_prefix=shared))).keys) == won


async def test_of_many_that_create_one_namespace_exactly_one_wins(owner: Wire) -> None:
    request = namespace_pb2.CreateNamespaceRequest(name="n" + uuid4().hex)

    outcomes = await asyncio.gather(*(outcome(owner, request) for _ in range(8)))

    assert outcomes.count("NAMESPACE_NAME_TAKEN") == 7


async def test_of_two_that_rename_to_one_name_exactly_one_wins(owner: Wire) -> None:
    keys = (await owner(key_pb2.BatchCreateKeysRequest(prefix=uuid4().hex, count=2))).keys
    name = uuid4().hex

    outcomes = await asyncio.gather(
        *(outcome(owner, key_pb2.UpdateKeyRequest(key_id=key.id, name=name)) for key in keys)
    )

    assert outcomes.count("KEY_NAME_TAKEN") == 1


async def test_a_taken_name_is_refused_until_its_key_is_destroyed(owner: Wire, key: key_pb2.Key) -> None:
    again = key_pb2.CreateKeyRequest(name=key.name)

    assert (await owner.refused(again)).code == "ALREADY_EXISTS"
    await owner(key_pb2.DeleteKeyRequest(key_id=key.id))
    assert (await owner.refused(again)).reason == "KEY_NAME_TAKEN"
    assert (await owner.refused(key_pb2.DeleteKeyRequest(key_id=key.id))).reason == "KEY_DELETED"
    refusal = await owner.refused(sign_pb2.SignRequest(key_id=key.id, data=b"x"))
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "KEY_DELETED")
    await owner(key_pb2.DeleteKeyRequest(key_id=key.id, force=True))
    successor = (await owner(again)).key
    assert successor.public_key != key.public_key


async def test_a_namespace_that_holds_keys_is_not_deleted(owner: Wire) -> None:
    name = "n" + uuid4().hex
    await owner(namespace_pb2.CreateNamespaceRequest(name=name, address_prefix="osmo"))
    held = (await owner(key_pb2.CreateKeyRequest(name="a", namespace=name))).key
    assert held.address.startswith("osmo1")

    refusal = await owner.refused(namespace_pb2.DeleteNamespaceRequest(namespace_id=name))

    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "NAMESPACE_NOT_EMPTY")
    await owner(key_pb2.DeleteKeyRequest(key_id=held.id, force=True))
    await owner(namespace_pb2.DeleteNamespaceRequest(namespace_id=name))


async def test_repeats_with_one_request_id_count_once_however_they_come(owner: Wire, key: key_pb2.Key) -> None:
    request_id, used = uuid4().hex, await owner.signatures_used()
    request = sign_pb2.SignRequest(key_id=key.id, data=b"x", request_id=request_id)
    item = sign_pb2.SignItem(key_id=key.id, data=b"x", request_id=request_id)

    answers = await asyncio.gather(*(owner(request) for _ in range(CALLERS)))
    (in_a_batch,) = (await owner(sign_pb2.BatchSignRequest(requests=[item]))).signatures
    stream = owner.stream()
    await stream.write(sign_pb2.SignStreamRequest(requests=[item]))
    (on_a_stream,) = (await stream.read()).signatures
    await stream.done_writing()
    # Another way of writing the same signature is the same signature.
    as_der = await owner(sign_pb2.SignRequest(key_id=key.id, data=b"x", request_id=request_id, format=sign_pb2.DER))

    assert {each.signature for each in (*answers, in_a_batch, on_a_stream)} == {answers[0].signature}
    assert as_der.signature[0] == 0x30
    assert await owner.signatures_used() == used + 1
    (row,) = await owner.rows(key_id=key.id, event_type="key.signed")
    assert row.metadata["request_id"] == request_id


async def test_a_request_id_is_not_taken_for_other_data_or_another_key(owner: Wire, key: key_pb2.Key) -> None:
    request_id = uuid4().hex
    other = (await owner(key_pb2.CreateKeyRequest(name=uuid4().hex))).key
    await owner(sign_pb2.SignRequest(key_id=key.id, data=b"x", request_id=request_id))
    used = await owner.signatures_used()

    for key_id, data in ((key.id, b"y"), (other.id, b"x")):
        refusal = await owner.refused(sign_pb2.SignRequest(key_id=key_id, data=data, request_id=request_id))
        assert (refusal.code, refusal.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        item = sign_pb2.SignItem(key_id=key_id, data=data, request_id=request_id)
        (result,) = (await owner(sign_pb2.BatchSignRequest(requests=[item]))).signatures
        assert (result.signature, result.error.reason) == (b"", errors_pb2.REQUEST_ID_REUSED)
    assert await owner.signatures_used() == used


async def test_of_many_that_use_one_request_id_for_different_data_one_message_wins(
    owner: Wire, key: key_pb2.Key
) -> None:
    request_id = uuid4().hex
    requests = [
        sign_pb2.SignRequest(key_id=key.id, data=b"%d" % (n % 3), request_id=request_id) for n in range(CALLERS)
    ]

    outcomes = await asyncio.gather(*(outcome(owner, request) for request in requests))

    signed = Counter(each.signature for each in outcomes if each != "REQUEST_ID_REUSED")
    assert list(signed.values()) == [CALLERS // 3]
    assert len(await owner.rows(key_id=key.id, event_type="key.signed")) == 1
