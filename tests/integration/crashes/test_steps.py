"""`kill -9` of a server at every step of an import, a rotation and a destruction, on real PostgreSQL and OpenBao.

Whatever the step: the same command again, at another server, finishes the job; nothing is left in OpenBao that the
database does not know, and no row without its private key.
"""

import asyncio
import multiprocessing
import os
import signal
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import coincurve
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_plugin.wrapping import wrapped
from popsigner_server import errors
from popsigner_server.app import furnish
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import UNBOUND
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.keys import Wish
from popsigner_server.rooms import Rooms
from popsigner_server.settings import Settings
from popsigner_server.storage.tables import audit_logs, key_versions, keys
from popsigner_server.vault import Trip
from tests.integration.crashes import dying
from tests.support.openbao import OpenBaoServer, Vault
from tests.support.organizations import Organization, found_organization

CHILD = 60.0
# Every process is forked from one that has loaded the server: loading takes longer than a move.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([dying.__name__])


def change(number: int) -> list[str]:
    return [f"change {number} uncommitted", f"change {number} committed"]


def request(name: str) -> list[str]:
    return [f"{name} unsent", f"{name} sent", f"{name} answered"]


# Reserved, brought in, completed; made, named; marked, unlocked, overwritten, remembered.
STEPS = {
    "import": [*change(1), *request("POST keys/import"), *change(2)],
    "rotate": [*request("POST keys/rotate"), *change(1)],
    "delete": [*change(1), *request("POST keys/config"), *request("DELETE keys"), *change(2)],
}
# The audit rows of a move that was made once, whatever happened on the way.
TOLD = {"import": ["key.imported"], "rotate": ["key.rotated"], "delete": ["key.deleted", "key.destroyed"]}


@pytest.fixture(scope="module")
def openbao() -> Iterator[OpenBaoServer]:
    with OpenBaoServer.started(quiet=True) as server:
        yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One organization, and a server of this process."""

    engine: AsyncEngine
    settings: dict[str, str]
    rooms: Rooms
    mine: Organization
    direct: Vault

    async def held(self) -> set[str]:
        """Every key that OpenBao holds, by name."""
        status, body = await self.direct.call("GET", "keys?list=true")
        return set(body["data"]["keys"]) if status == 200 else set()

    async def rows(self) -> dict[str, Any]:
        query = select(keys).where(keys.c.org_id == self.mine.id)
        async with self.engine.connect() as connection:
            return {row["id"].hex: row for row in (await connection.execute(query)).mappings()}

    async def told(self) -> list[str]:
        query = select(audit_logs.c.event).where(audit_logs.c.org_id == self.mine.id).order_by(audit_logs.c.seq)
        async with self.engine.connect() as connection:
            return list((await connection.execute(query)).scalars())

    async def create(self, name: str) -> None:
        wish = Wish(name=name, namespace="production", exportable=False, metadata={})
        await self.rooms.creation.create(self.mine.caller, [wish])

    async def plan(self, move: str, step: str, scalar: bytes) -> dict[str, Any]:
        wrapping = await self.rooms.vault.wrapping_key()
        recipient = load_pem_public_key(wrapping.public_key.encode())
        assert isinstance(recipient, RSAPublicKey)
        return {
            "move": move,
            "step": step,
            "name": "worker",
            "settings": self.settings,
            "organization": str(self.mine.id),
            "actor": str(self.mine.caller.principal.actor_id),
            "ciphertext": b64encode(wrapped(scalar, recipient)).decode(),
            "wrapping_key": wrapping.id,
        }


@pytest.fixture
async def site(engine: AsyncEngine, database: str, openbao: OpenBaoServer) -> AsyncIterator[Site]:
    secret = openbao.home / "secret"
    secret.write_text("ab" * 32)
    settings = {
        "database_url": database,
        "bao_addr": openbao.bao.address,
        "bao_secret_id_file": str(openbao.bao.secret_id_file),
        "sealing_key_file": str(secret),
        "gateway_secret_file": str(secret),
    }
    rooms = furnish(Settings(**settings))  # type: ignore[arg-type]
    direct = await openbao.login()
    yield Site(
        engine=engine,
        settings=settings,
        rooms=rooms,
        mine=await found_organization(engine, keys_of=0),
        direct=direct,
    )
    await direct.close()
    await rooms.close()


async def run(plan: dict[str, Any]) -> tuple[int | None, list[str]]:
    """The move, by a process of its own: its exit code, and the steps that it took where it came to its end."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=dying.run, args=(plan, theirs))
    process.start()
    theirs.close()
    try:
        taken = await asyncio.to_thread(ours.recv)
    except EOFError:
        taken = []
    await asyncio.to_thread(process.join, CHILD)
    return process.exitcode, taken


async def again(site: Site, plan: dict[str, Any]) -> None:
    """The same command, at another server: it makes the move, or says that it is made."""
    try:
        await dying.MOVES[plan["move"]](site.rooms, plan)
    except (errors.KeyNameTaken, errors.KeyNotFound, errors.KeyDeleted):
        # An import says that the name is taken by what it brought in; a destroyed key has no name any more.
        assert plan["move"] in ("import", "delete")


async def sweep_later(site: Site) -> None:
    """What the sweeper does once no creation of before can be under way."""
    async with site.engine.begin() as connection:
        await connection.execute(update(keys).values(created_at=func.now() - timedelta(hours=1)))
    await site.rooms.lifecycle.sweep()


async def assert_agree(site: Site, before: set[str]) -> None:
    """What OpenBao holds and what the database names are the same keys, with the same public keys, and they sign."""
    rows = await site.rows()
    living = {name: row for name, row in rows.items() if row["state"] != KeyState.DESTROYED.value}
    assert {KeyState(row["state"]) for row in living.values()} <= {KeyState.ENABLED}
    assert await site.held() - before == set(living)
    for name, row in living.items():
        _, body = await site.direct.call("GET", f"keys/{name}")
        query = select(key_versions.c.version, key_versions.c.public_key).where(key_versions.c.key_id == row["id"])
        async with site.engine.connect() as connection:
            known = {str(version): key.hex() for version, key in (await connection.execute(query)).all()}
        assert {number: each["public_key"] for number, each in body["data"]["versions"].items()} == known
        assert known[str(row["current_version"])] == row["public_key"].hex()
        digest = os.urandom(32)
        signed = await site.rooms.vault.sign(
            Trip(
                keys=((name, row["current_version"]),),
                key_index=[0],
                digests=digest,
                formats=[SignatureFormat.DER.value],
            )
        )
        assert coincurve.PublicKey(row["public_key"]).verify(signed.signatures[0], digest, hasher=None)


@pytest.mark.parametrize("move", STEPS)
async def test_a_move_takes_these_steps_and_no_other(site: Site, move: str) -> None:
    if move != "import":
        await site.create("worker")
    assert await run(await site.plan(move, "", coincurve.PrivateKey().secret)) == (0, STEPS[move])


@pytest.mark.parametrize(("move", "step"), [(move, step) for move, steps in STEPS.items() for step in steps])
async def test_the_same_command_finishes_what_a_kill_interrupted(site: Site, move: str, step: str) -> None:
    before = await site.held()
    if move != "import":
        await site.create("worker")
    scalar = coincurve.PrivateKey().secret
    plan = await site.plan(move, step, scalar)
    assert await run(plan) == (-signal.SIGKILL, [])
    await again(site, plan)
    if move == "import":
        key = await site.rooms.catalogue.get(site.mine.id, "production/worker", bounds=UNBOUND)
        assert key.state is KeyState.ENABLED
        assert key.public_key == coincurve.PrivateKey(scalar).public_key.format()
    elif move == "rotate":
        key = await site.rooms.catalogue.get(site.mine.id, "production/worker", bounds=UNBOUND)
        assert key.version == 2
    else:
        assert {row["state"] for row in (await site.rows()).values()} == {KeyState.DESTROYED.value}
    await assert_agree(site, before)
    assert [event for event in await site.told() if event != "key.created"] == TOLD[move]


@pytest.mark.parametrize("step", STEPS["import"])
async def test_an_import_that_is_given_up_leaves_nothing_behind(site: Site, step: str) -> None:
    before = await site.held()
    assert await run(await site.plan("import", step, coincurve.PrivateKey().secret)) == (-signal.SIGKILL, [])
    # OpenBao may be busy yet with what it was asked just before.
    await asyncio.sleep(0.2)
    await sweep_later(site)
    await assert_agree(site, before)
    done = step == STEPS["import"][-1]
    assert await site.told() == (TOLD["import"] if done else [])


@pytest.mark.parametrize("step", STEPS["delete"][1:])
async def test_a_destruction_that_nobody_repeats_is_finished_by_the_sweep(site: Site, step: str) -> None:
    before = await site.held()
    await site.create("worker")
    assert await run(await site.plan("delete", step, bytes(32))) == (-signal.SIGKILL, [])
    await asyncio.sleep(0.2)
    await site.rooms.lifecycle.sweep()
    assert await site.held() == before
    assert (await site.told())[1:] == TOLD["delete"]
