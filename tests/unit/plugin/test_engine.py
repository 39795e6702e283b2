"""The engine's promises about order: what a change forbids, and what a caller that goes away cannot break."""

import asyncio
import base64
import contextlib

import pytest

from popsigner_plugin.errors import BadInput, Conflict, EngineError, StorageError, UnknownKey
from popsigner_plugin.gen.popsigner.engine.v1.packed_pb2 import (
    COMPACT,
    UNKNOWN_KEY,
    KeyVersion,
    PackedSignRequest,
)
from popsigner_plugin.keys import decoded
from tests.unit.plugin.engines import answered, batch, engine_on, sign
from tests.unit.plugin.storage import MemoryStorage


async def test_a_create_whose_caller_went_away_does_not_land_on_the_next_one() -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    storage.hold = {"put"}
    impatient = asyncio.create_task(engine.handle("update", "keys/k", {}))
    await storage.reached.wait()
    impatient.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await impatient
    second = asyncio.create_task(engine.handle("update", "keys/k", {}))
    await asyncio.sleep(0.01)
    assert not second.done()
    storage.gate.set()
    with pytest.raises(Conflict):
        await second
    assert len(storage.writes) == 1


async def test_of_many_creates_of_one_name_exactly_one_wins() -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    results = await asyncio.gather(*(engine.handle("update", "keys/k", {}) for _ in range(50)), return_exceptions=True)
    won = [result for result in results if isinstance(result, dict)]
    assert len(won) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 49
    assert (await answered(engine, "read", "keys/k"))["public_key"] == won[0]["public_key"]


async def test_a_disable_whose_caller_went_away_still_stops_signing() -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    await engine.handle("update", "keys/k", {})
    await sign(engine, "k")
    storage.hold = {"put"}
    impatient = asyncio.create_task(engine.handle("update", "keys/k/config", {"enabled": False}))
    await storage.reached.wait()
    impatient.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await impatient
    assert await sign(engine, "k")
    storage.gate.set()
    await asyncio.sleep(0.01)
    with pytest.raises(Conflict, match="disabled"):
        await sign(engine, "k")


async def test_a_batch_that_waits_for_a_cold_key_does_not_sign_with_one_deleted_meanwhile() -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    for name in ("hot", "cold"):
        await engine.handle("update", f"keys/{name}", {"deletion_allowed": True})
    await sign(engine, "hot")
    storage.hold = {"get"}
    waiting = asyncio.create_task(batch(engine, "hot", "cold"))
    await storage.reached.wait()
    # Deleted by another node of the cluster, which tells us by invalidation.
    del storage.blobs["keys/hot"]
    engine.invalidate("keys/hot")
    storage.gate.set()
    answer = await waiting
    assert list(answer.refusals) == [UNKNOWN_KEY, 0]
    assert list(answer.versions) == [0, 1]
    assert answer.signatures[0] == b""
    assert len(answer.signatures[1]) == 64


async def test_a_delete_overwrites_the_material_before_the_entry_goes() -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    await engine.handle("update", "keys/k", {"deletion_allowed": True})
    blob = storage.blobs["keys/k"]
    key = decoded(blob)
    assert key is not None
    storage.writes.clear()
    assert await engine.handle("delete", "keys/k", {}) is None
    (first, _, value), (second, *_) = storage.writes
    assert (first, second) == ("put", "delete")
    assert key.latest.signer.scalar() not in value
    assert len(value) == len(blob)


async def test_a_delete_that_stopped_halfway_leaves_a_key_that_is_gone_and_a_name_that_is_free() -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    await engine.handle("update", "keys/k", {"deletion_allowed": True})
    storage.hold = {"delete"}
    deleting = asyncio.create_task(engine.handle("delete", "keys/k", {}))
    await storage.reached.wait()
    storage.hold = set()
    restarted = engine_on(storage)
    with pytest.raises(UnknownKey):
        await sign(restarted, "k")
    assert await answered(restarted, "update", "keys/k")
    deleting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await deleting


async def test_signing_writes_nothing_to_storage() -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    await engine.handle("update", "keys/k", {})
    storage.writes.clear()
    await sign(engine, "k")
    await batch(engine, "k", "k")
    assert storage.writes == []


async def test_the_words_by_which_a_standby_forwards_a_write_are_passed_on() -> None:
    storage = MemoryStorage()
    storage.refusal = "cannot write to readonly storage"
    with pytest.raises(StorageError, match=r"^cannot write to readonly storage$"):
        await engine_on(storage).handle("update", "keys/k", {})


async def test_lists_come_in_pages() -> None:
    engine = engine_on(MemoryStorage())
    for number in range(5):
        await engine.handle("update", f"keys/k{number}", {})
    assert (await answered(engine, "list", "keys/", limit="2"))["keys"] == ["k0", "k1"]
    assert (await answered(engine, "list", "keys/", limit=2, after="k1"))["keys"] == ["k2", "k3"]
    assert (await answered(engine, "list", "keys/"))["keys"] == [f"k{number}" for number in range(5)]


async def test_a_rollback_is_answered_with_nothing() -> None:
    assert await engine_on(MemoryStorage()).handle("rollback", "", {}) is None


@pytest.mark.parametrize(
    "path", ["keys/k/", "keys//k", "/keys/k", "sign/k/", "batch/sign/", "export/k/", "keys/k/rotate/", "recovery//k"]
)
async def test_a_path_has_one_spelling(path: str) -> None:
    engine = engine_on(MemoryStorage())
    await engine.handle("update", "keys/k", {})
    with pytest.raises(EngineError) as refused:
        await engine.handle("update", path, {})
    assert refused.value.status in (400, 404)


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ("read", "sign/k"),
        ("delete", "batch/sign"),
        ("patch", "keys/k"),
        ("read", "export/k"),
        ("patch", "recovery/k"),
        ("read", "keys/k/import"),
        ("delete", "keys/k/rotate"),
        ("update", "wrapping_key"),
        ("read", "wrapping_key/rotate"),
    ],
)
async def test_an_operation_that_a_path_has_not_is_refused(operation: str, path: str) -> None:
    with pytest.raises(EngineError) as refused:
        await engine_on(MemoryStorage()).handle(operation, path, {})
    assert refused.value.status == 405


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (PackedSignRequest(), "1 to 16384 items, this one has 0"),
        (
            PackedSignRequest(keys=[KeyVersion(name="k")], key_index=[0], digests=bytes(31)),
            "32 bytes of digests, not 31",
        ),
        (PackedSignRequest(keys=[KeyVersion(name="k")], key_index=[1], digests=bytes(32)), "names key 1"),
        (
            PackedSignRequest(keys=[KeyVersion(name="k")], key_index=[0, 0], digests=bytes(64), formats=[COMPACT]),
            "`formats` must be",
        ),
        (PackedSignRequest(key_index=[0] * 16385, digests=bytes(32 * 16385)), "this one has 16385"),
    ],
)
async def test_columns_that_do_not_fit_together_are_refused(request_: PackedSignRequest, sentence: str) -> None:
    packed = base64.b64encode(request_.SerializeToString()).decode()
    with pytest.raises(BadInput, match=sentence):
        await engine_on(MemoryStorage()).handle("patch", "batch/sign", {"packed": packed})


async def test_an_unknown_format_number_is_refused() -> None:
    request = PackedSignRequest(keys=[KeyVersion(name="k")], key_index=[0], digests=bytes(32))
    packed = base64.b64encode(request.SerializeToString() + b"\x22\x01\x03").decode()
    with pytest.raises(BadInput, match="`formats` must be"):
        await engine_on(MemoryStorage()).handle("patch", "batch/sign", {"packed": packed})


async def test_bytes_that_are_no_message_are_refused() -> None:
    packed = base64.b64encode(b"\xff\xff\xff").decode()
    with pytest.raises(BadInput, match="not a PackedSignRequest"):
        await engine_on(MemoryStorage()).handle("patch", "batch/sign", {"packed": packed})
