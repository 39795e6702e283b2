"""Child processes: started, watched, started again when they end, stopped."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from popsigner_node.errors import NodeError

_PAUSES = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Seconds before the first, second, … start again in a row; the last goes on for ever. The sum of the first three stays
well below the ten seconds in which a POP is back."""
_STEADY = 10.0
"""A child that ran for so many seconds counts as healthy: its next end is a first one again."""
_ATTEMPTS = 3
_POLL = 0.03
_TAIL = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run as one child.

    command: argument list (see `lifeline.tied`). environment: all of it.
    ready: True once the child does its work; called again and again, so it must be cheap and must not raise.
    diagnose: given what the child wrote since its last start, the sentence for a mistake that no new start can heal.
    patience: seconds between `stop_signal` and SIGKILL.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]]
    diagnose: Callable[[str], NodeError | None]
    stop_signal: signal.Signals
    patience: float


class Child:
    """One child process over all its lives."""

    def __init__(self, *, program: Program, log: Path, changed: Callable[[], None], say: Callable[[str], None]) -> None:
        self.program = program
        self._log = log
        self._log_start = 0
        self._changed = changed
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._ends = 0
        self._failure: NodeError | None = None

    @property
    def pid(self) -> int | None:
        """The running process's id; None while there is none."""
        return None if self._process is None else self._process.pid

    async def start(self, *, within: float) -> None:
        """Run the program and keep it running; return once it is ready.

        Raises NodeError when it is not ready `within` seconds, ended three times, or wrote of a mistake that
        `diagnose` knows. The child may still run then: `stop` it.
        """
        # What an earlier run of the node left in the log is no news of this child.
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.program.name}")
        deadline = time.monotonic() + within
        while not (self._process is not None and await self.program.ready()):
            failure = self._failure or self.program.diagnose(self.last_words())
            if failure is not None:
                raise failure
            if self._ends >= _ATTEMPTS:
                raise NodeError(f"{self.program.name} does not start: {self._last_line()} (log: {self._log}).")
            if time.monotonic() > deadline:
                raise NodeError(
                    f"{self.program.name} is not ready after {within:.0f} seconds: {self._last_line()}"
                    f" (log: {self._log})."
                )
            await asyncio.sleep(_POLL)

    async def stop(self) -> None:
        """Ask it to stop and insist with SIGKILL after its patience; returns when it is gone."""
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(self.program.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), self.program.patience)
            except TimeoutError:
                self._say(f"{self.program.name} did not stop within {self.program.patience:.0f} s and was killed")
                process.kill()
                await process.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None

    def last_words(self) -> str:
        """What the child wrote since its last start, at most the last 16 KiB."""
        try:
            with self._log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(min(self._log_start, end), end - _TAIL))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _last_line(self) -> str:
        lines = self.last_words().strip().splitlines()
        return lines[-1][:300] if lines else "it wrote nothing"

    async def _keep(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                process = await self._spawn()
            except OSError as error:
                self._failure = NodeError(f"{self.program.name} cannot be started: {error}.")
                return
            if self._ends:
                await self._announce_return(process, since=started)
            code = await process.wait()
            self._process = None
            if self._stopping.is_set():
                return
            self._ends += 1
            attempt = 0 if time.monotonic() - started > _STEADY else attempt
            why = self.program.diagnose(self.last_words())
            self._say(f"{self.program.name} {_ending(code)}; starting it again" + (f". {why}" if why else ""))
            await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
            attempt += 1

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            # A session of its own: Ctrl-C in a terminal reaches the node alone, which then stops all in order.
            self._process = await asyncio.create_subprocess_exec(
                *self.program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.program.environment),
                start_new_session=True,
            )
        self._changed()
        return self._process

    async def _announce_return(self, process: asyncio.subprocess.Process, *, since: float) -> None:
        while process.returncode is None and not self._stopping.is_set():
            if await self.program.ready():
                self._say(f"{self.program.name} is back after {time.monotonic() - since:.1f} s")
                return
            await asyncio.sleep(_POLL)


def _ending(code: int) -> str:
    return f"ended with code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
