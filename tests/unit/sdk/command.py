"""The command line as the tests run it: in this process, or installed and on a terminal."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from popsigner.cli.app import app

from .scripted_pop import ScriptedPop


class Popsigner:
    """Runs the command line against the scripted POP: with the API key of a file, or else as who is logged in below
    `home`."""

    def __init__(
        self, pop: ScriptedPop, key_file: Path | None = None, *, endpoint: str = "", home: Path | None = None
    ) -> None:
        self.pop = pop
        self.key_file = key_file or Path(os.devnull)
        # None takes a name out of the environment that the tests run in.
        self.environment: dict[str, str | None] = {
            "POPSIGNER_ENDPOINT": endpoint or pop.endpoint,
            "POPSIGNER_API_KEY": None,
            "POPSIGNER_API_KEY_FILE": str(key_file) if key_file else None,
            "POPSIGNER_ORGANIZATION": None,
            "XDG_CONFIG_HOME": str(home) if home else "/nowhere/at/all",
        }

    def __call__(self, *arguments: str, stdin: bytes | None = None, **environment: str | None) -> Result:
        result = CliRunner().invoke(
            app, list(arguments), input=stdin, env=self.environment | environment, prog_name="popsigner"
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def json(self, *arguments: str, stdin: bytes | None = None) -> Any:
        result = self(*arguments, "--json", stdin=stdin)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def sent(self, method: str) -> Any:
        (seen,) = self.pop.called(method)
        return seen.request

    def outer_environment(self, **more: str) -> Mapping[str, str]:
        """What a process of its own gets."""
        whole = {**os.environ, **self.environment, "TERM": "xterm", **more}
        return {name: value for name, value in whole.items() if value is not None}


def on_a_terminal(popsigner: Popsigner, typed: bytes, *arguments: str, after: bytes = b"") -> tuple[int, str]:
    """Run the installed command on a pseudo-terminal and type when it has shown `after`; exit code and all that it
    showed."""
    return conversation(popsigner.outer_environment(), [(after, typed)], *arguments)


def conversation(
    environment: Mapping[str, str],
    steps: Iterable[tuple[bytes, bytes]],
    *arguments: str,
    program: Sequence[str] = ("-c", "from popsigner.cli import main; main()"),
) -> tuple[int, str]:
    """Run the command on a pseudo-terminal; of each step type the second part when it has shown the first one since the
    step before. Exit code and all that it showed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        # Without a terminal that controls it, a password is asked for where stdin is.
        start_new_session=True,
    ) as process:
        os.close(theirs)
        waiting = list(steps)
        shown, read_to = b"", 0
        while True:
            if waiting and waiting[0][0] in shown[read_to:]:
                read_to = len(shown)
                os.write(ours, waiting.pop(0)[1])
            try:
                shown += os.read(ours, 4096)
            except OSError:
                break
    os.close(ours)
    return process.returncode, shown.decode()
