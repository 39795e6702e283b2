"""KeyService: private keys that come from elsewhere, and that leave."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..errors import InternalError, WrappingKeyUnknown
from ..gen.popsigner.v1 import (
    ExportKeyRequest,
    ExportKeyResponse,
    GetWrappingKeyRequest,
    GetWrappingKeyResponse,
    ImportKeyRequest,
    ImportKeyResponse,
    Key,
)
from . import Call, Repeat, Rpc, Steps, call, present
from .keys import key_name

if TYPE_CHECKING:
    from ..keyfiles import Secret
    from ..wrapping import KeyPair

_SERVICE = "/popsigner.v1.KeyService/"
WRAPPING_KEY = Rpc(_SERVICE + "GetWrappingKey", GetWrappingKeyRequest, GetWrappingKeyResponse, Repeat.ALWAYS)
# A repetition finishes what was begun, and is KEY_NAME_TAKEN where it was finished: only who compares the public keys
# can tell that from another key under the name.
IMPORT = Rpc(_SERVICE + "ImportKey", ImportKeyRequest, ImportKeyResponse, Repeat.NEVER)
# It changes nothing but the audit trail, which then says twice that the key was handed out.
EXPORT = Rpc(_SERVICE + "ExportKey", ExportKeyRequest, ExportKeyResponse, Repeat.ALWAYS)


def wrapping_key(*, timeout: float | None = None) -> Call[GetWrappingKeyResponse]:
    """What private keys are wrapped to before `import_wrapped`. It changes from time to time; the one before is
    accepted for a day more.

    Raises VaultUnavailable.
    """
    return call(WRAPPING_KEY, GetWrappingKeyRequest(), lambda answer: answer, timeout)


def import_wrapped(
    ciphertext: bytes,
    *,
    wrapping_key_id: str,
    name: str,
    namespace: str = "",
    exportable: bool = False,
    metadata: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Call[Key]:
    """Bring in a private key that was wrapped elsewhere, on a machine without network, say. `ciphertext` has 552 bytes:
    RSA-OAEP (SHA-256) of an AES-256 key, then AES-KWP of the private key with it.

    Raises InvalidField, NamespaceNotFound, KeyNameTaken, KeyPresent, WrappedKeyInvalid, PrivateKeyInvalid,
    WrappingKeyUnknown, QuotaExceeded, ApiKeyRestricted, VaultUnavailable.
    """
    request = ImportKeyRequest(
        name=name,
        namespace=namespace,
        exportable=exportable,
        metadata=dict(metadata or {}),
        ciphertext=ciphertext,
        wrapping_key_id=wrapping_key_id,
    )
    return call(IMPORT, request, lambda answer: present(answer.key), timeout)


def import_key(
    private_key: bytes | bytearray,
    *,
    name: str,
    namespace: str = "",
    exportable: bool = False,
    metadata: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Steps[Key]:
    """Bring in a private key, 32 bytes, big-endian. It is wrapped on this machine, so that the engine inside OpenBao
    alone can read it; copies that are made on the way are overwritten, yours stays yours. Afterwards it is a key like
    any other.

    An import that ended without an answer is repeated with the same private key and name: that finishes it, or raises
    KeyNameTaken where it had been finished. `timeout` counts for each of its calls. Raises what `import_wrapped` does,
    and InvalidPrivateKey of `popsigner.keyfiles`.
    """
    from ..keyfiles import Secret
    from ..wrapping import wrap

    with Secret(bytearray(private_key)) as secret:
        found = yield wrapping_key(timeout=timeout)
        for again in (True, False):
            try:
                key: Key = yield import_wrapped(
                    wrap(secret, found),
                    wrapping_key_id=found.id,
                    name=name,
                    namespace=namespace,
                    exportable=exportable,
                    metadata=metadata,
                    timeout=timeout,
                )
            except WrappingKeyUnknown:
                # It was replaced in between, and the one before is not accepted any more.
                if not again:
                    raise
                found = yield wrapping_key(timeout=timeout)
            else:
                break
        if key.public_key != secret.facts.public_key.hex():
            raise InternalError("the POP imported another private key than the one that was sent")
        return key


def export(
    key: str | Key, *, recipient: str, versions: Iterable[int] = (), timeout: float | None = None
) -> Call[ExportKeyResponse]:
    """Hand out an exportable key, sealed by the engine to `recipient`: an RSA public key of 3072 to 8192 bits in PEM,
    or an age X25519 recipient (`age1…`). Without `versions` the newest. A disabled key can be exported too.

    Raises InvalidField, KeyNotFound, KeyDeleted, KeyNotExportable, KeyVersionUnavailable, RoleMissing,
    VaultUnavailable.
    """
    request = ExportKeyRequest(key_id=key_name(key), recipient=recipient, versions=list(versions))
    return call(EXPORT, request, lambda answer: answer, timeout)


def export_private(
    key: str | Key, *, version: int = 0, key_pair: "KeyPair | None" = None, timeout: float | None = None
) -> "Steps[Secret]":
    """Hand out an exportable key to this process: the private key is `secret.scalar`, overwritten when the block ends.

        with client.keys.export_private("production/sequencer") as secret:
            use(secret.scalar)

    `version` 0 is the newest. It is sealed to a key pair of the moment; `key_pair` is one for many exports, as making
    it is most of the work. The private key is that of the public key which the POP names, or InternalError is raised.
    `timeout` counts for the call alone. Raises what `export` does.
    """
    from ..wrapping import KeyPair

    pair: KeyPair = key_pair or (yield KeyPair)
    answer = yield export(key, recipient=pair.recipient, versions=(version,) if version else (), timeout=timeout)
    opened = pair.open(answer)
    if len(opened) != 1 or version not in (0, *opened):
        for secret in opened.values():
            secret.wipe()
        raise InternalError("the POP exported another version than the one that was asked for")
    return next(iter(opened.values()))
