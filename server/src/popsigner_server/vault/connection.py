"""The way to OpenBao: logged in as an AppRole of least privilege."""

import asyncio
import json
from contextlib import suppress
from typing import Any

from popsigner_server import errors
from popsigner_server.settings import Settings
from popsigner_server.vault.http import HttpClient

# Seconds. A trip takes milliseconds; whoever waits longer waits for a vault that is not coming back soon.
TRIP_TIMEOUT = 10.0
# A creation also waits for raft's fsync, and a batch of 256 of them for one another.
CHANGE_TIMEOUT = 20.0
# The last word to the vault.
FAREWELL = 2.0
JSON = "application/json"


class Connection:
    """One login serves all calls; a refused token is renewed once and the call repeated, since every call of the engine
    gives the same result twice."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._mount = settings.bao_mount.strip("/")
        self._http = HttpClient(settings.bao_addr, settings.bao_ca_file)
        self._token = ""
        self._login = asyncio.Lock()

    async def call(self, method: str, path: str, data: dict[str, object] | None = None) -> tuple[int, Any]:
        """A change or a look at the engine, below its mount: status and answer. Raises VaultUnavailable."""
        return await self.send(method, path, json.dumps(data).encode() if data is not None else None, CHANGE_TIMEOUT)

    async def send(self, method: str, path: str, body: bytes | None, timeout: float) -> tuple[int, Any]:
        """As `call`, with a body that is JSON already."""
        url = f"/v1/{self._mount}/{path}"
        content_type = "application/merge-patch+json" if method == "PATCH" else JSON
        for attempt in range(2):
            token = self._token or await self._log_in("")
            try:
                status, answer = await self._http.request(
                    method, url, token=token, body=body or b"", content_type=content_type, timeout=timeout
                )
            except (TimeoutError, OSError) as error:
                raise errors.VaultUnavailable from error
            if status == 403 and attempt == 0:
                # The token has expired, or OpenBao was restored without it.
                await self._log_in(token)
                continue
            try:
                return status, json.loads(answer) if answer else {}
            except ValueError as error:
                raise errors.VaultUnavailable("OpenBao answered with something that is not JSON.") from error
        raise errors.VaultUnavailable(refused("answer", 403))

    async def _log_in(self, stale: str) -> str:
        """A token other than `stale`; callers that were refused together log in once."""
        async with self._login:
            if self._token and self._token != stale:
                return self._token
            credentials = {
                "role_id": self._settings.bao_role_id,
                "secret_id": self._settings.secret(self._settings.bao_secret_id_file),
            }
            try:
                status, answer = await self._auth("approle/login", json.dumps(credentials).encode(), "", TRIP_TIMEOUT)
                if status != 200:
                    raise errors.VaultUnavailable(refused("log this server in", status))
                self._token = json.loads(answer)["auth"]["client_token"]
            except (TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
                raise errors.VaultUnavailable from error
            return self._token

    async def _auth(self, path: str, body: bytes, token: str, timeout: float) -> tuple[int, bytes]:
        return await self._http.request(
            "POST", f"/v1/auth/{path}", token=token, body=body, content_type=JSON, timeout=timeout
        )

    async def keep_token(self) -> None:
        """Renew the token before it ends, for as long as the task runs; a token past renewal is replaced."""
        pause = 30.0
        while True:
            await asyncio.sleep(pause)
            pause = await self._renew()

    async def _renew(self) -> float:
        """Seconds until the next renewal."""
        token = self._token
        if not token:
            return 30
        try:
            status, answer = await self._auth("token/renew-self", b"", token, TRIP_TIMEOUT)
            if status == 200:
                lease = float(json.loads(answer)["auth"]["lease_duration"])
                if lease > 120:
                    return lease / 2
            # The token is gone, or near the end of its longest life: a new one, ahead of need.
            await self._log_in(token)
        except (errors.VaultUnavailable, TimeoutError, OSError, ValueError, KeyError, TypeError):
            return 15
        return 60

    async def close(self) -> None:
        """Give the token and the connections back."""
        if self._token:
            with suppress(TimeoutError, OSError):
                await self._auth("token/revoke-self", b"", self._token, FAREWELL)
        self._http.close()


def refused(what: str, status: int) -> str:
    """A sentence for an answer that is none."""
    if status in (429, 472, 473, 500, 501, 502, 503):
        return f"OpenBao cannot {what} now (status {status}: sealed, standby or failing); nothing was released; retry."
    return f"OpenBao refused to {what} (status {status}); the POP's operator must look at its policy and mount."
