"""The installed `popsigner` program and a real POP."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.pop import Pop

PROGRAM = Path(sys.executable).with_name("popsigner")
DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def environment(pop: Pop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a user exports."""
    key_file = tmp_path_factory.mktemp("cli") / "owner.key"
    key_file.write_text(pop.api_key + "\n")
    names = {"POPSIGNER_ENDPOINT": pop.http, "POPSIGNER_API_KEY_FILE": str(key_file)}
    return {**os.environ, **names, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}


class Command:
    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(PROGRAM), *arguments],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def popsigner(environment: dict[str, str]) -> Command:
    return Command(environment)


def test_a_key_signs_and_its_signature_verifies(popsigner: Command) -> None:
    created = popsigner.json("keys", "create", "commanded")
    signature = popsigner("sign", "production/commanded", "hello").stdout.strip()

    assert len(signature) == 128
    assert popsigner("verify", "production/commanded", "hello", "--signature", signature).returncode == 0
    assert popsigner("verify", created["public_key"], "hello", "--signature", signature).returncode == 0
    assert popsigner("verify", created["id"], "Hello", "--signature", signature).returncode == 8
    logs = popsigner.json("audit", "list", "--key", created["id"], "--event", "key.signed")["logs"]
    assert len(logs) == 1


def test_exit_codes_tell_what_is_wrong(popsigner: Command, tmp_path: Path) -> None:
    popsigner.json("keys", "create", "taken")
    wrong = tmp_path / "wrong.key"
    wrong.write_text("psk_live_01J00000000000000000000000_" + "00" * 32)

    codes = {
        "not found": popsigner("keys", "show", "production/nobody").returncode,
        "conflict": popsigner("keys", "create", "taken").returncode,
        "refused": popsigner("sign", "production/taken", "short", "--prehashed").returncode,
        "not allowed": popsigner("usage", "--api-key-file", str(wrong)).returncode,
        "unavailable": popsigner("usage", "--endpoint", "127.0.0.1:1", "--timeout", "1").returncode,
        "usage": popsigner("keys", "delete", "production/taken").returncode,
    }

    assert codes == {
        "not found": 4,
        "conflict": 5,
        "refused": 1,
        "not allowed": 3,
        "unavailable": 7,
        "usage": 2,
    }


def test_an_api_key_is_made_used_and_revoked(popsigner: Command, tmp_path: Path) -> None:
    popsigner.json("keys", "create", "shared")
    file = tmp_path / "prover.key"
    made = popsigner.json("api-keys", "create", "prover", "--scope", "api:keys:sign", "--key-out", str(file))

    assert popsigner("sign", "production/shared", "hello", "--api-key-file", str(file)).returncode == 0
    assert popsigner("keys", "list", "--api-key-file", str(file)).returncode == 3
    assert popsigner("api-keys", "revoke", made["api_key"]["id"], "--yes").returncode == 0
    assert popsigner("sign", "production/shared", "hello", "--api-key-file", str(file)).returncode == 3


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_examples_for_python_work(environment: dict[str, str], popsigner: Command) -> None:
    examples = blocks("python.md", "python")

    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, ""), example
    assert len(examples) > 5
    for name in ("sequencer", "bridge"):
        assert popsigner("keys", "delete", f"production/{name}", "--force", "--yes").returncode == 0


def test_the_examples_for_the_shell_work(environment: dict[str, str], popsigner: Command, tmp_path: Path) -> None:
    (signing, life) = blocks("cli.md", "sh")
    (tmp_path / "sign_doc.bin").write_bytes(bytes(range(256)))

    def run(example: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-eu", "-c", example], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    signed = run(signing)
    assert (signed.returncode, signed.stderr) == (0, "")
    assert "valid\n" in signed.stdout
    assert (tmp_path / "prover.key").read_text().startswith("psk_")
    lived = run(life)
    assert lived.returncode == 0, lived.stderr
    assert popsigner.json("keys", "show", "production/bridge")["version"] == 2
    for name in ("sequencer", "bridge"):
        assert popsigner("keys", "delete", f"production/{name}", "--force", "--yes").returncode == 0
