"""What the operator sees of what goes on: `up` tells it on stdout, where its results are too; `backup` and `restore` on
stderr, beside the one sentence of a mistake. A spinner only on a terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status


class _Console(Console):
    """A console whose reader may leave (`popsigner up | head`): the POP goes on without one."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Progress:
    """Lines about steps that go on, and about what happens later. doing, done: the words for a step."""

    def __init__(self, *, stderr: bool = False, doing: str = "starting", done: str = "ready") -> None:
        self._console = _Console(highlight=False, soft_wrap=True, stderr=stderr)
        self._doing = doing
        self._done = done
        self._running: list[str] = []
        self._status: Status | None = None
        self._began = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step; steps overlap. A line is written when it is done."""
        began = time.monotonic()
        self._running.append(name)
        self._show()
        try:
            yield
        finally:
            self._running.remove(name)
            self._show()
        self._console.print(f"  [green]{self._done}[/] {escape(name):<40} {time.monotonic() - began:5.1f} s")

    def started(self) -> float:
        """Seconds since the beginning; ends the spinner."""
        self._running.clear()
        self._show()
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """A line about something that happened, with the time of day in front."""
        self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {escape(text)}")

    def result(self, text: str) -> None:
        """Text as it is."""
        self._console.print(text, markup=False)

    def _show(self) -> None:
        if not self._console.is_terminal:
            return
        if not self._running:
            if self._status is not None:
                self._status.stop()
                self._status = None
            return
        text = f"{self._doing} {', '.join(self._running)}"
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(escape(text))
