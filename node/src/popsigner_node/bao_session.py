"""OpenBao's API as one AppRole, over its unix socket: log in, ask, revoke the token."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from popsigner_node.errors import NodeError
from popsigner_node.unix_http import UnixConnection

_CHUNK = 2**20
PATIENCE = 60.0
"""Seconds for each step of a request: long, because a snapshot's first byte comes when raft has written all of it."""


class LoginRefused(NodeError):
    """OpenBao answers and does not know the role, or not with this secret id."""


class Session:
    """A login. Every method blocks, and raises OSError or http.client.HTTPException when OpenBao is away."""

    def __init__(self, connection: UnixConnection, token: str) -> None:
        self._connection = connection
        self._headers = {"X-Vault-Token": token}

    @classmethod
    @contextmanager
    def opened(cls, socket: Path, *, role: str, secret_id: str, timeout: float = PATIENCE) -> Iterator["Session"]:
        """Log in as `role`; the token is revoked at the end. Raises LoginRefused, OSError, HTTPException."""
        with contextlib.closing(UnixConnection(socket, timeout=timeout)) as connection:
            anonymous = cls(connection, "")
            status, answer = anonymous.call("POST", "auth/approle/login", {"role_id": role, "secret_id": secret_id})
            if status != HTTPStatus.OK:
                raise LoginRefused(f"OpenBao does not let {role} log in (status {status}).")
            session = cls(connection, answer["auth"]["client_token"])
            try:
                yield session
            finally:
                # A transfer that was broken off leaves the connection in the middle of an answer.
                connection.close()
                # The token ends by itself; a vault that went away must not hide why.
                with contextlib.suppress(Exception):
                    session.call("POST", "auth/token/revoke-self")

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The status and the decoded answer; an answer without a body, or of another kind, is an empty object."""
        text = None if body is None else json.dumps(body)
        self._connection.request(method, f"/v1/{path}", body=text, headers=self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        try:
            return answer.status, json.loads(content) if content else {}
        except ValueError:
            return answer.status, {}

    def download(self, path: str, into: IO[bytes]) -> int:
        """Write an answer's bytes to `into`; returns the status. Whether they are whole is for the caller to know."""
        self._connection.request("GET", f"/v1/{path}", headers=self._headers)
        answer = self._connection.getresponse()
        if answer.status == HTTPStatus.OK:
            shutil.copyfileobj(answer, into, _CHUNK)
        else:
            answer.read()
        return answer.status

    def upload(self, path: str, source: IO[bytes]) -> int:
        """Send a file as it is; returns the status."""
        self._connection.request("POST", f"/v1/{path}", body=source, headers=self._headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status
