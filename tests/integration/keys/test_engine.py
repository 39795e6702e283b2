"""Import and export through OpenBao and the engine: what is wrapped outside comes in, signs as it would outside, and
leaves sealed to who asked."""

import asyncio
import json
import os
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import coincurve
import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server import errors
from popsigner_server.app import furnish
from popsigner_server.domain.digests import HashAlgorithm
from popsigner_server.domain.keys import Key
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.keys import Wish
from popsigner_server.rooms import Rooms
from popsigner_server.settings import Settings
from popsigner_server.signing import Ask
from popsigner_server.storage.tables import keys, recovery_recipients
from popsigner_server.vault import Sealed
from tests.support.openbao import OpenBaoServer, Vault
from tests.support.organizations import Organization, found_organization
from tests.support.wrapping import pem_of, unwrap, wrap

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
IDENTITY = pyrage.x25519.Identity.generate()
READER = str(IDENTITY.to_public())
RSA = rsa.generate_private_key(65_537, 3072)


@pytest.fixture(scope="module")
def openbao() -> Iterator[OpenBaoServer]:
    with OpenBaoServer.started(quiet=True) as server:
        yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One organization, a server's rooms over OpenBao, and somebody who may everything there."""

    engine: AsyncEngine
    rooms: Rooms
    mine: Organization
    direct: Vault

    async def bring_in(self, secret: bytes, name: str = "subject", *, exportable: bool = True) -> Key:
        wrapping_key = await self.rooms.wrapping_keys.current()
        return await self.send(wrap(secret, wrapping_key.public_key), wrapping_key.id, name, exportable=exportable)

    async def send(
        self, ciphertext: bytes, wrapping_key: str = "", name: str = "subject", *, exportable: bool = True
    ) -> Key:
        wish = Wish(name=name, namespace="production", exportable=exportable, metadata={})
        return await self.rooms.importing.bring_in(
            self.mine.caller, wish, ciphertext=ciphertext, wrapping_key=wrapping_key
        )

    async def hand_out(self, recipient: str = READER, versions: tuple[int, ...] = ()) -> Sealed:
        return await self.rooms.export.export(
            self.mine.caller, "production/subject", recipient=recipient, versions=versions
        )

    async def held(self) -> set[str]:
        """Those of this organization's rows, of whatever state, that OpenBao has a key of."""
        async with self.engine.connect() as connection:
            query = select(keys.c.id).where(keys.c.org_id == self.mine.id)
            names = {key_id.hex for key_id in (await connection.execute(query)).scalars()}
        _, body = await self.direct.call("GET", "keys?list=true")
        return names & set(body["data"]["keys"]) if body.get("data") else set()

    async def told(self) -> list[str]:
        rows, _ = await self.rooms.ledger.list(self.mine.id, limit=100, cursor="")
        return [row.event for row in reversed(rows)]


@pytest.fixture
async def site(engine: AsyncEngine, database: str, openbao: OpenBaoServer) -> AsyncIterator[Site]:
    secret = openbao.home / "secret"
    secret.write_text("ab" * 32)
    rooms = furnish(
        Settings(
            database_url=database,
            bao_addr=openbao.bao.address,
            bao_secret_id_file=openbao.bao.secret_id_file,
            sealing_key_file=secret,
            gateway_secret_file=secret,
        )
    )
    direct = await openbao.login()
    yield Site(engine=engine, rooms=rooms, mine=await found_organization(engine, keys_of=0), direct=direct)
    await direct.close()
    await rooms.close()


def new() -> bytes:
    secret: bytes = coincurve.PrivateKey().secret
    return secret


async def test_what_comes_in_signs_as_it_would_outside_and_leaves_as_it_came(site: Site) -> None:
    secret = new()
    key = await site.bring_in(secret)
    assert key.public_key == coincurve.PrivateKey(secret).public_key.format()
    digest = os.urandom(32)
    ask = Ask(
        key="production/subject",
        data=digest,
        prehashed=True,
        hash=HashAlgorithm.SHA256,
        format=SignatureFormat.DER,
        sign_mode=None,
        request_id=None,
        version=0,
    )
    (signed,) = await site.rooms.signer.sign(site.mine.caller, [ask], None)
    assert not isinstance(signed, errors.SignerError)
    # Both are RFC 6979 with a low S.
    assert signed.value == coincurve.PrivateKey(secret).sign(digest, hasher=None)
    second, _ = await site.rooms.rotation.rotate(site.mine.caller, "production/subject", expected=1)
    # A rotation that was killed: nothing of it leaves.
    await site.rooms.vault.rotate(key.id.hex, to_version=3)

    by_rsa = await site.hand_out(pem_of(RSA), (1,))
    assert by_rsa.wrapping == "RSA-OAEP-SHA256+AES-KWP"
    assert [unwrap(version.ciphertext, RSA) for version in by_rsa.versions] == [secret]
    by_age = await site.hand_out(READER, (2, 1))
    opened = [json.loads(pyrage.decrypt(version.ciphertext, [IDENTITY])) for version in by_age.versions]
    assert (by_age.wrapping, [document["version"] for document in opened]) == ("age", [1, 2])
    assert bytes.fromhex(opened[0]["private_key"]) == secret
    newest = await site.hand_out()
    assert [(version.version, version.public_key) for version in newest.versions] == [(2, second.public_key)]
    with pytest.raises(errors.KeyVersionUnavailable):
        await site.hand_out(versions=(3,))
    assert await site.told() == ["key.imported", "key.signed", "key.rotated", *["key.exported"] * 3]


@pytest.mark.parametrize(
    "secret",
    [bytes(32), ORDER.to_bytes(32, "big"), (ORDER + 1).to_bytes(32, "big"), b"\x01" * 31, b"\x01" * 33],
    ids=["0", "n", "n + 1", "31 bytes", "33 bytes"],
)
async def test_what_is_no_private_key_leaves_nothing(site: Site, secret: bytes) -> None:
    with pytest.raises(errors.PrivateKeyInvalid):
        await site.bring_in(secret)
    assert (await site.held(), await site.told()) == (set(), [])
    await site.bring_in(new())


async def test_what_was_changed_on_the_way_leaves_nothing(site: Site) -> None:
    whole = wrap(new(), (await site.rooms.wrapping_keys.current()).public_key)
    assert len(whole) == 552
    for place in (0, 511, 512, 551):
        broken = bytearray(whole)
        broken[place] ^= 1
        with pytest.raises(errors.WrappedKeyInvalid):
            await site.send(bytes(broken))
    for broken_off in (whole[:512], whole[:-1], whole + b"\x00", whole[:100], bytes(4096)):
        with pytest.raises(errors.WrappedKeyInvalid):
            await site.send(broken_off)
    with pytest.raises(errors.WrappedKeyInvalid):
        await site.send(wrap(new(), pem_of(RSA)))
    with pytest.raises(errors.WrappingKeyUnknown):
        await site.send(whole, "1" * 64)
    assert (await site.held(), await site.told()) == (set(), [])
    await site.send(whole)


async def test_sixteen_identical_imports_at_once_make_one_key(site: Site) -> None:
    secret = new()
    ends = await asyncio.gather(*(site.bring_in(secret) for _ in range(16)), return_exceptions=True)
    (key,) = [end for end in ends if isinstance(end, Key)]
    refusals = [end for end in ends if not isinstance(end, Key)]
    assert all(isinstance(end, errors.KeyNameTaken) and key.id.hex not in end.detail for end in refusals)
    assert (await site.held(), await site.told()) == ({key.id.hex}, ["key.imported"])


async def test_a_private_key_is_in_the_pop_once_and_its_name_is_its_own(site: Site) -> None:
    secret = new()
    await site.bring_in(secret, exportable=False)
    with pytest.raises(errors.KeyPresent):
        await site.bring_in(secret, "other")
    other = await found_organization(site.engine, keys_of=0)
    wrapping_key = await site.rooms.wrapping_keys.current()
    with pytest.raises(errors.KeyPresent) as refusal:
        await site.rooms.importing.bring_in(
            other.caller,
            Wish(name="theirs", namespace="production", exportable=True, metadata={}),
            ciphertext=wrap(secret, wrapping_key.public_key),
            wrapping_key="",
        )
    assert "subject" not in refusal.value.detail
    with pytest.raises(errors.KeyNameTaken, match="production/subject"):
        await site.bring_in(new())
    with pytest.raises(errors.KeyNotExportable):
        await site.hand_out()
    await site.rooms.lifecycle.delete(site.mine.caller, "production/subject", force=True)
    assert (await site.bring_in(secret)).exportable


async def test_a_repetition_gives_up_the_right_to_export_that_nobody_wishes_any_more(site: Site) -> None:
    secret = new()
    wish = Wish(name="subject", namespace="production", exportable=True, metadata={})
    (reserved,) = await site.rooms.reservations.reserve(site.mine.caller, [wish], imported=True)
    wrapping_key = await site.rooms.vault.wrapping_key()
    await site.rooms.vault.bring_in(
        reserved.key_id.hex,
        ciphertext=wrap(secret, wrapping_key.public_key),
        wrapping_key=wrapping_key.id,
        exportable=True,
    )
    key = await site.bring_in(secret, exportable=False)
    assert (key.id, key.exportable) == (reserved.key_id, False)
    _, body = await site.direct.call("GET", f"keys/{key.id.hex}")
    assert body["data"]["exportable"] is False


async def test_new_keys_are_sealed_to_the_organizations_recipient(site: Site) -> None:
    async with site.engine.begin() as connection:
        await connection.execute(insert(recovery_recipients).values(org_id=site.mine.id, recipient=READER))
    secret = new()
    imported = await site.bring_in(secret, exportable=False)
    wish = Wish(name="created", namespace="production", exportable=False, metadata={})
    (created,) = await site.rooms.creation.create(site.mine.caller, [wish])
    for key in (imported, created):
        copies = await site.rooms.vault.recovery(key.id.hex)
        assert copies is not None
        (copy,) = copies.versions
        private_key = bytes.fromhex(json.loads(pyrage.decrypt(copy.ciphertext, [IDENTITY]))["private_key"])
        assert coincurve.PrivateKey(private_key).public_key.format() == key.public_key
        async with site.engine.connect() as connection:
            query = select(keys.c.recovery_recipient).where(keys.c.id == key.id)
            assert (await connection.execute(query)).scalar_one() == READER


async def test_a_key_of_an_import_that_never_ended_is_destroyed_with_its_row(site: Site) -> None:
    wish = Wish(name="subject", namespace="production", exportable=True, metadata={})
    (reserved,) = await site.rooms.reservations.reserve(site.mine.caller, [wish], imported=True)
    wrapping_key = await site.rooms.vault.wrapping_key()
    secret = new()
    await site.rooms.vault.bring_in(
        reserved.key_id.hex,
        ciphertext=wrap(secret, wrapping_key.public_key),
        wrapping_key=wrapping_key.id,
        exportable=True,
    )
    with pytest.raises(errors.KeyPresent):
        await site.bring_in(secret, "other")
    async with site.engine.begin() as connection:
        old = {"created_at": func.now() - func.make_interval(0, 0, 0, 0, 0, 6)}
        await connection.execute(update(keys).where(keys.c.org_id == site.mine.id).values(old))
    await site.rooms.lifecycle.sweep()
    status, _ = await site.direct.call("GET", f"keys/{reserved.key_id.hex}")
    assert status == 404
    await site.bring_in(secret, "other")


async def test_nothing_of_a_private_key_is_in_what_openbao_writes_down(site: Site, openbao: OpenBaoServer) -> None:
    secret = new()
    await site.bring_in(secret)
    await site.hand_out()
    # Its own: the audit trail, the log, and raft's data, which OpenBao encrypts.
    written = b"".join(path.read_bytes() for path in sorted(openbao.home.rglob("*")) if path.is_file())
    assert len(written) > 10_000
    for form in (secret, secret.hex().encode(), secret.hex().upper().encode(), b64encode(secret).rstrip(b"=")):
        assert form not in written
