"""popsigner exit-drill"""

import datetime
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .failures import ExitCode, explained, fail
from .identity import IdentityFile, read_identity
from .key_files import key_file_errors
from .session import AsJson, Session, connected
from .values import new_file

if TYPE_CHECKING:
    from ..drill import Drill, Report

_LONGEST = 256 * 1024 * 1024


class _RunsByItself(TyperGroup):
    """`exit-drill --identity …` is the drill; only what is done with its report has a name of its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        helps = args[:1] in ([each] for each in ctx.help_option_names)
        first = "" if helps or (args and not args[0].startswith("-")) else "run"
        return super().parse_args(ctx, [first, *args] if first else args)


app = typer.Typer(cls=_RunsByItself, rich_markup_mode=None)


@app.command()
@connected
def run(
    session: Session,
    identity: IdentityFile = "",
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Put the keys into this folder, new or empty.", metavar="FOLDER", show_default=False),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write the report to this new file; default: exit-drill-TIME.json here.", show_default=False),
    ] = None,
    sign_with: Annotated[
        str, typer.Option(help="Sign the report with this key; default: the oldest that is enabled.", metavar="KEY")
    ] = "",
) -> None:
    """Export or recover every key, sign with each outside the POP, and write a signed report.

    The keys are destroyed again at the end. Until then they are in a folder of yours alone, encrypted under a
    passphrase that only this process has. Needs the role admin or owner; an API key also needs api:keys:read,
    api:keys:sign and api:keys:export. Ends with 1 if a key does not come out.

    \b
    Examples:
      popsigner exit-drill run --identity identity.txt      # run may be left out
      popsigner exit-drill --identity identity.txt --report drill.json --json
      popsigner exit-drill verify drill.json
    """
    path = report or Path(f"exit-drill-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json")
    with key_file_errors(as_json=session.as_json), new_file(path, as_json=session.as_json) as file:
        found, unsigned = _run(session, identity, to, sign_with)
        file.write(json.dumps(found.document(), indent=2, ensure_ascii=False).encode() + b"\n")
    _tell(found, path, unsigned, as_json=session.as_json)


@app.command()
def verify(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="The report of a drill.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Check a report without any POP: its signature, every key's signature, every address.

    Says whose key signed it: compare that address with one that you know. Ends with 8 if something does not hold.

    \b
    Examples:
      popsigner exit-drill verify drill.json
    """
    from .output import print_json, text

    with explained(as_json=as_json):
        from ..drill import check

        try:
            with report.open("rb") as file:
                content = file.read(_LONGEST)
        except OSError as error:
            fail(f"{report} cannot be read: {error.strerror}", code=ExitCode.USAGE, as_json=as_json)
        document, problems = check(content)
    attestation = document["attestation"]
    if as_json:
        print_json({"valid": not problems, "problems": problems, "attestation": attestation})
    else:
        typer.echo("invalid" if problems else "valid")
        for problem in problems:
            typer.echo(f"popsigner: {text(problem)}", err=True)
        if not problems:
            _tell_signer(document)
    if problems:
        raise typer.Exit(ExitCode.INVALID_SIGNATURE)


def _tell_signer(document: dict[str, Any]) -> None:
    from .output import text

    attestation, totals = document["attestation"], document["totals"]
    signed = next(
        each
        for key in document["keys"]
        if key["id"] == attestation["key_id"]
        for each in key["versions"]
        if each["version"] == attestation["key_version"]
    )
    typer.echo(f"organization: {text(document['organization']['name'])} ({text(document['organization']['id'])})")
    typer.echo(f"finished_at: {text(document['finished_at'])}")
    typer.echo(f"keys: {totals['keys']}, of them {totals['exported']} exported, {totals['recovered']} recovered")
    typer.echo(f"signed by: {text(attestation['key_id'])}, {text(signed['address'])}, {text(signed['eth_address'])}")


def _run(session: Session, identity: str, to: Path | None, sign_with: str) -> "tuple[Report, str]":
    """The report, and why it is not signed. Raises KeyFileError, PopsignerError, typer.Exit."""
    from ..drill import Drill
    from ..drill.place import prepared, state_folder
    from ..keyfiles import overwrite

    content = read_identity(identity, as_json=session.as_json) if identity else None
    try:
        with _ended_by_signals():
            with prepared(to, state_folder(os.environ)) as place:
                drill = Drill(session.client, place, identity=content, sign_with=sign_with, progress=_progress)
                report = drill.run()
            return report, _attest(drill, report)
    finally:
        if content is not None:
            overwrite(content)


def _attest(drill: "Drill", report: "Report") -> str:
    """Why the report is not signed; empty where it is, or has nothing to tell."""
    from ..errors import PopsignerError

    try:
        if report.keys:
            drill.attest(report)
    except PopsignerError as error:
        return error.message.rstrip(".")
    return ""


def _tell(report: "Report", path: Path, unsigned: str, *, as_json: bool) -> None:
    from .output import print_json, print_table, text

    if as_json:
        print_json(report.document())
    else:
        columns = ("id", "namespace", "name", "way", "result", "versions")
        rows = ((*(getattr(key, name) for name in columns[:-1]), len(key.versions)) for key in report.keys)
        print_table(columns, rows)
    totals = report.totals
    for key in report.keys:
        for problem in key.problems:
            typer.echo(f"popsigner: {text(f'{key.namespace}/{key.name}: {problem}')}", err=True)
    if not report.keys:
        typer.echo("The organization has no keys, so there is nothing to leave with.", err=True)
    elif report.passed:
        typer.echo(
            f"The drill passed: {totals['exported']} keys exported, {totals['recovered']} recovered; "
            f"{totals['versions']} versions signed outside the POP. Report: {path}",
            err=True,
        )
    if not report.passed:
        fail(
            f"the drill FAILED for {totals['failed']} of {totals['keys']} keys; report: {path}",
            code=ExitCode.REFUSED,
            as_json=as_json,
        )
    if unsigned:
        fail(f"the report in {path} is not signed: {unsigned}", code=ExitCode.REFUSED, as_json=as_json)


def _progress(what: str, done: int, whole: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{what}: {done} of {whole}", err=True, nl=done == whole)
    elif done == whole:
        typer.echo(f"{what}: {done} of {whole}", err=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A closed terminal and a polite kill end the drill as Ctrl-C does: its folder is cleared."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
