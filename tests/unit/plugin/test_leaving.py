"""Private keys on their way out: what is sealed, for whom, and what is remembered of it."""

import base64
import json
from typing import Any

import pytest
from Crypto.PublicKey import RSA

from popsigner_plugin.engine import Engine
from popsigner_plugin.errors import Conflict, EngineError, UnknownKey
from popsigner_plugin.keys import decoded
from tests.unit.plugin.engines import answered, asked, bring_in, engine_on, public_key, refused, sign, with_wrapping_key
from tests.unit.plugin.outside import AgeIdentity, unwrapped
from tests.unit.plugin.storage import MemoryStorage

SCALAR = bytes(range(1, 33))


async def copies(engine: Engine, name: str, identity: AgeIdentity) -> dict[str, dict[str, Any]]:
    """What the owner of the identity reads in the recovery copies, by version."""
    answer = await answered(engine, "read", f"recovery/{name}")
    assert answer["recipient"] == identity.recipient
    return {
        number: json.loads(identity.read(base64.b64decode(copy["ciphertext"])))
        for number, copy in answer["versions"].items()
    }


async def test_a_version_that_left_is_known_when_it_comes_back() -> None:
    storage = with_wrapping_key()
    engine = engine_on(storage)
    key, identity = RSA.generate(3072), AgeIdentity.made()
    await asked(engine, "keys/made", exportable=True, recovery_recipient=identity.recipient)
    await asked(engine, "keys/made/rotate")
    assert not any(place.startswith("present/") for place in storage.blobs)
    answer = await asked(engine, "export/made", recipient=key.public_key().export_key().decode(), versions=[1])
    exported = unwrapped(base64.b64decode(answer["versions"]["1"]["ciphertext"]), key)
    with pytest.raises(Conflict, match="KEY_PRESENT"):
        await bring_in(engine, "again", exported)
    recovered = bytes.fromhex((await copies(engine, "made", identity))["2"]["private_key"])
    with pytest.raises(Conflict, match="KEY_PRESENT"):
        await bring_in(engine, "again", recovered)
    assert sum(place.startswith("present/") for place in storage.blobs) == 2


async def test_an_export_gives_the_latest_version_or_those_that_are_asked_for() -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    identity = AgeIdentity.made()
    await asked(engine, "keys/k", exportable=True)
    await asked(engine, "keys/k/rotate")
    key = await asked(engine, "keys/k/rotate")
    stored = decoded(storage.blobs["keys/k"])
    assert stored is not None
    for ask, numbers in (({}, ["3"]), ({"versions": [2]}, ["2"]), ({"versions": "1,3"}, ["1", "3"])):
        answer = await asked(engine, "export/k", recipient=identity.recipient, **ask)
        assert (answer["name"], answer["wrapping"], list(answer["versions"])) == ("k", "age", numbers)
        for number in numbers:
            version = answer["versions"][number]
            assert version["public_key"] == key["versions"][number]["public_key"]
            assert json.loads(identity.read(base64.b64decode(version["ciphertext"]))) == {
                "curve": "secp256k1",
                "name": "k",
                "private_key": stored.versions[int(number) - 1].signer.scalar().hex(),
                "public_key": version["public_key"],
                "version": int(number),
            }
    assert await refused(engine, "export/k", recipient=identity.recipient, versions=[4]) == "VERSION_UNAVAILABLE"
    assert await refused(engine, "export/k", versions=[1]) == "RECIPIENT_INVALID"
    assert await refused(engine, "export/nobody", recipient=identity.recipient) == "KEY_UNKNOWN"


async def test_a_key_that_is_not_exportable_or_no_longer_does_not_leave() -> None:
    engine = engine_on(MemoryStorage())
    recipient = AgeIdentity.made().recipient
    await asked(engine, "keys/never")
    await asked(engine, "keys/once", exportable=True)
    await asked(engine, "export/once", recipient=recipient)
    await asked(engine, "keys/once/config", exportable=False)
    for name in ("never", "once"):
        assert await refused(engine, f"export/{name}", recipient=recipient) == "NOT_EXPORTABLE"


async def test_recovery_copies_are_made_with_the_key_and_with_each_version() -> None:
    engine = engine_on(with_wrapping_key())
    identity = AgeIdentity.made()
    created = await asked(engine, "keys/made", recovery_recipient=identity.recipient)
    assert (created["exportable"], created["recovery_recipient"]) == (False, identity.recipient)
    rotated = await asked(engine, "keys/made/rotate")
    read = await copies(engine, "made", identity)
    assert [read[number]["public_key"] for number in ("1", "2")] == [created["public_key"], rotated["public_key"]]
    assert all(public_key(bytes.fromhex(copy["private_key"])) == copy["public_key"] for copy in read.values())
    await bring_in(engine, "brought", SCALAR, recovery_recipient=identity.recipient)
    assert (await copies(engine, "brought", identity))["1"]["private_key"] == SCALAR.hex()


async def test_a_key_without_copies_is_given_them_later_and_another_recipient_replaces_them() -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    first, second = AgeIdentity.made(), AgeIdentity.made()
    await asked(engine, "keys/k")
    await asked(engine, "keys/k/rotate")
    with pytest.raises(EngineError, match="RECOVERY_COPY_UNKNOWN: ") as error:
        await answered(engine, "read", "recovery/k")
    assert error.value.status == 404
    assert (await asked(engine, "recovery/k", recipient=first.recipient))["recovery_recipient"] == first.recipient
    assert list(await copies(engine, "k", first)) == ["1", "2"]
    old = await answered(engine, "read", "recovery/k")
    await asked(engine, "keys/k/rotate", recovery_recipient=second.recipient)
    assert list(await copies(engine, "k", second)) == ["1", "2", "3"]
    for copy in old["versions"].values():
        assert base64.b64decode(copy["ciphertext"]) not in storage.blobs["keys/k"]
    with pytest.raises(ValueError, match="MAC"):
        first.read(base64.b64decode((await answered(engine, "read", "recovery/k"))["versions"]["1"]["ciphertext"]))
    assert await engine.handle("delete", "recovery/k", {}) is None
    assert (await asked(engine, "keys/k/rotate"))["recovery_recipient"] == ""
    with pytest.raises(EngineError, match="RECOVERY_COPY_UNKNOWN"):
        await answered(engine, "read", "recovery/k")
    for operation, data in (("read", {}), ("update", {"recipient": first.recipient}), ("delete", {})):
        with pytest.raises(UnknownKey):
            await engine.handle(operation, "recovery/nobody", data)


async def test_an_rsa_key_is_no_recovery_recipient_and_a_refused_one_changes_nothing() -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    pem = RSA.generate(3072).public_key().export_key().decode()
    await asked(engine, "keys/k")
    storage.writes.clear()
    assert await refused(engine, "keys/new", recovery_recipient=pem) == "RECIPIENT_INVALID"
    assert await refused(engine, "keys/k/rotate", recovery_recipient=pem) == "RECIPIENT_INVALID"
    assert await refused(engine, "recovery/k", recipient=pem) == "RECIPIENT_INVALID"
    assert await refused(engine, "recovery/k") == "RECIPIENT_INVALID"
    assert storage.writes == []


async def test_a_delete_overwrites_every_version_and_every_copy() -> None:
    storage = MemoryStorage()
    engine = engine_on(storage)
    identity = AgeIdentity.made()
    await asked(engine, "keys/k", deletion_allowed=True, recovery_recipient=identity.recipient)
    await asked(engine, "keys/k/rotate")
    held = await answered(engine, "read", "recovery/k")
    blob = storage.blobs["keys/k"]
    key = decoded(blob)
    assert key is not None
    storage.writes.clear()
    await engine.handle("delete", "keys/k", {})
    operation, place, value = storage.writes[0]
    assert (operation, place, len(value)) == ("put", "keys/k", len(blob))
    for version in key.versions:
        assert version.signer.scalar() not in value
    for copy in held["versions"].values():
        assert base64.b64decode(copy["ciphertext"])[40:80] not in value
    assert storage.blobs == {}


async def test_the_cache_holds_no_copies() -> None:
    engine = engine_on(MemoryStorage())
    await asked(engine, "keys/k", recovery_recipient=AgeIdentity.made().recipient)
    await sign(engine, "k")
    held = engine._shelf.cache.held("k")
    assert held is not None
    assert held.latest.sealed == b""


async def test_a_config_keeps_the_copies() -> None:
    engine = engine_on(MemoryStorage())
    identity = AgeIdentity.made()
    await asked(engine, "keys/k", recovery_recipient=identity.recipient)
    before = await answered(engine, "read", "recovery/k")
    await asked(engine, "keys/k/config", enabled=False)
    assert await answered(engine, "read", "recovery/k") == before


async def test_what_the_owner_gave_shows_in_no_answer_and_no_refusal() -> None:
    engine = engine_on(with_wrapping_key())
    identity = AgeIdentity.made()
    said: list[Any] = [await bring_in(engine, "k", SCALAR, exportable=True, recovery_recipient=identity.recipient)]
    for path, data in (
        ("keys/k/rotate", {}),
        ("export/k", {"recipient": identity.recipient, "versions": "1,2"}),
        ("recovery/k", {"recipient": AgeIdentity.made().recipient}),
    ):
        said.append(await asked(engine, path, **data))
    said.append(await answered(engine, "read", "recovery/k"))
    for attempt in (bring_in(engine, "other", SCALAR), bring_in(engine, "k", SCALAR[::-1])):
        with pytest.raises(EngineError) as error:
            await attempt
        said.append((str(error.value), repr(error.value), error.value.__context__))
    text = repr(said)
    assert SCALAR.hex() not in text.lower()
    assert base64.b64encode(SCALAR).decode().rstrip("=")[2:-2] not in text
