"""What several commands read: durations, times, roles, and secrets, which are never arguments."""

import datetime
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .failures import ExitCode, fail

if TYPE_CHECKING:
    from ..gen.popsigner.v1 import Role

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST_SECRET = 64 * 1024


class RoleName(StrEnum):
    """Role of the contract, in lower case."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    OWNER = "owner"

    def value_of(self) -> "Role":
        from ..gen.popsigner.v1 import Role

        return Role[self.name]


def duration(given: str, option: str, *, as_json: bool) -> datetime.timedelta | None:
    """`90m`, `24h`, `30d`; None where nothing was given. Raises typer.Exit."""
    if not given:
        return None
    found = _DURATION.fullmatch(given)
    if found is None:
        fail(f"{option} is a number and s, m, h or d, as in 30d", code=ExitCode.USAGE, as_json=as_json)
    return datetime.timedelta(**{_UNITS[found[2]]: int(found[1])})


def expiry(given: str, option: str, *, as_json: bool) -> datetime.datetime | None:
    """The time after a duration from now on; None where nothing was given. Raises typer.Exit."""
    life = duration(given, option, as_json=as_json)
    try:
        return None if life is None else datetime.datetime.now(datetime.UTC) + life
    except OverflowError:
        fail(f"{option} {given} is longer than a calendar goes", code=ExitCode.USAGE, as_json=as_json)


def moment(given: str, option: str, *, as_json: bool) -> datetime.datetime | None:
    """A time in ISO 8601, in UTC without an offset; None where nothing was given. Raises typer.Exit."""
    if not given:
        return None
    try:
        found = datetime.datetime.fromisoformat(given)
    except ValueError:
        fail(f"{option} is a time like 2026-01-31 or 2026-01-31T12:00:00Z", code=ExitCode.USAGE, as_json=as_json)
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


def read_secret(file: Path | None, what: str, *, as_json: bool) -> str:
    """A secret from a file, or from stdin, where a terminal does not show it. Raises typer.Exit."""
    try:
        if file is not None:
            with file.open("rb") as opened:
                content = opened.read(_LONGEST_SECRET)
        elif sys.stdin.isatty():
            import getpass

            content = getpass.getpass(f"{what}: ").encode()
        else:
            content = sys.stdin.buffer.read(_LONGEST_SECRET)
    except OSError as error:
        fail(f"{file or 'stdin'} cannot be read: {error.strerror}", code=ExitCode.USAGE, as_json=as_json)
    try:
        secret = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        secret = ""
    if not secret or not secret.isprintable():
        fail(f"{file or 'stdin'} does not hold the {what}", code=ExitCode.USAGE, as_json=as_json)
    return secret


@contextmanager
def new_file(path: Path, *, as_json: bool) -> Iterator[IO[bytes]]:
    """A file that was not there, for its owner's eyes from the first moment on; removed again if the block fails.
    Raises typer.Exit."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        fail(f"{path} exists; name a new file", code=ExitCode.USAGE, as_json=as_json)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}", code=ExitCode.USAGE, as_json=as_json)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except OSError as error:
        path.unlink(missing_ok=True)
        fail(f"{path} cannot be written: {error.strerror}", code=ExitCode.REFUSED, as_json=as_json)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
