"""How a command ends when it cannot do what was asked: one sentence on stderr, and an exit code for scripts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from ..errors import PopsignerError


class ExitCode(IntEnum):
    """What the exit codes mean; docs/cli.md shows the same table."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    NOT_ALLOWED = 3
    NOT_FOUND = 4
    CONFLICT = 5
    LIMIT = 6
    UNAVAILABLE = 7
    INVALID_SIGNATURE = 8
    INCOMPLETE = 9


_ADVICE = {
    "CREDENTIALS_INVALID": "check POPSIGNER_API_KEY_FILE or POPSIGNER_API_KEY",
    "SESSION_ENDED": "`popsigner login` begins another one",
    "PERSON_REQUIRED": "`popsigner login`, and unset POPSIGNER_API_KEY and POPSIGNER_API_KEY_FILE",
    "ORGANIZATION_REQUIRED": "`popsigner whoami` shows yours; name one with --organization or `popsigner org use`",
    "MEMBERSHIP_MISSING": "`popsigner whoami` shows yours; name one with --organization or `popsigner org use`",
    "LAST_OWNER": "`popsigner members set-role` makes another owner",
    "ORGANIZATION_DELETED": "`popsigner org restore` takes the deletion back",
    "KEY_NOT_FOUND": "`popsigner keys list` shows the keys",
    "KEY_DISABLED": "`popsigner keys enable` lets it sign again",
    "KEY_VERSION_CHANGED": "`popsigner keys versions` shows them",
    "KEY_VERSION_UNAVAILABLE": "`popsigner keys versions` shows which of them sign",
    "NAMESPACE_NOT_FOUND": "`popsigner namespaces list` shows the namespaces",
    "API_KEY_NOT_FOUND": "`popsigner api-keys list` shows the API keys",
    "USER_NOT_FOUND": "`popsigner members list` shows the members",
    "INVITATION_EXISTS": "`popsigner invitations revoke` takes the first one back",
    "SESSION_NOT_FOUND": "`popsigner sessions list` shows your sessions",
    "RECOVERY_MISSING": "`popsigner recovery show` shows what is registered and what waits",
    "RECOVERY_CHANGE_WAITING": "`popsigner recovery cancel` cancels it",
    "IDENTITY_PROVIDER_NOT_FOUND": "`popsigner org providers` shows them",
}


def printable(words: str) -> str:
    """Without what a terminal takes for an order, and on one line: names are other people's words."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in words)


def exit_code(error: "PopsignerError") -> ExitCode:
    """The exit code of an error, by its family."""
    from .. import errors

    families: tuple[tuple[type[PopsignerError] | tuple[type[PopsignerError], ...], ExitCode], ...] = (
        (errors.ConfigurationError, ExitCode.USAGE),
        ((errors.NotAuthenticated, errors.NotPermitted), ExitCode.NOT_ALLOWED),
        (errors.NotFound, ExitCode.NOT_FOUND),
        ((errors.AlreadyExists, errors.PreconditionFailed), ExitCode.CONFLICT),
        (errors.ResourceExhausted, ExitCode.LIMIT),
        ((errors.Unavailable, errors.DeadlineExceeded), ExitCode.UNAVAILABLE),
    )
    return next((code for family, code in families if isinstance(error, family)), ExitCode.REFUSED)


def fail(
    message: str, *, code: ExitCode, as_json: bool, reason: str = "", retry_after: float | None = None
) -> NoReturn:
    """Say what is wrong and end. Raises typer.Exit."""
    if as_json:
        error = {"reason": reason, "message": message, "retry_after": retry_after}
        typer.echo(json.dumps({"error": error}, ensure_ascii=False), err=True)
    else:
        message = printable(message)
        wait = f"; try again in {retry_after:g} s" if retry_after else ""
        typer.echo(f"popsigner: {message}{wait}{f' [{reason}]' if reason else ''}", err=True)
    raise typer.Exit(code)


@contextmanager
def explained(*, as_json: bool) -> Iterator[None]:
    """Turn a PopsignerError inside the block into its sentence and exit code."""
    from ..errors import PopsignerError

    try:
        yield
    except PopsignerError as error:
        # The POP's sentence often is its one violation; what it says is said once.
        told = [f"{each.subject}: {each.description}" for each in error.violations]
        details = "".join(f"; {each}" for each in told if each not in str(error))
        advice = f"; {_ADVICE[error.reason]}" if error.reason in _ADVICE else ""
        fail(
            f"{error.message.rstrip('.')}{details}{advice}",
            code=exit_code(error),
            as_json=as_json,
            reason=error.reason,
            retry_after=error.retry_after,
        )
