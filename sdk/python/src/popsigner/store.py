"""Where a person's session rests between two programs: one file that only its owner can read.

A refresh token is good for one trade, and a second one with the same token ends the session. So who trades holds the
lock beside the file, reads the file again when it has the lock, and writes the new tokens before it lets go.
"""

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigurationError, Unavailable

_LOGIN = "log in with `popsigner login`"
# Longer than one trade may take (popsigner.oauth), with room for a second one before ours.
_PATIENCE = 30.0
_PAUSE = 0.02
_LARGEST = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """`endpoint` is the POP that gave the tokens, and the only one that may see them. `renew_at` (Unix seconds) is when
    the access token is traded in, a little before it is over. `organization` is the one that `popsigner org use`
    chose."""

    endpoint: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    renew_at: float
    organization: str = ""


def default_path(environment: Mapping[str, str]) -> Path:
    """$XDG_CONFIG_HOME/popsigner/session.json; the XDG Base Directory Specification names ~/.config where it is unset,
    and has relative paths ignored."""
    home = environment.get("XDG_CONFIG_HOME", "")
    folder = Path(home) if home.startswith("/") else Path.home() / ".config"
    return folder / "popsigner" / "session.json"


class SessionFile:
    """The file of one session. Every method raises ConfigurationError for a file or folder that others could have
    touched, or that cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether somebody is logged in here."""
        return os.path.lexists(self.path)

    def read(self) -> StoredSession:
        """What is stored now."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise ConfigurationError(f"nobody is logged in here; {_LOGIN}") from None
        except OSError as error:
            raise self._unusable(error) from None
        with os.fdopen(descriptor, "rb") as file:
            self._check_private(os.fstat(descriptor))
            content = file.read(_LARGEST)
        return self._parsed(content)

    def write(self, session: StoredSession) -> None:
        """Store it. Only for who holds the lock."""
        beside = self.path.with_name(self.path.name + ".new")
        try:
            # A crash may have left one behind; whoever holds the lock owns it.
            beside.unlink(missing_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(session), file)
                file.flush()
                # The tokens before are worth nothing any more: these must outlive a loss of power.
                os.fsync(descriptor)
            beside.replace(self.path)
            self._settle()
        except OSError as error:
            raise self._unusable(error) from None

    def remove(self) -> None:
        """Forget it. Only for who holds the lock."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    def prepare(self) -> None:
        """Make the folder, for its owner alone."""
        folder = self.path.parent
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.stat()
            if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & 0o077:
                folder.chmod(0o700)
        except OSError as error:
            raise self._unusable(error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other program, and every other thread of this one, from trading tokens meanwhile."""
        self._check_folder()
        try:
            # flock belongs to the open file, not to the process: two threads that open it exclude each other as well.
            descriptor = os.open(
                self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise self._unusable(error) from None
        try:
            self._wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _wait_for(self, descriptor: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"another program has been renewing the session in {self.path} for {_PATIENCE:g} s; end it"
                    ) from None
                time.sleep(_PAUSE)
            except OSError as error:
                raise self._unusable(error) from None
            else:
                return

    def _check_folder(self) -> None:
        folder = self.path.parent
        try:
            found = folder.stat()
        except FileNotFoundError:
            raise ConfigurationError(f"nobody is logged in here; {_LOGIN}") from None
        except OSError as error:
            raise self._unusable(error) from None
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise ConfigurationError(
                f"others can write to the folder {folder}; make it yours alone: chmod 700 {folder}"
            )

    def _check_private(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise ConfigurationError(f"the session file {self.path} is not yours; remove it, and {_LOGIN}")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigurationError(
                f"others can read the session file {self.path}, so its session may be theirs as well; remove it, "
                f"{_LOGIN}, and end the old session with `popsigner sessions revoke`"
            )

    def _parsed(self, content: bytes) -> StoredSession:
        try:
            found: Any = json.loads(content)
            session = StoredSession(**found)
        except (ValueError, TypeError):
            session = None
        if (
            session is None
            or not all(isinstance(getattr(session, name), str) for name in _TEXTS)
            or not isinstance(session.renew_at, int | float)
        ):
            # What it holds may be half a token: it is not repeated.
            raise ConfigurationError(f"the session file {self.path} does not hold a session; remove it, and {_LOGIN}")
        return session

    def _settle(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _unusable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"the session file {self.path} cannot be used: {error.strerror}")


_TEXTS = ("endpoint", "access_token", "refresh_token", "organization")
