"""CPU and memory of a POP by process, and of the load generator itself.

A part is its process with all children that are no part themselves: PostgreSQL is its postmaster with every backend.
Memory is the proportional set size, in which PostgreSQL's shared pages count once.
"""

import os
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.load import Measured
from tests.support.pop import Pop

GENERATOR = "load generator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a signature cost: ms of CPU by process. generator: the load generator's share of one core meanwhile."""

    by_process: dict[str, float]
    generator: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a part holds at one moment.

    pss: its proportional set size, MiB. own: its anonymous memory (heaps, stacks), MiB, with what of it was swapped
    out. Shared memory is not in that (PostgreSQL touches its buffers until all are touched), and neither are pages of
    files, which the kernel takes back when it likes (programs, libraries, the database file that OpenBao maps). cpu:
    seconds so far.
    """

    pss: float
    own: float
    descriptors: int
    threads: int
    cpu: float


def holdings(roots: Mapping[str, int]) -> dict[str, Holding]:
    """Raises psutil.NoSuchProcess where a part has just been started anew."""
    return {name: _holding(_tree(pid, roots)) for name, pid in roots.items()}


def cpu_seconds(roots: Mapping[str, int]) -> dict[str, float]:
    """User and system time of each part so far, with that of children which have ended."""
    return {name: sum(_spent(each) for each in _tree(pid, roots)) for name, pid in roots.items()}


def memory_mib(roots: Mapping[str, int]) -> dict[str, float]:
    """Proportional set size of each part in MiB."""
    return {name: sum(_size(each) for each in _tree(pid, roots)) / (1 << 20) for name, pid in roots.items()}


def parts(pop: Pop) -> dict[str, int]:
    """The POP's processes, its node, and this process; waits until the node has seen the engine, which OpenBao starts
    with the first key."""
    assert pop.process is not None
    end = time.monotonic() + 10
    while "plugin" not in pop.processes:
        assert time.monotonic() < end, pop.report()
        time.sleep(0.1)
    return pop.processes | {"node": pop.process.pid, GENERATOR: os.getpid()}


async def costed(roots: Mapping[str, int], run: Awaitable[Measured], *, items: int = 1) -> tuple[Measured, Cost]:
    """What one measurement cost; items: signatures a call."""
    before, began = cpu_seconds(roots), time.perf_counter()
    found = await run
    after, seconds = cpu_seconds(roots), time.perf_counter() - began
    spent = {name: max(0.0, after[name] - before[name]) for name in roots}
    signatures = max(1, found.calls * items)
    by_process = {name: each * 1e3 / signatures for name, each in spent.items()}
    return found, Cost(by_process=by_process, generator=spent[GENERATOR] / seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """CPU seconds of the whole machine and of this process with all its ended children, at one moment."""

    moment: float
    busy: float
    own: float

    @classmethod
    def now(cls) -> "Machine":
        machine, own = psutil.cpu_times(), os.times()
        idle = machine.idle + machine.iowait + machine.guest + machine.guest_nice
        return cls(moment=time.monotonic(), busy=sum(machine) - idle, own=sum(own[:4]))

    def others(self) -> float:
        """Cores that other programs, or other machines on the same host, have used since. Ask when all parts ended."""
        now = Machine.now()
        return max(0.0, now.busy - self.busy - (now.own - self.own)) / (now.moment - self.moment)


def _tree(pid: int, roots: Mapping[str, int]) -> list[psutil.Process]:
    others = set(roots.values()) - {pid}
    waiting, found = [psutil.Process(pid)], []
    while waiting:
        process = waiting.pop()
        found.append(process)
        # The load generator has started the node, and the node its parts: each is counted by its own name alone.
        if process.pid != os.getpid():
            try:
                waiting += [child for child in process.children() if child.pid not in others]
            except psutil.NoSuchProcess:
                continue
    return found


def _spent(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    # The generator's ended children are other generators and what they started, which are counted where they ran.
    ended = 0.0 if process.pid == os.getpid() else times.children_user + times.children_system
    return float(times.user + times.system + ended)


def _size(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0


def _holding(tree: Sequence[psutil.Process]) -> Holding:
    pss = own = descriptors = threads = 0
    for process in tree:
        try:
            # Of psutil's figures none leaves out shared memory and files.
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            descriptors += process.num_fds()
            threads += process.num_threads()
        except (OSError, psutil.NoSuchProcess):
            # A worker of PostgreSQL's that has ended meanwhile.
            continue
        kib = {line.partition(":")[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
        pss += kib["Pss"]
        own += kib["Pss_Anon"] + kib["SwapPss"]
    return Holding(pss=pss / 1024, own=own / 1024, descriptors=descriptors, threads=threads, cpu=sum(map(_spent, tree)))
