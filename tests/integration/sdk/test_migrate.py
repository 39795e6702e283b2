"""popsigner migrate and a real POP: keys come in by every format and leave by every format, byte for byte."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import coincurve
import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest

from popsigner import (
    AsyncClient,
    Client,
    KeyNameTaken,
    KeyNotExportable,
    KeyPair,
    KeyPresent,
    RoleMissing,
    ScopeMissing,
)
from popsigner.keyfiles import CosmosKeyring, Secret, age, armor, keystore, rawhex
from tests.support.pop import Pop

PROGRAM = Path(sys.executable).with_name("popsigner")
PASSPHRASE = b"correct horse"
FORMATS = ("cosmos-test", "cosmos-file", "cosmos-armor", "keystore", "hex")
# Encryption for tests' sake only.
WEAK = 2


class Command:
    """The installed program, as who holds an API key."""

    def __init__(self, pop: Pop, key_file: Path, api_key: str) -> None:
        key_file.write_text(api_key + "\n")
        self._environment = {**os.environ, "POPSIGNER_ENDPOINT": pop.http, "POPSIGNER_API_KEY_FILE": str(key_file)}

    def begin(self, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [str(PROGRAM), *arguments],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> list[Any]:
        process = self.begin(*arguments, "--json")
        output, errors = process.communicate(stdin, timeout=100)
        assert process.returncode == code, errors.decode()
        found: list[Any] = json.loads(output)["keys"]
        return found


@pytest.fixture
def popsigner(pop: Pop, tmp_path: Path) -> Command:
    return Command(pop, tmp_path / "owner.key", pop.api_key)


@pytest.fixture
def namespace(client: Client) -> str:
    return client.namespaces.create(name=f"moved-{uuid4().hex[:12]}", address_prefix="osmo").name


def source(folder: Path, form: str, name: str, scalar: bytes) -> list[str]:
    """Write a private key in a format; what names it to `migrate import`."""
    secret = Secret(bytearray(scalar))
    if form in ("cosmos-test", "cosmos-file"):
        CosmosKeyring(folder, "test" if form == "cosmos-test" else "file", PASSPHRASE).write(name, secret)
        return [str(folder), "--key", name]
    content = {
        "cosmos-armor": lambda: armor.write(secret, PASSPHRASE),
        "keystore": lambda: keystore.write(secret, PASSPHRASE, n=WEAK),
        "hex": lambda: bytes(rawhex.write(secret)),
    }[form]()
    (folder / name).write_bytes(content)
    return [str(folder / name), "--name", name]


def exported(place: Path, form: str) -> bytes:
    """The private key that an export has written, read by the formats' own readers."""
    readers: dict[str, Callable[[], Secret]] = {
        "cosmos-test": lambda: CosmosKeyring(place.parent.parent, "test").read(place.name),
        "cosmos-file": lambda: CosmosKeyring(place.parent.parent, "file", PASSPHRASE).read(place.name),
        "cosmos-armor": lambda: armor.read(place.read_bytes(), PASSPHRASE),
        "keystore": lambda: keystore.read(place.read_bytes(), PASSPHRASE),
        "hex": lambda: rawhex.read(place.read_bytes()),
    }
    return bytes(readers[form]().scalar)


def options(form: str) -> tuple[list[str], bytes]:
    return ([], b"") if form in ("cosmos-test", "hex") else (["--passphrase-stdin"], PASSPHRASE + b"\n")


@pytest.mark.parametrize("form", FORMATS)
def test_a_key_comes_in_by_a_format_and_leaves_by_every_other(
    popsigner: Command, client: Client, namespace: str, tmp_path: Path, form: str
) -> None:
    scalar = os.urandom(32)
    more, stdin = options(form)
    named = source(tmp_path, form, "moved", scalar)
    command = ["migrate", "import", *named, "--namespace", namespace, "--exportable", *more]
    (found,) = popsigner(*command, stdin=stdin)
    assert (found["outcome"], found["verified"]) == ("IMPORTED", True)
    assert found["address"].startswith("osmo1")
    key = client.keys.get(f"{namespace}/moved")
    assert (key.imported, key.exportable, key.address) == (True, True, found["address"])
    assert key.public_key == coincurve.PrivateKey(scalar).public_key.format().hex()

    for other in FORMATS:
        more, stdin = options(other)
        out = str(tmp_path / "out")
        (left,) = popsigner("migrate", "export", key.id, "--to", out, "--format", other, *more, stdin=stdin)
        assert (left["outcome"], left["verified"]) == ("EXPORTED", True)
        assert exported(Path(left["place"]), other) == scalar

    more, stdin = options(form)
    (again,) = popsigner(*command, stdin=stdin)
    assert (again["outcome"], again["verified"]) == ("PRESENT", True)
    events = [row.event for row in client.audit.list(key=key)]
    assert events.count("key.imported") == 1
    assert events.count("key.exported") == len(FORMATS)
    assert events.count("key.signed") == 2


def test_both_clients_import_and_export(client: Client, namespace: str) -> None:
    scalar = os.urandom(32)
    key = client.keys.import_key(bytearray(scalar), name="a", namespace=namespace, exportable=True)
    with client.keys.export_private(key) as secret:
        assert bytes(secret.scalar) == scalar
    rotated = client.keys.rotate(key, expected_version=1)
    pair = KeyPair()
    with client.keys.export_private(key, version=1, key_pair=pair) as secret:
        assert bytes(secret.scalar) == scalar
    answer = client.keys.export(key, recipient=pair.recipient, versions=(1, 2))
    assert {version: each.facts.public_key.hex() for version, each in pair.open(answer).items()} == {
        1: key.public_key,
        2: rotated.key.public_key,
    }
    with pytest.raises(KeyNameTaken):
        client.keys.import_key(scalar, name="a", namespace=namespace)
    with pytest.raises(KeyPresent):
        client.keys.import_key(scalar, name="b", namespace=namespace)


async def test_the_asynchronous_client_does_too(async_client: AsyncClient, namespace: str) -> None:
    scalar = os.urandom(32)
    key = await async_client.keys.import_key(scalar, name="a", namespace=namespace, exportable=True)
    with await async_client.keys.export_private(key) as secret:
        assert bytes(secret.scalar) == scalar
    identity = pyrage.x25519.Identity.generate()
    sealed = await async_client.keys.export(key, recipient=str(identity.to_public()))
    opened = json.loads(age.open_age(str(identity).encode(), sealed.versions[0].ciphertext))
    assert (opened["private_key"], opened["public_key"]) == (scalar.hex(), key.public_key)
    closed = await async_client.keys.import_key(os.urandom(32), name="closed", namespace=namespace)
    with pytest.raises(KeyNotExportable):
        await async_client.keys.export_private(closed)


def test_the_plan_of_an_import_changes_nothing(
    popsigner: Command, client: Client, namespace: str, tmp_path: Path
) -> None:
    scalars = {name: os.urandom(32) for name in ("free", "taken", "held")}
    for name, scalar in scalars.items():
        source(tmp_path, "cosmos-test", name, scalar)
    client.keys.create(name="taken", namespace=namespace)
    client.keys.import_key(scalars["held"], name="elsewhere", namespace=namespace)
    before = [key.id for key in client.keys.list(namespace=namespace)]

    command = ["migrate", "import", str(tmp_path), "--all", "--namespace", namespace]
    planned = popsigner(*command, "--dry-run", code=9)
    assert [(each["place"], each["outcome"]) for each in planned] == [
        ("free", "PLANNED"),
        ("held", "FAILED"),
        ("taken", "FAILED"),
    ]
    assert f"{namespace}/elsewhere" in planned[1]["error"]["message"]
    assert [key.id for key in client.keys.list(namespace=namespace)] == before
    # What was foreseen is what happens.
    done = popsigner(*command, code=9)
    assert [each["error"] and each["error"]["reason"] for each in done] == [None, "KEY_PRESENT", "KEY_NAME_TAKEN"]
    assert f"{namespace}/elsewhere" in done[1]["error"]["message"]
    assert done[0]["address"] == planned[0]["address"]


def test_who_may_not_is_told_and_what_was_begun_is_finished_by_who_may(
    popsigner: Command, pop: Pop, client: Client, namespace: str, tmp_path: Path
) -> None:
    writer = client.api_keys.create(name="writer", scopes=["api:keys:read", "api:keys:write", "api:keys:export"])
    limited = Command(pop, tmp_path / "writer.key", writer.key)
    scalar = os.urandom(32)
    command = ["migrate", "import", *source(tmp_path, "hex", "a", scalar), "--namespace", namespace, "--exportable"]

    (found,) = limited(*command, code=3)
    assert (found["outcome"], found["verified"], found["error"]["reason"]) == ("IMPORTED", False, "SCOPE_MISSING")
    (found,) = popsigner(*command)
    assert (found["outcome"], found["verified"]) == ("PRESENT", True)
    out = str(tmp_path / "out")
    (found,) = limited("migrate", "export", f"{namespace}/a", "--to", out, "--format", "hex", code=3)
    assert found["error"]["reason"] == "ROLE_MISSING"
    assert list((tmp_path / "out").iterdir()) == []
    with Client(api_key=writer.key, endpoint=pop.http) as other, pytest.raises(RoleMissing):
        other.keys.export_private(f"{namespace}/a")
    reader = client.api_keys.create(name="reader", scopes=["api:keys:read"])
    with Client(api_key=reader.key, endpoint=pop.http) as other, pytest.raises(ScopeMissing):
        other.keys.import_key(os.urandom(32), name="b", namespace=namespace)


@pytest.mark.parametrize("part", ["openbao", "server"])
def test_a_pop_that_goes_down_midway_costs_a_repetition(
    popsigner: Command, pop: Pop, client: Client, namespace: str, tmp_path: Path, part: str
) -> None:
    scalars = {f"key-{number:02}": os.urandom(32) for number in range(24)}
    for name, scalar in scalars.items():
        source(tmp_path, "cosmos-test", name, scalar)
    command = ["migrate", "import", str(tmp_path), "--all", "--namespace", namespace]
    process = popsigner.begin(*command)
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"[1/24]")
    pop.kill(part)
    process.communicate(timeout=100)
    assert process.returncode in (0, 7, 9)

    for _ in range(20):
        process = popsigner.begin(*command)
        process.communicate(timeout=100)
        if process.returncode == 0:
            break
        assert process.returncode in (7, 9)
        time.sleep(1)
    assert process.returncode == 0
    listed = {key.name: key.public_key for key in client.keys.list(namespace=namespace)}
    assert listed == {name: coincurve.PrivateKey(scalar).public_key.format().hex() for name, scalar in scalars.items()}
