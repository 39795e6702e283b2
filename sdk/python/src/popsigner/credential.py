"""A person's session as a client uses it: the access token of now, and the next one when it is over."""

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock

from .endpoint import Connection, parse_endpoint
from .errors import ConfigurationError
from .oauth import OAuth, Tokens
from .store import SessionFile, StoredSession, default_path

# An access token that is about to end would end on its way.
_EARLY = 30.0


def session_of(tokens: Tokens, *, endpoint: str, now: float, organization: str = "") -> StoredSession:
    """Tokens as they are stored, given at the time `now` (Unix seconds)."""
    early = min(_EARLY, tokens.expires_in / 10)
    return StoredSession(
        endpoint=endpoint,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        renew_at=now + tokens.expires_in - early,
        organization=organization,
    )


class Credential:
    """The session that `popsigner login` stored, by default in $XDG_CONFIG_HOME/popsigner/session.json.

        with Client(credential=Credential()) as client: ...

    It is for the POP that it came from. Several programs may use it at once. Raises ConfigurationError where nobody is
    logged in, and for a file that others can read.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.file = SessionFile(default_path(os.environ) if path is None else Path(path))
        stored = self.file.read()
        self.endpoint = parse_endpoint(stored.endpoint)
        self.organization = stored.organization

    def __repr__(self) -> str:
        return f"Credential({str(self.file.path)!r})"


class AccessTokens:
    """Access tokens of one session, for one client. Threads share it."""

    def __init__(
        self, credential: Credential, connection: Connection, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._file = credential.file
        self._endpoint = credential.endpoint
        self._oauth = OAuth(connection)
        self._clock = clock
        self._session = self._file.read()
        self._refused = ""
        self._lock = Lock()
        # A trade that has begun is finished, whatever becomes of the call that needed it, and also when Ctrl-C ends the
        # program: its answer is the only way on for the session. So it has a thread, which the interpreter waits for.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="popsigner-session")
        self._underway: Future[str] | None = None

    def current(self) -> str | None:
        """The access token; None when it is over or was refused."""
        session = self._session
        return None if self._worn(session) else session.access_token

    def refuse(self, token: str) -> None:
        """The POP says that this access token is over, whatever our clock says."""
        with self._lock:
            if self._session.access_token == token:
                self._refused = token

    def next(self) -> "Future[str]":
        """The access token after the current one; one trade at a time, shared by all who wait."""
        with self._lock:
            if self._underway is None or self._underway.done():
                self._underway = self._worker.submit(self._renewed)
            return self._underway

    def close(self) -> None:
        """Begin nothing any more; what has begun is finished."""
        self._worker.shutdown(wait=False)

    def _worn(self, session: StoredSession) -> bool:
        return session.access_token == self._refused or self._clock() >= session.renew_at

    def _renewed(self) -> str:
        with self._file.locked():
            # Another program may have been here first: a second trade of its refresh token would end the session.
            session = self._file.read()
            if parse_endpoint(session.endpoint).target != self._endpoint.target:
                raise ConfigurationError("somebody has logged in to another POP meanwhile; make a new client")
            if self._worn(session):
                tokens = self._oauth.renew(session.refresh_token)
                new = session_of(tokens, endpoint=session.endpoint, now=self._clock())
                session = replace(new, organization=session.organization)
                self._file.write(session)
        with self._lock:
            self._session = session
        return session.access_token
