"""What the commands that read and write key files have in common: how they fail, and what they print at the end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from .failures import ExitCode, exit_code, fail
from .session import Session

if TYPE_CHECKING:
    from ..errors import PopsignerError
    from ..migration.results import Result

PassphraseStdin = Annotated[
    bool, typer.Option("--passphrase-stdin", help="Read the passphrase from the first line of stdin.")
]
_COLUMNS = ("key", "version", "outcome", "verified", "address", "eth_address", "place")


@contextmanager
def key_file_errors(*, as_json: bool) -> Iterator[None]:
    """Turn a KeyFileError of the block, or the lack of what the formats need, into a sentence and an exit code."""
    try:
        from ..keyfiles import KeyFileError
    except ImportError as missing:
        fail(str(missing), code=ExitCode.USAGE, as_json=as_json)
    try:
        yield
    except KeyFileError as error:
        fail(error.message, code=code_of(error), as_json=as_json)


def code_of(error: "PopsignerError") -> ExitCode:
    """The exit code of an error, those of key files and of the verification included."""
    from ..keyfiles import EntryExists, EntryMissing
    from ..migration.results import VerificationFailed

    match error:
        case EntryMissing():
            return ExitCode.NOT_FOUND
        case EntryExists():
            return ExitCode.CONFLICT
        case VerificationFailed():
            return ExitCode.INVALID_SIGNATURE
        case _:
            return exit_code(error)


def tell(session: Session, number: int, results: "Sequence[Result]") -> None:
    """One line on stderr for a key that is done, where there are several and nobody parses stderr."""
    if session.as_json or len(results) < 2:
        return
    from .output import text

    result = results[number]
    told = f"{result.key}: {result.outcome}{', verified' if result.verified else ''}"
    failure = f"; {result.error.message}" if result.error else ""
    typer.echo(f"[{number + 1}/{len(results)}] {text(told + failure)}", err=True)


def finish(results: "Sequence[Result]", *, as_json: bool) -> None:
    """Print all results, and end with what they amount to. Raises typer.Exit where not everything went well."""
    from ..migration.results import Outcome
    from .output import print_json, print_table

    if as_json:
        print_json({"keys": [_document(result) for result in results]})
    else:
        rows = [_document(result) | {"outcome": str(result.outcome)} for result in results]
        print_table(_COLUMNS, ([row[column] for column in _COLUMNS] for row in rows))
    failed = [(result.key, result.error) for result in results if result.error]
    if not failed:
        return
    (key, error), *_ = failed
    told = f"{key}: {error.message}"
    unfinished = sum(bool(result.error) or result.outcome is Outcome.NOT_TRIED for result in results)
    if len(results) > 1:
        told = f"{unfinished} of {len(results)} keys are not done; repeat the command when it is put right. {told}"
    codes = {code_of(error) for _key, error in failed}
    code = codes.pop() if unfinished == len(results) and len(codes) == 1 else ExitCode.INCOMPLETE
    fail(told, code=code, as_json=as_json, reason=error.reason, retry_after=error.retry_after)


def _document(result: "Result") -> dict[str, object]:
    error = result.error and {"reason": result.error.reason, "message": result.error.message}
    return {
        "place": result.place,
        "key": result.key,
        "version": result.version or None,
        "outcome": result.outcome.name,
        "public_key": result.public_key,
        "address": result.address,
        "eth_address": result.eth_address,
        "verified": result.verified,
        "source_deleted": result.source_deleted,
        "error": error,
    }
