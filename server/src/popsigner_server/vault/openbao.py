"""The vault on OpenBao, over its unix socket or HTTP(S), as an AppRole of least privilege."""

import asyncio
import binascii
import json
import ssl
from base64 import b64decode, b64encode
from contextlib import suppress
from typing import Any

import aiohttp
from google.protobuf.message import DecodeError

from popsigner_server import errors
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.gen.popsigner.engine.v1 import packed_pb2
from popsigner_server.settings import Settings
from popsigner_server.vault import Refusal, Signed, Trip

# A trip takes milliseconds; whoever waits longer waits for a vault that is not coming back soon.
TRIP_TIMEOUT = aiohttp.ClientTimeout(total=10, connect=2)
# A creation also waits for raft's fsync, and a batch of 256 of them for one another.
CHANGE_TIMEOUT = aiohttp.ClientTimeout(total=20, connect=2)
# Creations and deletions under way at once.
CHANGES = 16
UNIX = "unix://"
# The nil UUID; no key has it.
NO_KEY = "0" * 32
COMPACT = SignatureFormat.COMPACT.value
_FORMATS = {
    SignatureFormat.COMPACT.value: packed_pb2.COMPACT,
    SignatureFormat.RECOVERABLE.value: packed_pb2.RECOVERABLE,
    SignatureFormat.DER.value: packed_pb2.DER,
}


class OpenBao:
    """A Vault. One login serves all calls; a refused token is renewed once and the call repeated, since every call of
    the engine gives the same result twice."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._role_id = settings.bao_role_id
        self._address = settings.bao_addr
        self._ca_file = settings.bao_ca_file
        self._mount = settings.bao_mount.strip("/")
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._login = asyncio.Lock()
        self._changes = asyncio.Semaphore(CHANGES)

    async def create(self, name: str, *, exportable: bool) -> bytes:
        async with self._changes:
            status, body = await self._call(
                "POST", f"keys/{name}", {"exportable": exportable, "deletion_allowed": False}
            )
            if status == 409:
                status, body = await self._call("GET", f"keys/{name}")
        if status != 200:
            raise errors.VaultUnavailable(_refused("create a key", status))
        return _public_key(body, "1")

    async def rotate(self, name: str, *, to_version: int) -> bytes:
        async with self._changes:
            status, body = await self._call("POST", f"keys/{name}/rotate", {"to_version": to_version})
        if status == 404 and "KEY_UNKNOWN: " in str(body):
            raise errors.KeyNotFound
        if status == 409 and "VERSIONS_EXHAUSTED: " in str(body):
            raise errors.KeyVersionsExhausted
        if status == 409 and "VERSION_SKIPPED: " in str(body):
            raise errors.VaultUnavailable(
                "OpenBao has fewer versions of this key than the database, as after a restore of an older backup; the"
                " POP's operator must restore both from the same one."
            )
        if status != 200:
            raise errors.VaultUnavailable(_refused("rotate a key", status))
        return _public_key(body, str(to_version))

    async def destroy(self, name: str) -> None:
        async with self._changes:
            status, _ = await self._call("POST", f"keys/{name}/config", {"deletion_allowed": True})
            if status in (200, 204):
                status, _ = await self._call("DELETE", f"keys/{name}")
        if status not in (200, 204, 404):
            raise errors.VaultUnavailable(_refused("destroy a key", status))

    async def sign(self, trip: Trip) -> Signed:
        request = packed_pb2.PackedSignRequest(
            keys=[packed_pb2.KeyVersion(name=name, version=version) for name, version in trip.keys],
            key_index=trip.key_index,
            digests=trip.digests,
            formats=[_FORMATS[code] for code in trip.formats] if any(code != COMPACT for code in trip.formats) else (),
        )
        body = b'{"packed":"' + b64encode(request.SerializeToString()) + b'"}'
        status, answer = await self._send("PATCH", "batch/sign", body, TRIP_TIMEOUT)
        if status != 200:
            raise errors.VaultUnavailable(_refused("sign", status))
        try:
            signed = packed_pb2.PackedSignResponse.FromString(b64decode(answer["data"]["packed"]))
            refusals = {i: Refusal(why) for i, why in enumerate(signed.refusals) if why}
        except (KeyError, TypeError, ValueError, binascii.Error, DecodeError) as error:
            raise errors.VaultUnavailable("OpenBao answered a batch with something else.") from error
        if len(signed.signatures) != len(trip.key_index):
            raise errors.VaultUnavailable("OpenBao answered a batch with another number of signatures.")
        return Signed(signatures=list(signed.signatures), refusals=refusals)

    async def is_ready(self) -> bool:
        # Asked for a key that cannot exist, the way signatures are asked for: login, policy, mount, plugin and storage
        # must all answer.
        try:
            await self.sign(Trip(keys=((NO_KEY, 0),), key_index=[0], digests=bytes(32), formats=[COMPACT]))
        except errors.VaultUnavailable:
            return False
        return True

    async def close(self) -> None:
        if self._session is not None:
            if self._token:
                with suppress(aiohttp.ClientError, TimeoutError, OSError):
                    await self._http().post(
                        self._url("auth/token/revoke-self"),
                        headers={"X-Vault-Token": self._token},
                        timeout=aiohttp.ClientTimeout(total=2),
                    )
            await self._session.close()
            self._session = None

    async def _call(self, method: str, path: str, data: dict[str, object] | None = None) -> tuple[int, Any]:
        return await self._send(method, path, json.dumps(data).encode() if data is not None else None, CHANGE_TIMEOUT)

    async def _send(
        self, method: str, path: str, body: bytes | None, timeout: aiohttp.ClientTimeout
    ) -> tuple[int, Any]:
        url = self._url(f"{self._mount}/{path}")
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        for attempt in range(2):
            token = self._token or await self._log_in("")
            headers = {"X-Vault-Token": token, "Content-Type": content_type}
            try:
                async with self._http().request(method, url, data=body, headers=headers, timeout=timeout) as response:
                    answer = await response.read()
                    status = response.status
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise errors.VaultUnavailable from error
            if status == 403 and attempt == 0:
                # The token has expired, or OpenBao was restored without it.
                await self._log_in(token)
                continue
            try:
                return status, json.loads(answer) if answer else {}
            except ValueError as error:
                raise errors.VaultUnavailable("OpenBao answered with something that is not JSON.") from error
        raise errors.VaultUnavailable(_refused("answer", 403))

    async def _log_in(self, refused: str) -> str:
        """A token other than `refused`; callers that were refused together log in once."""
        async with self._login:
            if self._token and self._token != refused:
                return self._token
            credentials = {
                "role_id": self._role_id,
                "secret_id": self._settings.secret(self._settings.bao_secret_id_file),
            }
            try:
                async with self._http().post(
                    self._url("auth/approle/login"), json=credentials, timeout=TRIP_TIMEOUT
                ) as response:
                    answer = await response.json()
                    if response.status != 200:
                        raise errors.VaultUnavailable(_refused("log this server in", response.status))
                    self._token = answer["auth"]["client_token"]
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
                raise errors.VaultUnavailable from error
            return self._token

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
            async with self._http().post(
                self._url("auth/token/renew-self"), headers={"X-Vault-Token": token}, timeout=TRIP_TIMEOUT
            ) as response:
                answer = await response.json()
                if response.status == 200:
                    lease = float(answer["auth"]["lease_duration"])
                    if lease > 120:
                        return lease / 2
            # The token is gone, or near the end of its longest life: a new one, ahead of need.
            await self._log_in(token)
        except (aiohttp.ClientError, errors.VaultUnavailable, TimeoutError, OSError, ValueError, KeyError, TypeError):
            return 15
        return 60

    def _url(self, path: str) -> str:
        base = "http://openbao" if self._address.startswith(UNIX) else self._address.rstrip("/")
        return f"{base}/v1/{path}"

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: aiohttp.BaseConnector
            if self._address.startswith(UNIX):
                connector = aiohttp.UnixConnector(self._address.removeprefix(UNIX), limit=0, keepalive_timeout=60)
            else:
                context = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True
                connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60, ssl=context)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


def _public_key(body: Any, version: str) -> bytes:
    """The public key of one version, in an answer that describes a key."""
    try:
        public_key = bytes.fromhex(body["data"]["versions"][version]["public_key"])
    except (KeyError, TypeError, ValueError) as error:
        raise errors.VaultUnavailable("OpenBao described a key without a public key.") from error
    if len(public_key) != 33:
        raise errors.VaultUnavailable("OpenBao described a key with a public key of another length.")
    return public_key


def _refused(what: str, status: int) -> str:
    if status in (429, 472, 473, 500, 501, 502, 503):
        return f"OpenBao cannot {what} now (status {status}: sealed, standby or failing); nothing was released; retry."
    return f"OpenBao refused to {what} (status {status}); the POP's operator must look at its policy and mount."
