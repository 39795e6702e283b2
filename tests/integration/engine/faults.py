"""An engine that is killed at a named step: the product's own code, in OpenBao, with its storage calls watched.

with killable(monkeypatch) as (server, faults):
    faults.arm(Fault("before", "put", "keys/"))    # SIGKILL to the engine before its next write below keys/
    ...
    assert not faults.armed()                      # it happened
"""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import pytest

from popsigner_plugin import install as installer
from tests.support.openbao import OpenBaoServer

_START = "    from popsigner_plugin.process import main as run\n"

# Runs in the engine's process before it serves. One fault is in the file: it is removed before it strikes, so that it
# strikes once, whichever process the engine is by then.
_WATCH = """
    import pathlib, signal
    from popsigner_plugin.storage import OpenBaoStorage

    armed = pathlib.Path({armed!r})

    def pass_by(moment, operation, key):
        if not armed.exists():
            return
        fault = json.loads(armed.read_text())
        if (moment, operation) != (fault["moment"], fault["operation"]) or not key.startswith(fault["below"]):
            return
        armed.unlink()
        if fault["nth"] > 1:
            armed.write_text(json.dumps(fault | {{"nth": fault["nth"] - 1}}))
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(operation):
        original = getattr(OpenBaoStorage, operation)

        async def call(self, key, *value):
            pass_by("before", operation, key)
            await original(self, key, *value)
            pass_by("after", operation, key)

        setattr(OpenBaoStorage, operation, call)

    watched("put")
    watched("delete")
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """moment: "before" or "after" the write has happened. operation: "put" or "delete". below: the entry's folder.
    nth: which of several such writes."""

    moment: str
    operation: str
    below: str
    nth: int = 1


class Faults:
    """The one fault that is to come."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def arm(self, fault: Fault) -> None:
        self._file.write_text(json.dumps(asdict(fault)))

    def armed(self) -> bool:
        return self._file.exists()


@contextmanager
def killable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[tuple[OpenBaoServer, Faults]]:
    """An OpenBao of its own with such an engine. folder: where the fault is noted."""
    armed = folder / "armed"
    launcher = installer._launcher
    monkeypatch.setattr(installer, "_launcher", lambda: _with_watch(launcher(), armed))
    with OpenBaoServer.started() as server:
        yield server, Faults(armed)


def _with_watch(launcher: bytes, armed: Path) -> bytes:
    """The launcher with its storage watched from the moment at which its modules can be imported."""
    first_lines = launcher[: launcher.index(b"PK\x03\x04")]
    changed = BytesIO()
    with zipfile.ZipFile(BytesIO(launcher)) as archive, zipfile.ZipFile(changed, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "__main__.py":
                text = content.decode()
                assert text.count(_START) == 1
                content = text.replace(_START, _WATCH.format(armed=str(armed)) + _START).encode()
            copy.writestr(zipfile.ZipInfo(name), content)
    return first_lines + changed.getvalue()
