"""Private keys on their way out, over a real database: none without its committed audit row, and none that anything
forbids at that moment. What the vault in memory has sealed is `sealed:` and the private key."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import coincurve
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from sqlalchemy import delete, func, update

from popsigner_server import errors
from popsigner_server.domain import bech32
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.principals import Bounds, Caller, Role
from popsigner_server.keys import Wish
from popsigner_server.keys.export import Export
from popsigner_server.ledger.changes import Change
from popsigner_server.storage.tables import api_keys, ledger_heads, org_members, sessions
from popsigner_server.vault import Sealed
from tests.integration.keys.desk import SOMEBODY, Desk
from tests.support.memory_vault import MemoryVault
from tests.support.organizations import found_organization, joined

RSA_3072 = rsa.generate_private_key(65_537, 3072)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def opened(sealed: Sealed) -> dict[int, bytes]:
    return {version.version: version.ciphertext.removeprefix(b"sealed:") for version in sealed.versions}


async def subject(desk: Desk, *, exportable: bool = True) -> str:
    wish = Wish(name="subject", namespace="production", exportable=exportable, metadata={})
    (key,) = await desk.creation.create(desk.mine.caller, [wish])
    return show(Prefix.KEY, key.id)


async def exports(desk: Desk) -> int:
    return [row.event for row in await desk.trail()].count("key.exported")


async def test_an_export_is_the_private_key_and_has_its_row(desk: Desk) -> None:
    secret: bytes = coincurve.PrivateKey().secret
    key = await desk.bring_in(secret, exportable=True)
    sealed = await desk.hand_out("production/subject")
    assert opened(sealed) == {1: secret}
    assert [version.public_key for version in sealed.versions] == [key.public_key]
    _, row = await desk.trail()
    assert (row.event, row.resource_id, row.actor_id) == (
        "key.exported",
        key.id,
        desk.mine.caller.principal.actor_id,
    )
    assert row.metadata == {
        "name": "production/subject",
        "versions": "1",
        "wrapping": "memory",
        "recipient": f"SHA-256 {hashlib.sha256(SOMEBODY.encode()).hexdigest()}",
    }


async def test_an_rsa_recipient_is_named_by_its_key_however_it_is_written(desk: Desk) -> None:
    reference = await subject(desk)
    text = pem(RSA_3072)
    der = RSA_3072.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for written in (text, "\n" + text.strip(), text.replace("\n", "\r\n"), text + "and more"):
        await desk.export.export(desk.mine.caller, reference, recipient=written, versions=())
    rows = [row for row in await desk.trail() if row.event == "key.exported"]
    assert [row.metadata["recipient"] for row in rows] == [f"SHA-256 {hashlib.sha256(der).hexdigest()}"] * 4


@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "age1",
        SOMEBODY.upper(),
        SOMEBODY[:-1] + "q",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0Z",
        # A point of low order: the shared secret is zero for everybody.
        bech32.encode("age", bech32.to_groups(bytes(32)), bech32.Variant.BECH32),
        pem(rsa.generate_private_key(65_537, 2048)),
        pem(rsa.generate_private_key(3, 3072)),
        pem(ec.generate_private_key(ec.SECP256R1())),
        RSA_3072.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        " " * 5000 + pem(RSA_3072),
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ],
    ids=range(12),
)
async def test_who_could_not_open_it_safely_is_no_recipient(desk: Desk, recipient: str) -> None:
    reference = await subject(desk)
    # Nobody is asked for the key before.
    desk.vault.away = True
    with pytest.raises(errors.InvalidField) as refusal:
        await desk.export.export(desk.mine.caller, reference, recipient=recipient, versions=())
    assert refusal.value.faults[0].field == "recipient"
    assert "PRIVATE" not in refusal.value.detail
    assert await exports(desk) == 0


async def test_a_key_that_was_not_to_leave_does_not(desk: Desk) -> None:
    reference = await subject(desk, exportable=False)
    desk.vault.away = True
    with pytest.raises(errors.KeyNotExportable):
        await desk.hand_out(reference)
    desk.vault.away = False
    # Nor when the vault says what the database does not.
    desk.vault.exportable.add((await desk.key(reference)).id.hex)
    with pytest.raises(errors.KeyNotExportable):
        await desk.hand_out(reference)
    assert await exports(desk) == 0


async def test_versions_are_those_of_the_database_whatever_the_vault_has_more(desk: Desk) -> None:
    reference = await subject(desk)
    name = (await desk.key(reference)).id.hex
    await desk.rotation.rotate(desk.mine.caller, reference, expected=1)
    # A rotation that was killed.
    await desk.vault.rotate(name, to_version=3)
    made = {number: key.secret for number, key in enumerate(desk.vault.versions(name), start=1)}
    wishes: list[tuple[list[int], list[int]]] = [([], [2]), ([1], [1]), ([2, 1, 2], [1, 2])]
    for asked, left in wishes:
        assert opened(await desk.hand_out(reference, *asked)) == {number: made[number] for number in left}
    for asked in ([3], [0], [1, 2, 3], [1, 64]):
        with pytest.raises(errors.KeyVersionUnavailable):
            await desk.hand_out(reference, *asked)
    told = [row.metadata["versions"] for row in await desk.trail() if row.event == "key.exported"]
    assert told == ["2", "1", "1, 2"]
    # A version that may not sign any more can still leave.
    await desk.lifecycle.update(
        desk.mine.caller, reference, name=None, metadata={}, check=lambda _: None, min_version=2
    )
    await desk.lifecycle.disable(desk.mine.caller, reference)
    assert opened(await desk.hand_out(reference, 1)) == {1: made[1]}


Meanwhile = Callable[[Desk, str, Caller], Awaitable[object]]


async def set_role(desk: Desk, role: Role) -> None:
    async with desk.engine.begin() as connection:
        mine = org_members.c.org_id == desk.mine.id
        await connection.execute(update(org_members).where(mine).values(role=role.value))


async def leave(desk: Desk, _: str, __: Caller) -> None:
    async with desk.engine.begin() as connection:
        await connection.execute(delete(org_members).where(org_members.c.org_id == desk.mine.id))


async def log_out(desk: Desk, _: str, caller: Caller) -> None:
    async with desk.engine.begin() as connection:
        session = sessions.c.id == caller.principal.session_id
        await connection.execute(update(sessions).where(session).values(ended_at=func.now()))


async def close(desk: Desk, _: str, __: Caller) -> None:
    async with desk.engine.begin() as connection:
        head = ledger_heads.c.org_id == desk.mine.id
        await connection.execute(update(ledger_heads).where(head).values(closed_at=func.now()))


async def revoke(desk: Desk, _: str, __: Caller) -> None:
    async with desk.engine.begin() as connection:
        mine = api_keys.c.org_id == desk.mine.id
        await connection.execute(update(api_keys).where(mine).values(revoked_at=func.now()))


async def weaken(desk: Desk, _: str, __: Caller) -> None:
    async with desk.engine.begin() as connection:
        mine = api_keys.c.org_id == desk.mine.id
        await connection.execute(update(api_keys).where(mine).values(role=Role.OPERATOR.value))


async def delete_key(desk: Desk, reference: str, _: Caller) -> None:
    await desk.lifecycle.delete(desk.mine.caller, reference, force=False)


async def destroy_key(desk: Desk, reference: str, _: Caller) -> None:
    await desk.lifecycle.delete(desk.mine.caller, reference, force=True)


PERSON: list[tuple[Meanwhile, type[errors.SignerError]]] = [
    (lambda desk, _, __: set_role(desk, Role.OPERATOR), errors.RoleMissing),
    (leave, errors.MembershipMissing),
    (log_out, errors.SessionEnded),
]
PROGRAM: list[tuple[Meanwhile, type[errors.SignerError]]] = [
    (revoke, errors.ApiKeyRevoked),
    (weaken, errors.RoleMissing),
    (close, errors.OrganizationDeleted),
    (delete_key, errors.KeyDeleted),
    (destroy_key, errors.KeyDeleted),
]


async def assert_nothing_leaves(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    caller: Caller,
    meanwhile: Meanwhile,
    refusal: type[errors.SignerError],
) -> None:
    """The caller was let in; what takes the right away commits while the vault seals."""
    reference, export = await subject(desk), MemoryVault.export
    sealed: list[Sealed] = []

    async def taken_away(vault: MemoryVault, name: str, *, recipient: str, versions: Sequence[int]) -> Sealed:
        sealed.append(await export(vault, name, recipient=recipient, versions=versions))
        await meanwhile(desk, reference, caller)
        return sealed[-1]

    monkeypatch.setattr(MemoryVault, "export", taken_away)
    with pytest.raises(refusal):
        await desk.hand_out(reference, caller=caller)
    assert len(sealed) == 1, "the vault had sealed it"
    assert await exports(desk) == 0


@pytest.mark.parametrize(("meanwhile", "refusal"), PROGRAM)
async def test_a_right_of_a_program_that_ends_meanwhile_ends_the_export(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, meanwhile: Meanwhile, refusal: type[errors.SignerError]
) -> None:
    await assert_nothing_leaves(desk, monkeypatch, desk.mine.caller, meanwhile, refusal)


@pytest.mark.parametrize(("meanwhile", "refusal"), PERSON)
async def test_a_right_of_a_person_that_ends_meanwhile_ends_the_export(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, meanwhile: Meanwhile, refusal: type[errors.SignerError]
) -> None:
    person = await joined(desk.engine, desk.mine, Role.ADMIN)
    await assert_nothing_leaves(desk, monkeypatch, person, meanwhile, refusal)


async def test_the_key_is_the_one_that_was_asked_for_though_its_name_moves_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await subject(desk)
    first, export = await desk.key("production/subject"), MemoryVault.export

    async def renamed(vault: MemoryVault, name: str, *, recipient: str, versions: Sequence[int]) -> Sealed:
        sealed = await export(vault, name, recipient=recipient, versions=versions)
        await desk.lifecycle.update(
            desk.mine.caller, "production/subject", name="was", metadata={}, check=lambda _: None
        )
        await subject(desk)
        return sealed

    monkeypatch.setattr(MemoryVault, "export", renamed)
    sealed = await desk.hand_out("production/subject")
    assert [version.public_key for version in sealed.versions] == [first.public_key]
    (row,) = [row for row in await desk.trail() if row.event == "key.exported"]
    assert (row.resource_id, row.metadata["name"]) == (first.id, "production/was")


async def test_a_vault_that_holds_another_key_than_the_database_names_hands_out_nothing(desk: Desk) -> None:
    reference = await subject(desk)
    name = (await desk.key(reference)).id.hex
    desk.vault.keys[name] = coincurve.PrivateKey()
    with pytest.raises(errors.VaultUnavailable, match="restore"):
        await desk.hand_out(reference)
    assert await exports(desk) == 0


class Lost(Exception):
    """The connection, at the commit."""


async def test_without_a_committed_row_nothing_leaves(desk: Desk) -> None:
    reference = await subject(desk)

    class Losing:
        @asynccontextmanager
        async def change(self, organization_id: UUID, *, closed: bool = False) -> AsyncIterator[Change]:
            async with desk.ledger.change(organization_id, closed=closed) as change:
                yield change
                assert [row["event"] for row in change.rows] == ["key.exported"]
                raise Lost

    with pytest.raises(Lost):
        await Export(Losing(), desk.vault, desk.catalogue).export(
            desk.mine.caller, reference, recipient=SOMEBODY, versions=()
        )
    assert await exports(desk) == 0


async def test_anothers_key_is_not_found_nor_is_one_outside_of_the_bounds(desk: Desk) -> None:
    reference = await subject(desk)
    other = await found_organization(desk.engine, keys_of=1)
    principal = desk.mine.caller.principal
    outside = Bounds(key_ids=frozenset(other.keys))
    desk.vault.away = True
    for caller in (other.caller, replace(desk.mine.caller, principal=replace(principal, bounds=outside))):
        for name in (reference, "production/subject"):
            with pytest.raises(errors.KeyNotFound):
                await desk.hand_out(name, caller=caller)
    assert await exports(desk) == 0
