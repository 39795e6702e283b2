"""The vault on OpenBao's secp256k1 engine."""

import asyncio
import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from popsigner_server import errors
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.gen.popsigner.engine.v1 import packed_pb2
from popsigner_server.settings import Settings
from popsigner_server.vault import Placed, Refusal, Sealed, SealedVersion, Signed, Trip, WrappingKey
from popsigner_server.vault.connection import TRIP_TIMEOUT, Connection, refused

# Creations and deletions under way at once.
CHANGES = 16
# The nil UUID; no key has it.
NO_KEY = "0" * 32
COMPACT = SignatureFormat.COMPACT.value
_FORMATS = {
    SignatureFormat.COMPACT.value: packed_pb2.COMPACT,
    SignatureFormat.RECOVERABLE.value: packed_pb2.RECOVERABLE,
    SignatureFormat.DER.value: packed_pb2.DER,
}
# The engine's codes for a wrapped private key that it does not take, and what they mean for the caller.
_NOT_IMPORTED: dict[str, type[errors.SignerError]] = {
    "WRAPPED_KEY_INVALID": errors.WrappedKeyInvalid,
    "WRAPPING_KEY_UNKNOWN": errors.WrappingKeyUnknown,
    "KEY_PRESENT": errors.KeyPresent,
}
_NO_PRIVATE_KEY = {
    "SCALAR_LENGTH": "What was wrapped is not 32 bytes.",
    "SCALAR_ZERO": "What was wrapped is zero.",
    "SCALAR_TOO_LARGE": "What was wrapped is not below the order of secp256k1.",
}

_CODE = re.compile(r"\b([A-Z][A-Z_]+): ")


class OpenBao:
    """A Vault."""

    def __init__(self, settings: Settings) -> None:
        self._connection = Connection(settings)
        self._changes = asyncio.Semaphore(CHANGES)

    async def create(self, name: str, *, exportable: bool, recovery_recipient: str = "") -> bytes:
        async with self._changes:
            status, body = await self._connection.call("POST", f"keys/{name}", _options(exportable, recovery_recipient))
            if status == 409:
                status, body = await self._connection.call("GET", f"keys/{name}")
        if status != 200:
            raise errors.VaultUnavailable(refused("create a key", status))
        return _public_key(body, "1")

    async def wrapping_key(self) -> WrappingKey:
        status, body = await self._connection.call("GET", "wrapping_key")
        if status != 200:
            raise errors.VaultUnavailable(refused("show its wrapping key", status))
        try:
            data = body["data"]
            return WrappingKey(
                id=data["id"],
                public_key=data["public_key"],
                wrapping=data["wrapping"],
                created_at_ms=int(data["created_at_ms"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise errors.VaultUnavailable("OpenBao described its wrapping key with something else.") from error

    async def bring_in(
        self, name: str, *, ciphertext: bytes, wrapping_key: str, exportable: bool, recovery_recipient: str = ""
    ) -> Placed:
        wrapped = {"ciphertext": b64encode(ciphertext).decode(), "wrapping_key": wrapping_key}
        async with self._changes:
            status, body = await self._connection.call(
                "POST", f"keys/{name}/import", {**wrapped, **_options(exportable, recovery_recipient)}
            )
            if status == 200 and _placed(body).exportable and not exportable:
                # The wish of an attempt before this one.
                status, body = await self._connection.call("POST", f"keys/{name}/config", {"exportable": False})
        if status == 200:
            return _placed(body)
        code = _code(body)
        if code in _NO_PRIVATE_KEY:
            raise errors.PrivateKeyInvalid(_NO_PRIVATE_KEY[code])
        if code == "NAME_TAKEN":
            raise errors.KeyNameTaken(name)
        raise _NOT_IMPORTED[code] if code in _NOT_IMPORTED else errors.VaultUnavailable(refused("import a key", status))

    async def export(self, name: str, *, recipient: str, versions: Sequence[int]) -> Sealed:
        async with self._changes:
            status, body = await self._connection.call(
                "POST", f"export/{name}", {"recipient": recipient, "versions": list(versions)}
            )
        if status == 200:
            return _sealed(body)
        match _code(body):
            case "KEY_UNKNOWN":
                raise errors.KeyNotFound
            case "NOT_EXPORTABLE":
                raise errors.KeyNotExportable
            case "VERSION_UNAVAILABLE":
                raise errors.KeyVersionUnavailable
            case "RECIPIENT_INVALID":
                raise errors.InvalidField(
                    "recipient", "must be an RSA public key of 3072 to 8192 bits (PEM), or an age X25519 recipient."
                )
        raise errors.VaultUnavailable(refused("export a key", status))

    async def recovery(self, name: str) -> Sealed | None:
        status, body = await self._connection.call("GET", f"recovery/{name}")
        if status == 200:
            return _sealed(body)
        if _code(body) == "RECOVERY_COPY_UNKNOWN":
            return None
        if _code(body) == "KEY_UNKNOWN":
            raise errors.KeyNotFound
        raise errors.VaultUnavailable(refused("show recovery copies", status))

    async def seal(self, name: str, *, recipient: str) -> None:
        async with self._changes:
            if recipient:
                status, body = await self._connection.call("POST", f"recovery/{name}", {"recipient": recipient})
            else:
                status, body = await self._connection.call("DELETE", f"recovery/{name}")
        code = _code(body)
        if code == "KEY_UNKNOWN":
            raise errors.KeyNotFound
        if code == "RECIPIENT_INVALID":
            raise errors.InvalidField("recipient", "must be an age X25519 recipient (age1…).")
        if status not in (200, 204) and code != "RECOVERY_COPY_UNKNOWN":
            raise errors.VaultUnavailable(refused("change recovery copies", status))

    async def rotate(self, name: str, *, to_version: int) -> bytes:
        async with self._changes:
            status, body = await self._connection.call("POST", f"keys/{name}/rotate", {"to_version": to_version})
        code = _code(body)
        if code == "KEY_UNKNOWN":
            raise errors.KeyNotFound
        if code == "VERSIONS_EXHAUSTED":
            raise errors.KeyVersionsExhausted
        if code == "VERSION_SKIPPED":
            raise errors.VaultUnavailable(
                "OpenBao has fewer versions of this key than the database, as after a restore of an older backup; the"
                " POP's operator must restore both from the same one."
            )
        if status != 200:
            raise errors.VaultUnavailable(refused("rotate a key", status))
        return _public_key(body, str(to_version))

    async def destroy(self, name: str) -> None:
        async with self._changes:
            status, _ = await self._connection.call("POST", f"keys/{name}/config", {"deletion_allowed": True})
            if status in (200, 204):
                status, _ = await self._connection.call("DELETE", f"keys/{name}")
        if status not in (200, 204, 404):
            raise errors.VaultUnavailable(refused("destroy a key", status))

    async def sign(self, trip: Trip) -> Signed:
        request = packed_pb2.PackedSignRequest(
            keys=[packed_pb2.KeyVersion(name=name, version=version) for name, version in trip.keys],
            key_index=trip.key_index,
            digests=trip.digests,
            formats=[_FORMATS[code] for code in trip.formats] if any(code != COMPACT for code in trip.formats) else (),
        )
        body = b'{"packed":"' + b64encode(request.SerializeToString()) + b'"}'
        status, answer = await self._connection.send("PATCH", "batch/sign", body, TRIP_TIMEOUT)
        if status != 200:
            raise errors.VaultUnavailable(refused("sign", status))
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

    async def keep_token(self) -> None:
        """As Connection.keep_token."""
        await self._connection.keep_token()

    async def close(self) -> None:
        await self._connection.close()


def _options(exportable: bool, recovery_recipient: str) -> dict[str, object]:
    options: dict[str, object] = {"exportable": exportable, "deletion_allowed": False}
    return options | {"recovery_recipient": recovery_recipient} if recovery_recipient else options


def _code(body: Any) -> str:
    """The engine's code in a refusal: `CODE: sentence`, between what OpenBao writes around it. Empty where there is
    none."""
    found = _CODE.search(str(body.get("errors", ""))) if isinstance(body, dict) else None
    return found[1] if found else ""


def _sealed(body: Any) -> Sealed:
    try:
        data = body["data"]
        versions = [
            SealedVersion(
                version=int(number),
                public_key=bytes.fromhex(each["public_key"]),
                ciphertext=b64decode(each["ciphertext"], validate=True),
            )
            for number, each in data["versions"].items()
        ]
        wrapping, recipient = str(data["wrapping"]), str(data.get("recipient", ""))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.VaultUnavailable("OpenBao handed out a key in another form.") from error
    versions.sort(key=lambda each: each.version)
    return Sealed(wrapping=wrapping, recipient=recipient, versions=tuple(versions))


def _placed(body: Any) -> Placed:
    public_key = _public_key(body, "1")
    # Past `_public_key` there is a description.
    data = body["data"]
    exportable, recipient = data.get("exportable"), data.get("recovery_recipient")
    if not isinstance(exportable, bool) or not isinstance(recipient, str):
        raise errors.VaultUnavailable("OpenBao described a key without its options.")
    return Placed(public_key=public_key, exportable=exportable, recovery_recipient=recipient)


def _public_key(body: Any, version: str) -> bytes:
    """The public key of one version, in an answer that describes a key."""
    try:
        public_key = bytes.fromhex(body["data"]["versions"][version]["public_key"])
    except (KeyError, TypeError, ValueError) as error:
        raise errors.VaultUnavailable("OpenBao described a key without a public key.") from error
    if len(public_key) != 33:
        raise errors.VaultUnavailable("OpenBao described a key with a public key of another length.")
    return public_key
