"""What the tests of `popsigner migrate` share."""

import json
from typing import Any

from popsigner.keyfiles import Secret

from .command import Popsigner

SECRET = bytes.fromhex("11" * 32)
PASSPHRASE = b"correct horse"
# The first of BIP-39's published test vectors.
MNEMONIC = b"abandon " * 11 + b"about"


def secret(scalar: bytes = SECRET) -> Secret:
    return Secret(bytearray(scalar))


def results(popsigner: Popsigner, *arguments: str, code: int = 0, stdin: bytes | None = None) -> list[Any]:
    """What the command answers for each key; no output of it holds the private key."""
    done = popsigner(*arguments, "--json", stdin=stdin)
    assert done.exit_code == code, done.output
    assert SECRET.hex() not in done.output
    found: list[Any] = json.loads(done.stdout)["keys"]
    return found


def outcomes(found: list[Any]) -> dict[str, tuple[str, bool]]:
    return {each["key"]: (each["outcome"], each["verified"]) for each in found}


def wiped(secrets: list[Secret]) -> bool:
    """Whether there were some, and each is overwritten."""
    return bool(secrets) and all(secret.scalar == bytes(32) for secret in secrets)
