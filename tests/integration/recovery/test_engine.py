"""The recovery kit on the real engine: what is handed out opens, with the identity and age alone, to the private keys
that sign."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import coincurve
import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.signatures import SignatureFormat, verify
from popsigner_server.keys.copies import Copy
from popsigner_server.settings import Settings
from popsigner_server.vault import Trip
from popsigner_server.vault.openbao import OpenBao
from tests.integration.recovery.kit import Kit, furnished
from tests.support.openbao import OpenBaoServer


@pytest.fixture(scope="module")
def openbao() -> Iterator[OpenBaoServer]:
    with OpenBaoServer.started(quiet=True) as server:
        yield server


@pytest.fixture
async def kit(engine: AsyncEngine, openbao: OpenBaoServer) -> AsyncIterator[Kit]:
    settings = Settings(
        database_url="postgresql://unused/",
        bao_addr=openbao.bao.address,
        bao_secret_id_file=openbao.bao.secret_id_file,
        sealing_key_file=openbao.bao.secret_id_file,
        gateway_secret_file=openbao.bao.secret_id_file,
    )
    vault = OpenBao(settings)
    yield await furnished(engine, vault=vault)
    await vault.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Whoever holds an identity, somewhere offline."""

    identity: Any = field(default_factory=pyrage.x25519.Identity.generate)

    @property
    def recipient(self) -> str:
        return str(self.identity.to_public())

    def opens(self, ciphertext: bytes) -> bool:
        try:
            pyrage.decrypt(ciphertext, [self.identity])
        except pyrage.DecryptError:
            return False
        return True

    def open(self, copy: Copy) -> dict[str, list[coincurve.PrivateKey]]:
        """The private keys of one key by its name, each held to the public key beside it."""
        label = json.loads(pyrage.decrypt(copy.label, [self.identity]))
        opened = []
        for public_key, ciphertext in copy.versions:
            document = json.loads(pyrage.decrypt(ciphertext, [self.identity]))
            private_key = coincurve.PrivateKey(bytes.fromhex(document["private_key"]))
            assert private_key.public_key.format() == public_key == bytes.fromhex(document["public_key"])
            opened.append(private_key)
        return {label["name"]: opened}


async def handed_out(kit: Kit) -> list[Copy]:
    copies, cursor = [], ""
    while True:
        page = await kit.copies.page(kit.owner, limit=2, cursor=cursor)
        assert page.uncovered == []
        copies += page.copies
        if not page.following:
            return copies
        cursor = page.following


async def signs(kit: Kit, key_id: UUID, version: int, private_key: coincurve.PrivateKey) -> None:
    """The POP's signature and the opened private key's are those of one key, in both directions."""
    digest = hashlib.sha256(os.urandom(16)).digest()
    trip = Trip(keys=((key_id.hex, version),), key_index=[0], digests=digest, formats=[SignatureFormat.COMPACT.value])
    (of_the_pop,) = (await kit.vault.sign(trip)).signatures
    public_key = private_key.public_key.format()
    assert verify(public_key, digest, of_the_pop, SignatureFormat.COMPACT)
    # RFC 6979 nonces: the same private key makes the same signature outside.
    assert private_key.sign_recoverable(digest, hasher=None)[:64] == of_the_pop


async def test_what_is_handed_out_opens_to_the_keys_that_sign(kit: Kit) -> None:
    keeper = Keeper()
    before = {"old": await kit.key("old"), "old-exportable": await kit.key("old-exportable", exportable=True)}
    await kit.rotate(before["old"], 2)
    await kit.set(keeper.recipient)
    made = before | {"new": await kit.key("new"), "off": await kit.key("off", state=KeyState.DISABLED)}
    await kit.pass_time(days=3, seconds=1)
    assert await kit.turn() == 2
    # Rotations go on with the recipient.
    await kit.rotate(before["old"], 3)
    await kit.rotate(made["new"], 2)

    opened: dict[str, list[coincurve.PrivateKey]] = {}
    for copy in await handed_out(kit):
        opened |= keeper.open(copy)

    assert {name: len(versions) for name, versions in opened.items()} == {
        "old": 3,
        "old-exportable": 1,
        "new": 2,
        "off": 1,
    }
    for name, versions in opened.items():
        for number, private_key in enumerate(versions, start=1):
            await signs(kit, made[name], number, private_key)


async def test_after_a_change_the_new_identity_opens_all_and_the_old_one_nothing(kit: Kit) -> None:
    old, new = Keeper(), Keeper()
    await kit.set(old.recipient)
    made = [await kit.key(f"key-{number}") for number in range(3)]
    await kit.rotate(made[0], 2)
    assert all(old.opens(copy.label) for copy in await handed_out(kit))
    await kit.set(new.recipient)
    assert all(old.opens(copy.label) for copy in await handed_out(kit))
    await kit.pass_time(days=3, seconds=1)
    assert await kit.turn() == 3
    copies = await handed_out(kit)
    assert [len(copy.versions) for copy in copies] == [2, 1, 1]
    for copy in copies:
        new.open(copy)
        for ciphertext in (copy.label, *(ciphertext for _, ciphertext in copy.versions)):
            assert not old.opens(ciphertext)


async def test_after_a_removal_or_a_cancellation_the_vault_has_no_copy(kit: Kit) -> None:
    keeper = Keeper()
    await kit.set(keeper.recipient)
    key = await kit.key("key")
    await kit.set("")
    await kit.pass_time(days=3, seconds=1)
    assert await kit.turn() == 1
    assert await kit.vault.recovery(key.hex) is None
    await kit.set(keeper.recipient)
    new = await kit.key("new")
    assert (await kit.vault.recovery(new.hex)).recipient == keeper.recipient
    await kit.settings.cancel(kit.owner)
    assert await kit.turn() == 1
    for each in (key, new):
        assert await kit.vault.recovery(each.hex) is None
        assert (await kit.row(each)).recovery_recipient is None


async def test_two_servers_bring_the_engine_in_line(kit: Kit, engine: AsyncEngine) -> None:
    keeper = Keeper()
    made = [await kit.key(f"key-{number}") for number in range(40)]
    await kit.set(keeper.recipient)
    await kit.pass_time(days=3, seconds=1)
    other = await furnished(engine, vault=kit.vault, of=kit.mine, wait=timedelta(0))
    counts = await asyncio.gather(kit.turn(), other.turn())
    assert sum(counts) == len(made)
    assert (await kit.get()).covered == len(made)
    assert len(await handed_out(kit)) == len(made)


async def test_a_key_that_the_engine_does_not_know_holds_up_no_other(kit: Kit) -> None:
    keeper = Keeper()
    lost, key = await kit.key("lost"), await kit.key("key")
    await kit.vault.destroy(lost.hex)
    await kit.set(keeper.recipient)
    await kit.pass_time(days=3, seconds=1)
    assert await kit.turn() == 1
    page = await kit.copies.page(kit.owner, limit=10, cursor="")
    (copy,) = page.copies
    assert list(keeper.open(copy)) == ["key"]
    assert page.uncovered == [(await kit.row(lost)).public_key]
    assert (await kit.row(key)).recovery_recipient == keeper.recipient
