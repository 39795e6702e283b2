"""The life of a key from both clients: what is sent, what comes back, what is sent again."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from popsigner import (
    AsyncClient,
    Client,
    InternalError,
    Key,
    KeyState,
    KeyVersion,
    KeyVersionChanged,
    RotatedKey,
    Unavailable,
)
from popsigner_server.gen.popsigner.v1 import key_pb2

from .scripted_pop import Context, ScriptedPop, refuse
from .test_client import done
from .test_retry import failing

KEY = key_pb2.Key(id="key_1", name="sequencer", version=2, min_version=1, address="celestia1new")
OLD = key_pb2.KeyVersion(
    version=1, address="celestia1old", eth_address="0xOld", public_key="02" + "ab" * 32, signs=True
)
OLD.created_at.FromJsonString("2026-01-10T12:00:00Z")
ROTATED = key_pb2.RotateKeyResponse(key=KEY, previous=OLD)


@pytest.fixture(params=["Client", "AsyncClient"])
def either(request: pytest.FixtureRequest, client: Client, async_client: AsyncClient) -> Any:
    return {"Client": client, "AsyncClient": async_client}[request.param]


@pytest.mark.parametrize("rpc", ["Enable", "Disable", "Undelete"])
@pytest.mark.parametrize(
    ("named", "sent"), [("production/sequencer", "production/sequencer"), (Key(id="key_1"), "key_1")]
)
async def test_a_key_is_enabled_disabled_and_restored(
    either: Any, pop: ScriptedPop, rpc: str, named: str | Key, sent: str
) -> None:
    changed = key_pb2.Key(id="key_1", state=key_pb2.Key.DISABLED)
    pop.answer(f"KeyService/{rpc}Key", getattr(key_pb2, f"{rpc}KeyResponse")(key=changed))

    answered = await done(getattr(either.keys, rpc.lower())(named))

    assert (answered.id, answered.state) == ("key_1", KeyState.DISABLED)
    (seen,) = pop.called(f"KeyService/{rpc}Key")
    assert seen.request == getattr(key_pb2, f"{rpc}KeyRequest")(key_id=sent)


async def test_a_rotated_key_comes_with_the_version_before(either: Any, pop: ScriptedPop) -> None:
    pop.answer("KeyService/RotateKey", ROTATED)

    rotated = await done(either.keys.rotate(Key(id="key_1", version=1), expected_version=1))

    assert isinstance(rotated, RotatedKey)
    assert (rotated.key.version, rotated.key.min_version, rotated.key.address) == (2, 1, "celestia1new")
    assert isinstance(rotated.previous, KeyVersion)
    assert (rotated.previous.version, rotated.previous.address) == (1, "celestia1old")
    (seen,) = pop.called("KeyService/RotateKey")
    assert seen.request == key_pb2.RotateKeyRequest(key_id="key_1", expected_version=1)


@pytest.mark.parametrize("half", [key_pb2.RotateKeyResponse(key=KEY), key_pb2.RotateKeyResponse(previous=OLD)])
async def test_half_of_a_rotation_is_a_fault(either: Any, pop: ScriptedPop, half: Message) -> None:
    pop.answer("KeyService/RotateKey", half)

    with pytest.raises(InternalError, match="incomplete"):
        await done(either.keys.rotate("a"))


async def test_versions_come_with_their_addresses(either: Any, pop: ScriptedPop) -> None:
    new = key_pb2.KeyVersion(version=2, signs=True)
    pop.answer("KeyService/ListKeyVersions", key_pb2.ListKeyVersionsResponse(versions=[new, OLD]))

    newest, oldest = await done(either.keys.versions(Key(id="key_1")))

    assert newest.version == 2
    assert oldest == KeyVersion(
        version=1,
        address="celestia1old",
        eth_address="0xOld",
        public_key="02" + "ab" * 32,
        created_at=datetime(2026, 1, 10, 12, tzinfo=UTC),
        signs=True,
    )
    (seen,) = pop.called("KeyService/ListKeyVersions")
    assert seen.request.key_id == "key_1"


async def test_the_oldest_version_that_may_sign_is_raised(either: Any, pop: ScriptedPop) -> None:
    pop.answer("KeyService/UpdateKey", key_pb2.UpdateKeyResponse(key=KEY))

    await done(either.keys.update("key_1", min_version=2))
    await done(either.keys.update("key_1", name="renamed"))

    raised, renamed = (seen.request for seen in pop.called("KeyService/UpdateKey"))
    assert raised == key_pb2.UpdateKeyRequest(key_id="key_1", min_version=2)
    assert renamed == key_pb2.UpdateKeyRequest(key_id="key_1", name="renamed")


async def test_a_rotation_from_an_expected_version_is_tried_again(either: Any, pop: ScriptedPop) -> None:
    pop.on("KeyService/RotateKey", failing(2, ROTATED))

    rotated = await done(either.keys.rotate("key_1", expected_version=1))

    assert rotated.key.version == 2
    assert [seen.request.expected_version for seen in pop.called("KeyService/RotateKey")] == [1, 1, 1]


CHANGES: dict[str, Callable[[Any], Any]] = {
    "RotateKey": lambda c: c.keys.rotate("key_1"),
    "EnableKey": lambda c: c.keys.enable("key_1"),
    "DisableKey": lambda c: c.keys.disable("key_1"),
    "UndeleteKey": lambda c: c.keys.undelete("key_1"),
    "UpdateKey": lambda c: c.keys.update("key_1", min_version=2),
}


@pytest.mark.parametrize("rpc", CHANGES)
async def test_a_change_that_cannot_be_told_from_another_is_sent_once(either: Any, pop: ScriptedPop, rpc: str) -> None:
    pop.on(f"KeyService/{rpc}", failing(1, getattr(key_pb2, f"{rpc}Response")(key=KEY)))

    with pytest.raises(Unavailable):
        await done(CHANGES[rpc](either))

    assert len(pop.called(f"KeyService/{rpc}")) == 1


async def test_a_key_that_has_moved_on_is_not_tried_again(either: Any, pop: ScriptedPop) -> None:
    async def behaviour(_request: Any, context: Context) -> Message:
        return await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "KEY_VERSION_CHANGED")

    pop.on("KeyService/RotateKey", behaviour)

    with pytest.raises(KeyVersionChanged):
        await done(either.keys.rotate("key_1", expected_version=1))

    assert len(pop.called("KeyService/RotateKey")) == 1
