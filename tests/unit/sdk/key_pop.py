"""A POP with keys in memory, behind the scripted server: it takes imports, gives exports, signs and verifies, and can
be told to cheat. Its cryptography is written here anew, with other libraries where there are some, so that it checks
the SDK's."""

import functools
import hashlib
import os
from dataclasses import dataclass, field
from typing import Any

import coincurve
import grpc
from coincurve import ecdsa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from google.protobuf.message import Message

from popsigner_server.gen.popsigner.v1 import key_pb2, namespace_pb2, sign_pb2
from tests.support.cosmos import account, bech32

from .scripted_pop import Context, ScriptedPop, refuse

OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
WRAPPING = "RSA-OAEP-SHA256+AES-KWP"


@functools.cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    """One of the POP's wrapping keys; making them takes long, so they are made once."""
    return rsa.generate_private_key(65537, 3072)


def wrapping_key(number: int = 0) -> key_pb2.GetWrappingKeyResponse:
    public = rsa_key(number).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return key_pb2.GetWrappingKeyResponse(id=hashlib.sha256(der).hexdigest(), public_key=pem, wrapping=WRAPPING)


def unwrapped(ciphertext: bytes, number: int = 0) -> bytes:
    key = rsa_key(number).decrypt(ciphertext[:384], OAEP)
    return aes_key_unwrap_with_padding(key, ciphertext[384:])


def sealed(secret: bytes, recipient: str) -> bytes:
    public = load_pem_public_key(recipient.encode())
    assert isinstance(public, rsa.RSAPublicKey)
    key = os.urandom(32)
    return public.encrypt(key, OAEP) + aes_key_wrap_with_padding(key, secret)


def public_hex(secret: bytes) -> str:
    return coincurve.PrivateKey(secret).public_key.format().hex()


def addresses(secret: bytes, prefix: str = "celestia") -> tuple[str, str]:
    from eth_account import Account

    public_key = coincurve.PrivateKey(secret).public_key.format()
    return bech32(prefix, account(public_key)), str(Account.from_key(secret).address)


@dataclass(slots=True)
class KeyPop:
    """`secrets` by `namespace/name`, oldest version first. `refusals` are reasons by method, each used once."""

    pop: ScriptedPop
    secrets: dict[str, list[bytes]] = field(default_factory=dict)
    exportable: set[str] = field(default_factory=set)
    states: dict[str, Any] = field(default_factory=dict)
    refusals: dict[str, list[tuple[grpc.StatusCode, str]]] = field(default_factory=dict)
    current: int = 0
    swapped: bytes | None = None
    forging: bool = False
    losing: bool = False
    prefix: str = "celestia"

    def __post_init__(self) -> None:
        namespaces = [namespace_pb2.Namespace(name="production", address_prefix="celestia")]
        self.pop.answer("NamespaceService/ListNamespaces", namespace_pb2.ListNamespacesResponse(namespaces=namespaces))
        for method, behaviour in {
            "KeyService/GetWrappingKey": self._wrapping_key,
            "KeyService/ImportKey": self._import,
            "KeyService/ExportKey": self._export,
            "KeyService/GetKey": self._get,
            "KeyService/ListKeys": self._list,
            "KeyService/ListKeyVersions": self._versions,
            "SignService/Sign": self._sign,
            "SignService/Verify": self._verify,
        }.items():
            self.pop.on(method, self._scripted(method, behaviour))

    def refuse(self, method: str, code: grpc.StatusCode, reason: str) -> None:
        """The next call of the method fails so."""
        self.refusals.setdefault(method, []).append((code, reason))

    def key(self, name: str) -> key_pb2.Key:
        versions = self.secrets[name]
        address, eth_address = addresses(versions[-1], self.prefix)
        namespace, _, short = name.partition("/")
        return key_pb2.Key(
            id=f"key_{name}",
            name=short,
            namespace=namespace,
            public_key=public_hex(versions[-1]),
            address=address,
            eth_address=eth_address,
            version=len(versions),
            min_version=1,
            exportable=name in self.exportable,
            imported=True,
            state=self.states.get(name, key_pb2.Key.ENABLED),
        )

    def _scripted(self, method: str, behaviour: Any) -> Any:
        async def answer(request: Any, context: Context) -> Message:
            if waiting := self.refusals.get(method):
                return await refuse(context, *waiting.pop(0), "refused on request")
            found: Message = await behaviour(request, context)
            return found

        return answer

    async def _wrapping_key(self, _request: Any, _context: Context) -> Message:
        return wrapping_key(self.current)

    async def _import(self, request: key_pb2.ImportKeyRequest, context: Context) -> Message:
        if request.wrapping_key_id != wrapping_key(self.current).id:
            return await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "WRAPPING_KEY_UNKNOWN")
        secret = unwrapped(request.ciphertext, self.current)
        name = f"{request.namespace or 'production'}/{request.name}"
        if name in self.secrets:
            return await refuse(context, grpc.StatusCode.ALREADY_EXISTS, "KEY_NAME_TAKEN")
        if any(secret in versions for versions in self.secrets.values()):
            return await refuse(context, grpc.StatusCode.ALREADY_EXISTS, "KEY_PRESENT")
        self.secrets[name] = [self.swapped or secret]
        if request.exportable:
            self.exportable.add(name)
        if self.losing:
            return await refuse(context, grpc.StatusCode.UNAVAILABLE, "", "the answer was lost")
        return key_pb2.ImportKeyResponse(key=self.key(name))

    async def _export(self, request: key_pb2.ExportKeyRequest, context: Context) -> Message:
        name = request.key_id.removeprefix("key_")
        if name not in self.exportable:
            return await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "KEY_NOT_EXPORTABLE")
        answer = key_pb2.ExportKeyResponse(wrapping=WRAPPING)
        for version in request.versions or [len(self.secrets[name])]:
            secret = self.secrets[name][version - 1]
            answer.versions.add(
                version=version,
                public_key=public_hex(secret),
                ciphertext=sealed(self.swapped or secret, request.recipient),
            )
        return answer

    async def _get(self, request: key_pb2.GetKeyRequest, context: Context) -> Message:
        name = request.key_id.removeprefix("key_")
        if name not in self.secrets:
            return await refuse(context, grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
        return key_pb2.GetKeyResponse(key=self.key(name))

    async def _list(self, _request: Any, _context: Context) -> Message:
        return key_pb2.ListKeysResponse(keys=[self.key(name) for name in self.secrets])

    async def _versions(self, request: key_pb2.ListKeyVersionsRequest, _context: Context) -> Message:
        answer = key_pb2.ListKeyVersionsResponse()
        held = self.secrets[request.key_id.removeprefix("key_")]
        for version, secret in reversed(list(enumerate(held, start=1))):
            address, eth_address = addresses(secret, self.prefix)
            answer.versions.add(
                version=version, public_key=public_hex(secret), address=address, eth_address=eth_address, signs=True
            )
        return answer

    async def _sign(self, request: sign_pb2.SignRequest, context: Context) -> Message:
        name = request.key_id.removeprefix("key_")
        if self.states.get(name) == key_pb2.Key.DISABLED:
            return await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "KEY_DISABLED")
        secret = os.urandom(32) if self.forging else self.secrets[name][request.key_version - 1]
        signature = coincurve.PrivateKey(secret).sign_recoverable(request.data)[:64]
        return sign_pb2.SignResponse(
            signature=signature, public_key=public_hex(secret), key_version=request.key_version
        )

    async def _verify(self, request: sign_pb2.VerifyRequest, _context: Context) -> Message:
        secret = self.secrets[request.key_id.removeprefix("key_")][request.key_version - 1]
        der = ecdsa.cdata_to_der(ecdsa.deserialize_compact(request.signature))
        valid = coincurve.PrivateKey(secret).public_key.verify(der, request.data)
        return sign_pb2.VerifyResponse(valid=valid and not self.forging)
