"""What an earlier node may have left: processes that are still ending, and names of processes that are long gone.

A node that is killed takes its children with it (see `lifeline`), but they need a moment, and the lock is free at
once. So each start ends what the last one recorded, after making sure that it is the same process: the same id, start
time and boot, or a PostgreSQL that works in this very data folder.
"""

import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from popsigner_node.errors import Exit, NodeError

_PATIENCE = 5.0
_POSTGRES = "postgres"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    """born: clock ticks since boot; with the process id it is one process and no later one."""

    name: str
    pid: int
    born: int


def record(path: Path, pids: Mapping[str, int]) -> None:
    """Write the running children to `path`, so that a later start can recognise them."""
    entries = {name: {"pid": pid, "born": born} for name, pid in pids.items() if (born := _born(pid)) is not None}
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps({"boot": _boot(), "processes": entries}))
    fresh.replace(path)


def end(path: Path, *, postgres: Path) -> list[str]:
    """End every process of an earlier node on this data directory; return the names of those that were still there.

    Raises NodeError (IN_USE) when one does not end. Needs the data directory's lock.
    """
    found = {*_working_in(postgres), *_recorded(path)}
    for step in (signal.SIGTERM, signal.SIGKILL):
        for process in filter(_alive, found):
            # PostgreSQL's SIGTERM waits for its clients; SIGQUIT ends it at once and its log replay puts all right.
            gentle = signal.SIGQUIT if process.name == _POSTGRES else signal.SIGTERM
            _signal(process.pid, gentle if step is signal.SIGTERM else step)
        deadline = time.monotonic() + _PATIENCE
        while any(map(_alive, found)) and time.monotonic() < deadline:
            time.sleep(0.02)
    for process in filter(_alive, found):
        raise NodeError(
            f"{process.name} of an earlier popsigner on this data directory is still running and cannot be ended:"
            f" end process {process.pid} first.",
            code=Exit.IN_USE,
        )
    # No process works in the folder, so the file is stale, and its process id may by now be somebody else's, which
    # would keep PostgreSQL from starting.
    (postgres / "postmaster.pid").unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    return sorted({process.name for process in found})


def _recorded(path: Path) -> Iterable[_Process]:
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return
    if content.get("boot") != _boot():
        return
    for name, entry in content["processes"].items():
        process = _Process(name=name, pid=entry["pid"], born=entry["born"])
        if _alive(process):
            yield process


def _working_in(folder: Path) -> Iterable[_Process]:
    """PostgreSQL's processes, and nobody else's, have the data folder as working directory and `postgres` as name."""
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            works_here = os.readlink(f"/proc/{pid}/cwd") == str(folder)
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        born = _born(pid)
        if works_here and name == _POSTGRES and born is not None:
            yield _Process(name=name, pid=pid, born=born)


def _alive(process: _Process) -> bool:
    return _born(process.pid) == process.born


def _born(pid: int) -> int | None:
    """The process's start in clock ticks since boot (proc(5), stat field 22); None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
