"""popsigner recovery open: without the POP, and without any network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..migration.formats import ExportFormat
from .failures import ExitCode, explained, fail
from .identity import IdentityFile, read_identity
from .key_files import PassphraseStdin, finish, key_file_errors
from .migrate_export import new_passphrase
from .recovery import app, count_keys
from .session import AsJson

if TYPE_CHECKING:
    from ..migration.results import Result


@app.command("open")
def open_bundle(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `export` wrote.", show_default=False)],
    identity: IdentityFile,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="A folder that is yours alone, or a new one; absent: only check.", metavar="DIR"),
    ] = None,
    form: Annotated[ExportFormat | None, typer.Option("--format", help="What is written.", show_default=False)] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Only this key: namespace/name, id or public key; repeatable.", metavar="KEY"),
    ] = None,
    passphrase_stdin: PassphraseStdin = False,
    as_json: AsJson = False,
) -> None:
    """Open a bundle with its identity, offline, and write the private keys into files as `migrate export` does.

    Every private key is compared with its public key. What is damaged is named, and the others still open; the command
    then ends with 9. It can be repeated, and writes over nothing. Without --to it only shows what opens.

    \b
    Examples:
      popsigner recovery open recovery.bundle --identity identity.txt
      popsigner recovery open recovery.bundle --identity identity.txt --to ./keys --format keystore
      age -d identity.age | popsigner recovery open recovery.bundle --identity - --to ./keys --format cosmos-test
    """
    if (to is None) != (form is None):
        fail("--to and --format go together", code=ExitCode.USAGE, as_json=as_json)
    if passphrase_stdin and (identity == "-" or form is None):
        fail(
            "--passphrase-stdin goes with a --format that has one, and with an identity from a file",
            code=ExitCode.USAGE,
            as_json=as_json,
        )
    with explained(as_json=as_json), key_file_errors(as_json=as_json):
        results = _opened(
            bundle, identity, to, form, frozenset(key or ()), passphrase_stdin=passphrase_stdin, as_json=as_json
        )
    finish(results, as_json=as_json)


def _opened(
    path: Path,
    identity: str,
    to: Path | None,
    form: ExportFormat | None,
    chosen: frozenset[str],
    *,
    passphrase_stdin: bool,
    as_json: bool,
) -> "list[Result]":
    from ..keyfiles import overwrite
    from ..migration.targets import target_of
    from ..recovery import bundle
    from ..recovery.opening import check_identity
    from ..recovery.unpacking import unpack

    found = bundle.read(path)
    content = read_identity(identity, as_json=as_json)
    passphrase = b""
    try:
        # Before anybody thinks about a passphrase.
        check_identity(found, content)
        target = None
        if to is not None and form is not None:
            passphrase = new_passphrase(form, as_json, from_stdin=passphrase_stdin)
            target = target_of(to, form, passphrase)
            target.prepare()
        results: list[Result] = []
        for result in unpack(found, content, target, chosen):
            results.append(result)
            count_keys(len(results))
        count_keys(None)
        return results
    finally:
        overwrite(content, passphrase)
