"""popsigner migrate export: keys leave the POP into files of other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..migration.formats import ExportFormat
from .failures import ExitCode, fail
from .hidden import first_line, piped, typed_hidden
from .key_files import PassphraseStdin, finish, key_file_errors, tell
from .migrate import app
from .session import Session, connected

if TYPE_CHECKING:
    from ..gen.popsigner.v1 import Key
    from ..migration.exporting import Exporter, Job


@app.command("export")
@connected
def export_keys(
    session: Session,
    to: Annotated[Path, typer.Option("--to", help="A folder that is yours alone, or a new one.", metavar="DIR")],
    form: Annotated[ExportFormat, typer.Option("--format", help="What is written.")],
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="Ids, or namespace/name.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every key, but those that are deleted.")] = False,
    namespace: Annotated[str, typer.Option(help="With --all: only keys of this namespace.")] = "",
    all_versions: Annotated[
        bool,
        typer.Option("--all-versions", help="The versions before the newest too: they have addresses of their own."),
    ] = False,
    passphrase_stdin: PassphraseStdin = False,
    verify: Annotated[bool, typer.Option(help="Read it back, sign with it, and have the POP check that.")] = True,
) -> None:
    """Export private keys into a Cosmos keyring (DIR is its home), or into a file each below DIR.

    Only keys that were made exportable, and by an administrator. The command can be repeated: what is there already is
    compared and verified, and nothing is ever written over. No format can be a mnemonic: a key does not tell its words.

    \b
    Examples:
      popsigner migrate export production/validator --to ~/.celestia-app --format cosmos-file
      popsigner migrate export --all --all-versions --to ./keys --format keystore --passphrase-stdin < passphrase
      popsigner migrate export production/worker --to ./plain --format hex
    """
    if bool(keys) == every or (namespace and not every):
        fail("name keys, or give --all, alone or with --namespace", code=ExitCode.USAGE, as_json=session.as_json)
    with key_file_errors(as_json=session.as_json):
        from ..keyfiles import overwrite
        from ..migration.exporting import Exporter, jobs
        from ..migration.targets import target_of

        passphrase = new_passphrase(form, session.as_json, from_stdin=passphrase_stdin)
        try:
            target = target_of(to, form, passphrase)
            target.prepare()
            chosen = _chosen(session, keys or [], namespace)
            found = jobs(session.client, target, chosen, all_versions=all_versions)
            _run(session, Exporter(session.client, target, verify=verify), found)
        finally:
            overwrite(passphrase)
    _tell_older(session, chosen, all_versions=all_versions)
    finish([job.result for job in found], as_json=session.as_json)


def new_passphrase(form: ExportFormat, as_json: bool, *, from_stdin: bool) -> bytes:
    """The passphrase of what is written, which the caller overwrites. Raises typer.Exit."""
    from ..keyfiles import overwrite

    if not form.encrypted:
        if from_stdin:
            fail(f"{form} has no passphrase", code=ExitCode.USAGE, as_json=as_json)
        return b""
    if from_stdin:
        given, rest = first_line(piped(as_json=as_json))
        overwrite(rest)
    else:
        given = typed_hidden("Passphrase", as_json=as_json, instead="--passphrase-stdin")
        again = typed_hidden("The same again", as_json=as_json)
        same = given == again
        overwrite(again)
        if not same:
            overwrite(given)
            fail("these are two passphrases; nothing was written", code=ExitCode.USAGE, as_json=as_json)
    passphrase = bytes(given)
    overwrite(given)
    return passphrase


def _chosen(session: Session, names: list[str], namespace: str) -> "list[Key]":
    from ..gen.popsigner.v1 import KeyState

    if names:
        return [session.client.keys.get(name) for name in names]
    found = [key for key in session.client.keys.list(namespace=namespace) if key.state is not KeyState.DELETED]
    if not found:
        fail("there is no key to export", code=ExitCode.NOT_FOUND, as_json=session.as_json)
    return found


def _run(session: Session, exporter: "Exporter", jobs: "list[Job]") -> None:
    from ..migration.results import OF_ALL_KEYS

    results = [job.result for job in jobs]
    try:
        for number, job in enumerate(jobs):
            with job.result.attempt():
                exporter.bring_out(job)
            tell(session, number, results)
    except OF_ALL_KEYS:
        # It is kept in its result; the others would only fail as this one did.
        return


def _tell_older(session: Session, keys: "list[Key]", *, all_versions: bool) -> None:
    from .output import text

    rotated = [f"{key.namespace}/{key.name}" for key in keys if key.version > 1]
    if rotated and not all_versions:
        typer.echo(f"NOTE: older versions of {text(rotated)} were left; --all-versions exports them too.", err=True)
