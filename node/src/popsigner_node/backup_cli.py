"""`popsigner backup` and `popsigner restore`: the command lines."""

import asyncio
import json
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from popsigner_node.cli import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from popsigner_node.age_keys import Identity, Recipient

_Result = TypeVar("_Result")
_MOST_BYTES = 2**20
AsJson = Annotated[bool, typer.Option("--json", help="Print what was done as one JSON object.")]


def backup(
    to: Annotated[Path, typer.Option(help="The archive to make; - for standard output. Never replaces a file.")],
    data_dir: Annotated[Path, typer.Option(help="The POP's data directory.")] = DEFAULT_DATA_DIR,
    recipient: Annotated[
        list[str] | None, typer.Option(help="Who can open it: an age recipient, age1...; repeatable.")
    ] = None,
    recipient_file: Annotated[
        list[Path] | None, typer.Option(help="A file with one age recipient a line; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a backup of a whole POP, which goes on signing meanwhile.

    The archive holds the vault, the database and the secrets that open them,
    sealed to age recipients: whoever has one of the identities has all keys.
    It opens with the ordinary age, too. A POP that is stopped is backed up
    the same way.

    Examples:

      popsigner backup --to pop-2026-11-21.age --recipient age1...

      popsigner backup --data-dir /srv/pop --to - --recipient-file ops.txt | ssh vault 'cat > pop.age'

    Exit codes: 0 done, 1 failed, 2 wrong options, 12 no data directory of
    this version, 13 unseal key missing, 14 disk full, 15 no permission,
    18 an unfinished restore.
    """
    # The node's modules take a third of a second to import; `--help` does without.
    from popsigner_node.backup import backup as make
    from popsigner_node.output import STDOUT
    from popsigner_node.progress import Progress

    if as_json and to == STDOUT:
        raise typer.BadParameter("--json and --to - both want standard output.")
    recipients = _recipients(recipient or [], recipient_file or [])
    progress = Progress(stderr=True, doing="backing up", done="done ")
    done = _run(make(data_dir, to, recipients=recipients, progress=progress))
    facts = done.facts() if to == STDOUT else {"archive": str(to), **done.facts()}
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        typer.echo(_told(facts), err=to == STDOUT)


def restore(
    archive: Annotated[Path, typer.Argument(help="The archive that `popsigner backup` made.")],
    identity: Annotated[list[Path], typer.Option(help="A file with age identities (age-keygen); repeatable.")],
    data_dir: Annotated[Path, typer.Option(help="Where the POP shall live: empty, or not there.")] = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Make a POP's data directory from a backup, and check it.

    Reads all of the archive before it changes anything, rebuilds the vault
    and the database, and compares them key by key. `popsigner up` then
    starts it, on any ports and as any user. A restore that was interrupted
    is run again with the same command.

    Examples:

      popsigner restore pop-2026-11-21.age --identity identity.txt

      popsigner restore pop.age --identity identity.txt --data-dir /srv/pop --json

    Exit codes: 0 done, 1 failed, 2 wrong options, 11 data directory in use,
    12 data directory not empty or archive of another version, 13 the unseal
    key does not fit, 14 disk full, 15 no permission, 17 the archive cannot
    be opened.
    """
    from popsigner_node.progress import Progress
    from popsigner_node.restore import restore as make

    identities = _identities(identity)
    progress = Progress(stderr=True, doing="restoring", done="done ")
    done = _run(make(archive, data_dir, identities=identities, progress=progress))
    typer.echo(json.dumps(done.facts()) if as_json else _told(done.facts()))


def _run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run to the end, or until SIGTERM or Ctrl-C; a mistake is one sentence and its code."""
    # The node's modules take a third of a second to import; `--help` does without.

    from popsigner_node.errors import NodeError

    async def until_stopped() -> _Result:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    os.umask(0o077)
    try:
        return asyncio.run(until_stopped())
    except asyncio.CancelledError:
        sentence, code = "stopped before the end.", 1
    except NodeError as error:
        sentence, code = str(error), int(error.code)
    typer.echo(f"popsigner: {sentence}", err=True)
    raise typer.Exit(code)


def _recipients(named: list[str], files: list[Path]) -> list["Recipient"]:
    from popsigner_node.age_keys import recipients

    try:
        found = recipients([*named, *(line for file in files for line in _lines(file))])
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None
    if not found:
        raise typer.BadParameter("name somebody who can open it: --recipient or --recipient-file.")
    return found


def _identities(files: list[Path]) -> list["Identity"]:
    from popsigner_node.age_keys import identities

    try:
        found = identities(line for file in files for line in _lines(file))
    except ValueError as error:
        raise typer.BadParameter(f"--identity: {error}.") from None
    if not found:
        raise typer.BadParameter("--identity names no file with an age identity.")
    return found


def _lines(file: Path) -> list[str]:
    try:
        with file.open() as content:
            return content.read(_MOST_BYTES).splitlines()
    except (OSError, UnicodeDecodeError):
        raise typer.BadParameter(f"{file} cannot be read as text.") from None


def _told(facts: dict[str, object]) -> str:
    return "\n".join(f"{name:14} {_word(value)}" for name, value in facts.items())


def _word(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
