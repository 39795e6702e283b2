"""popsigner keys export: a private key, sealed."""

from pathlib import Path

import pyrage  # type: ignore[import-untyped]  # publishes no types
import pytest

from popsigner import KeyPair

from .command import Popsigner
from .key_pop import KeyPop, public_hex, sealed
from .migrating import SECRET


@pytest.fixture
def held(keys: KeyPop) -> KeyPop:
    """Two exportable keys, one of which was rotated."""
    keys.secrets = {"production/alpha": [b"\1" * 32], "production/beta": [b"\2" * 32, b"\4" * 32]}
    keys.exportable = set(keys.secrets)
    return keys


def test_a_sealed_export_is_written_as_the_pop_answers_it(popsigner: Popsigner, held: KeyPop, tmp_path: Path) -> None:
    pair = KeyPair()
    (tmp_path / "public.pem").write_text(pair.recipient)
    out = tmp_path / "key.wrapped"
    arguments = ["keys", "export", "production/beta", "--recipient", f"@{tmp_path / 'public.pem'}", "--out", str(out)]
    told = popsigner.json(*arguments, "--key-version", "1")

    assert told["public_key"] == public_hex(b"\2" * 32)
    assert (told["version"], told["wrapping"], told["file"]) == (1, "RSA-OAEP-SHA256+AES-KWP", str(out))
    assert len(out.read_bytes()) == len(sealed(SECRET, pair.recipient))
    assert out.stat().st_mode & 0o777 == 0o600
    assert popsigner(*arguments).exit_code == 2
    assert len(held.pop.called("KeyService/ExportKey")) == 1


def test_a_sealed_export_that_fails_leaves_no_file(popsigner: Popsigner, held: KeyPop, tmp_path: Path) -> None:
    held.exportable.clear()
    out = tmp_path / "key.age"
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    done = popsigner("keys", "export", "production/alpha", "--recipient", recipient, "--out", str(out))
    assert (done.exit_code, out.exists()) == (5, False)


def test_a_private_key_is_not_taken_for_a_recipient(popsigner: Popsigner, held: KeyPop, tmp_path: Path) -> None:
    file = tmp_path / "private.pem"
    file.write_text("-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----\n")
    out = str(tmp_path / "out")
    done = popsigner("keys", "export", "production/alpha", "--recipient", f"@{file}", "--out", out)
    assert (done.exit_code, "was not sent" in done.stderr) == (2, True)
    assert held.pop.seen == []
