"""The way out that needs no server: a bundle from a real POP, opened after that POP has ended."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import coincurve
import pytest

from popsigner import ApiKeyRestricted, AsyncClient, Client, KeyState
from popsigner.keyfiles import PublicFacts
from popsigner.recovery import bundle, opening

from .recovery_pop import Leaver, leaver


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leaver]:
    with leaver(tmp_path_factory.mktemp("recovery")) as found:
        yield found


def test_the_bundle_holds_every_key_and_says_nothing_of_them(left: Leaver) -> None:
    path = left.home / "recovery.bundle"
    done = left.run("recovery", "export", "--to", str(path), "--json")

    assert done.returncode == 0, done.stderr
    content = path.read_bytes()
    # The one in the restore window is in it too.
    assert json.loads(done.stdout)["keys"] == len(left.keys) + 1
    assert json.loads(done.stdout)["versions"] == len(left.keys) + 1 + 4
    organization = left.client.organization.get()
    told = [organization.id, organization.slug, "osmosis", "celestia1", "osmo1"]
    for key in left.keys.values():
        told += [key.id, key.name, key.address, key.eth_address, bytes.fromhex(key.public_key).decode("latin-1")]
    for spelling in told:
        assert spelling.encode().lower() not in content.lower(), spelling
        assert base64.b64encode(spelling.encode())[:-4] not in content, spelling
    (row,) = left.client.audit.list(event_type="recovery.exported").pages().__next__()
    assert row.metadata["recipient"] == left.identity.recipient


def test_two_clients_read_the_same_copies(left: Leaver) -> None:
    pages = list(left.client.recovery.copies(page_size=7))

    assert [len(page.copies) for page in pages] == [7, 7, 7]
    assert not any(page.uncovered for page in pages)
    whole = [key for page in pages for key in bundle.entries_of(page.copies)]
    opened = [opening.open_entry(entry, left.identity.file) for entry in whole]
    assert {key.key_id for key in opened} >= {key.id for key in left.keys.values()}


async def test_an_asynchronous_program_reads_them_too(left: Leaver) -> None:
    async with AsyncClient(api_key=left.pop.api_key, endpoint=left.pop.http) as client:
        pages = [page async for page in client.recovery.copies()]
        recovery = await client.recovery.get()

    assert recovery.covered == recovery.keys == sum(len(page.copies) for page in pages)


def test_who_does_not_reach_every_key_gets_no_copies(left: Leaver) -> None:
    made = left.client.api_keys.create(name="narrow", scopes=["api:keys:read"], namespaces=["production"])
    with Client(api_key=made.key, endpoint=left.pop.http) as narrow, pytest.raises(ApiKeyRestricted):
        next(iter(narrow.recovery.copies()))


def test_after_the_pop_has_ended_every_key_is_there_and_signs(left: Leaver) -> None:
    """The last test of the module: it stops the POP."""
    known = {
        version.public_key: (key, version.version, version.address)
        for key in left.keys.values()
        for version in left.client.keys.versions(key)
    }
    left.pop.stop()

    done = left.run(
        *("recovery", "open", "recovery.bundle", "--identity", str(left.identity_file)),
        *("--to", "keys", "--format", "hex", "--json"),
        offline=True,
    )

    assert done.returncode == 0, done.stderr
    found = {}
    for told in json.loads(done.stdout)["keys"]:
        private = coincurve.PrivateKey(bytes.fromhex(Path(left.home / told["place"]).read_text()))
        found[private.public_key.format().hex()] = (told["key"], told["version"], told["address"], told["place"])
    for public_key, (key, version, address) in known.items():
        name = f"{key.namespace}/{key.name}"
        place = f"keys/{name}.hex" if version == key.version else f"keys/{name}.v{version}.hex"
        assert found.pop(public_key) == (name, version, address, place)
        assert (
            PublicFacts(bytes.fromhex(public_key)).address("osmo" if key.namespace == "osmosis" else "celestia")
            == address
        )
    ((name, *_),) = found.values()
    assert name == "production/thrown-away"
    assert any(key.state is KeyState.DISABLED for key in left.keys.values())
    assert not [
        path for path in left.home.rglob("*") if path.is_file() and path.stat().st_mode & 0o077 and "keys" in path.parts
    ]
    assert os.stat(left.home / "keys").st_mode & 0o777 == 0o700
