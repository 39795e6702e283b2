"""The vectors of public standards below `tests/vectors`; each file names its source."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "vectors"


def load(name: str) -> dict[str, Any]:
    """One file of vectors, e.g. `bech32`."""
    vectors: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return vectors
