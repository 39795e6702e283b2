"""popsigner migrate import; the way out is in `migrate_export`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..migration.formats import ImportFormat
from .failures import ExitCode, fail
from .hidden import first_line, piped, typed_hidden
from .key_files import PassphraseStdin, finish, key_file_errors, tell
from .session import Session, connected

if TYPE_CHECKING:
    from ..migration.importing import Importer
    from ..migration.results import Result
    from ..migration.sources import Source

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_STDIN = "-"


class Coin(StrEnum):
    """Coin types of SLIP-44, by what they are for."""

    COSMOS = "cosmos"
    ETHEREUM = "ethereum"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """The command's options."""

    source: str
    form: ImportFormat
    name: str
    names: tuple[str, ...]
    every: bool
    hd_path: str
    coin: Coin | None
    bip39_passphrase: bool
    passphrase_stdin: bool


@app.command("import")
@connected
def import_keys(
    session: Session,
    source: Annotated[
        str,
        typer.Argument(help="A keyring's home or folder, or a key file; - is stdin or the prompt.", show_default=False),
    ],
    name: Annotated[str, typer.Option(help="What the key is called in the POP; keyrings have names.")] = "",
    namespace: Annotated[str, typer.Option(help="Its namespace.")] = "production",
    form: Annotated[ImportFormat, typer.Option("--format", help="The source's format.")] = ImportFormat.AUTO,
    key: Annotated[list[str] | None, typer.Option(help="An entry of the keyring; repeatable.", metavar="ENTRY")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every entry of the keyring.")] = False,
    hd_path: Annotated[
        str, typer.Option(help="Of a mnemonic: where the key is, as in m/44'/118'/0'/0/0.", metavar="PATH")
    ] = "",
    coin: Annotated[Coin | None, typer.Option(help="Of a mnemonic: the usual path of this; default: cosmos.")] = None,
    bip39_passphrase: Annotated[
        bool, typer.Option("--bip39-passphrase", help="The mnemonic has a passphrase: ask for it.")
    ] = False,
    exportable: Annotated[bool, typer.Option("--exportable", help="Allow its owner to export it later.")] = False,
    passphrase_stdin: PassphraseStdin = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would happen; send nothing secret.")] = False,
    verify: Annotated[bool, typer.Option(help="Have the POP sign, and check it against the source.")] = True,
    delete_source: Annotated[
        bool, typer.Option("--delete-source", help="After the verification, and if you type the key's name: delete it.")
    ] = False,
) -> None:
    """Import private keys from a Cosmos keyring, an armored export, an Ethereum keystore, a mnemonic or hex digits.

    Each is wrapped on this machine for the engine inside OpenBao alone. The command can be repeated: a key that is in
    the POP already is left as it is, and verified.

    \b
    Examples:
      popsigner migrate import ~/.celestia-app --all --dry-run
      popsigner migrate import ~/.celestia-app --key validator --delete-source
      popsigner migrate import keystore.json --name bridge --passphrase-stdin < passphrase
      popsigner migrate import - --format mnemonic --coin ethereum --name batcher
      popsigner migrate import - --format hex --name worker --exportable < worker.hex
    """
    wish = _Wish(
        source=source,
        form=form,
        name=name,
        names=tuple(key or ()),
        every=every,
        hd_path=hd_path,
        coin=coin,
        bip39_passphrase=bip39_passphrase,
        passphrase_stdin=passphrase_stdin,
    )
    with key_file_errors(as_json=session.as_json):
        wish = _checked(wish, session.as_json)
        if delete_source:
            _check_deletion(wish, verify=verify, dry_run=dry_run, as_json=session.as_json)
        from ..migration.importing import Importer

        importer = Importer(session.client, namespace=namespace, exportable=exportable, verify=verify)
        with _opened(wish, session.as_json) as opened:
            results = _results(wish, opened, namespace, session.as_json)
            _run(session, importer, opened, results, dry_run=dry_run, delete_source=delete_source)
    finish(results, as_json=session.as_json)


def _checked(wish: _Wish, as_json: bool) -> _Wish:
    """The wish with its format found out, where its options fit together. Raises typer.Exit, KeyFileError."""
    from dataclasses import replace

    from ..migration.sources import recognized

    def usage(sentence: str) -> None:
        fail(sentence, code=ExitCode.USAGE, as_json=as_json)

    if wish.form is ImportFormat.AUTO:
        if wish.source == _STDIN:
            usage("say what is read from stdin: --format hex, mnemonic, keystore or cosmos-armor")
        wish = replace(wish, form=recognized(Path(wish.source)))
    if wish.form is not ImportFormat.MNEMONIC and (wish.hd_path or wish.coin or wish.bip39_passphrase):
        usage("--hd-path, --coin and --bip39-passphrase are for mnemonics")
    if wish.form.keyring:
        if wish.source == _STDIN:
            usage("a keyring is a folder, and cannot come from stdin")
        if bool(wish.names) == wish.every:
            usage("say which entries of the keyring are meant: --key ENTRY, repeatable, or --all")
        if wish.name and len(wish.names) != 1:
            usage("--name is for one key")
    elif wish.names or wish.every:
        usage("--key and --all are for keyrings")
    elif not wish.name:
        usage("say what the key is to be called: --name")
    return wish


def _check_deletion(wish: _Wish, *, verify: bool, dry_run: bool, as_json: bool) -> None:
    """Whether a deletion can be asked for. Raises typer.Exit."""
    sentences = {
        "--delete-source needs the verification": not verify,
        "--delete-source and --dry-run exclude each other": dry_run,
        "what comes from stdin is not in a file that could be deleted": wish.source == _STDIN,
        "a mnemonic makes more keys than this one, so it is not deleted here": wish.form is ImportFormat.MNEMONIC,
        # A script could not know that a person has looked.
        "--delete-source asks for the key's name, and there is no terminal to ask at": not sys.stdin.isatty(),
    }
    for sentence, wrong in sentences.items():
        if wrong:
            fail(sentence, code=ExitCode.USAGE, as_json=as_json)


@contextmanager
def _opened(wish: _Wish, as_json: bool) -> "Iterator[Source]":
    """The source, with the passphrase that it needs; both are overwritten at the end. Raises typer.Exit."""
    from ..keyfiles import mnemonic, overwrite
    from ..migration.sources import FileSource, KeyringSource

    passphrase, content = _secrets(wish, as_json)
    key = bytes(passphrase)
    overwrite(passphrase)
    try:
        if wish.form.keyring:
            yield KeyringSource(Path(wish.source), wish.form, key)
        else:
            usual = mnemonic.ETHEREUM_PATH if wish.coin is Coin.ETHEREUM else mnemonic.COSMOS_PATH
            path = None if wish.source == _STDIN else Path(wish.source)
            yield FileSource(
                wish.source,
                wish.form,
                path=path,
                content=content,
                passphrase=key,
                hd_path=wish.hd_path or usual,
            )
    finally:
        overwrite(key, content)


def _secrets(wish: _Wish, as_json: bool) -> tuple[bytearray, bytearray]:
    """The passphrase, and what is read from stdin; empty where there is none. Raises typer.Exit."""
    asked = wish.form.encrypted or wish.bip39_passphrase
    passphrase, content = bytearray(), bytearray()
    if wish.passphrase_stdin:
        passphrase, content = first_line(piped(as_json=as_json))
    elif wish.source == _STDIN and not sys.stdin.isatty():
        content = piped(as_json=as_json)
    elif wish.source == _STDIN:
        if wish.form not in (ImportFormat.HEX, ImportFormat.MNEMONIC):
            fail(f"name the file, or pipe it in: {wish.form} is more than a line", code=ExitCode.USAGE, as_json=as_json)
        content = typed_hidden(
            "Mnemonic" if wish.form is ImportFormat.MNEMONIC else "Private key (hex)", as_json=as_json
        )
    if asked and not wish.passphrase_stdin:
        passphrase = typed_hidden("Passphrase", as_json=as_json, instead="--passphrase-stdin")
    return passphrase, content


def _results(wish: _Wish, source: "Source", namespace: str, as_json: bool) -> "list[Result]":
    """What is to be done, key by key. Raises typer.Exit, KeyFileError."""
    from ..migration.results import Result

    entries = list(wish.names) or source.names()
    if not entries:
        fail(f"the keyring in {wish.source} is empty", code=ExitCode.NOT_FOUND, as_json=as_json)
    return [Result(place=entry, key=f"{namespace}/{wish.name or entry}") for entry in entries]


def _run(
    session: Session,
    importer: "Importer",
    source: "Source",
    results: "list[Result]",
    *,
    dry_run: bool,
    delete_source: bool,
) -> None:
    from ..migration.results import OF_ALL_KEYS

    try:
        for number, result in enumerate(results):
            with result.attempt():
                if dry_run:
                    with source.read(result.place) as secret:
                        importer.plan(result, secret)
                else:
                    _bring_in(importer, source, result, delete_source=delete_source)
            tell(session, number, results)
    except OF_ALL_KEYS:
        # It is kept in its result; the others would only fail as this one did.
        return


def _bring_in(importer: "Importer", source: "Source", result: "Result", *, delete_source: bool) -> None:
    from ..keyfiles import DamagedFile, EntryMissing, NotThisFormat

    try:
        secret = source.read(result.place)
    except EntryMissing as error:
        if delete_source and importer.recalled(result):
            error.message += f"; {result.key} is in the POP, and was imported"
        raise
    except (DamagedFile, NotThisFormat):
        # What is left of an entry whose deletion was interrupted is zeros.
        if not delete_source or not importer.recalled(result) or not source.finish_deletion(result.place):
            raise
        result.source_deleted = True
        return
    with secret:
        importer.bring_in(result, secret)
    if delete_source:
        _confirm_deletion(result)
        source.delete(result.place, bytes.fromhex(result.public_key))
        result.source_deleted = True


def _confirm_deletion(result: "Result") -> None:
    """Have the key's name or one of its addresses typed. Raises SourceKept."""
    from ..migration.results import SourceKept
    from .output import text

    name = result.key.partition("/")[2]
    question = (
        f"{text(result.key)} signs in the POP as {result.address}, {result.eth_address}.\n"
        f"Type its name or an address of it to delete it from {text(result.place)}"
    )
    answer: str = typer.prompt(question, err=True, default="", show_default=False)
    if answer.strip() not in (name, result.address, result.eth_address):
        raise SourceKept(f"this is neither the name nor an address of {result.key}; the source was left alone")
