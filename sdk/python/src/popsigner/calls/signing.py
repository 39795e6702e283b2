"""SignService: sign and verify. The stream is in `popsigner.stream`."""

from collections.abc import Iterable
from uuid import uuid4

from .. import wire
from ..errors import InternalError
from ..gen.popsigner import v1
from ..gen.popsigner.v1 import HashAlgorithm, Key, SignatureFormat
from ..signing import Signature, SignItem, SignResult
from ..status import error_of_item
from . import Call, Repeat, Rpc, call
from .keys import key_name

_SERVICE = "/popsigner.v1.SignService/"
SIGN = Rpc(_SERVICE + "Sign", v1.SignRequest, v1.SignResponse, Repeat.WITH_REQUEST_ID)
BATCH_SIGN = Rpc(
    _SERVICE + "BatchSign",
    v1.BatchSignRequest,
    v1.BatchSignResponse,
    Repeat.WITH_REQUEST_ID,
    wire.encode_batch,
    wire.decode_batch,
)
VERIFY = Rpc(_SERVICE + "Verify", v1.VerifyRequest, v1.VerifyResponse, Repeat.ALWAYS)
SIGN_STREAM = _SERVICE + "SignStream"


def _bytes(data: bytes) -> bytes:
    # protobuf would take text and sign its UTF-8; a hexadecimal digest passed as text must not be signed as a message.
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data is bytes, not {type(data).__name__}; text is signed as text.encode()")
    return bytes(data)


def message_of(item: SignItem) -> v1.SignItem:
    """The item as the contract writes it."""
    return v1.SignItem(
        key_id=key_name(item.key),
        data=_bytes(item.data),
        prehashed=item.prehashed or None,
        hash=item.hash,
        format=item.format,
        sign_mode=item.sign_mode,
        request_id=item.request_id,
        key_version=item.key_version,
    )


def identify(request: v1.SignRequest | v1.SignItem) -> None:
    """Give it a request id, unless its caller chose one, so that a repeat counts once."""
    if not request.request_id:
        request.request_id = uuid4().hex


def result_of(key_id: str, request_id: str, result: v1.SignResult) -> SignResult:
    """What was answered to an item of this key and request id."""
    if result.error is not None:
        return SignResult(key_id=key_id, outcome=error_of_item(result.error))
    return SignResult(key_id=key_id, outcome=_signature(request_id, result))


def _signature(request_id: str, answer: v1.SignResponse | v1.SignResult) -> Signature:
    return Signature(
        signature=answer.signature,
        public_key=answer.public_key,
        key_version=answer.key_version,
        recovery_id=answer.recovery_id,
        request_id=request_id,
    )


def _results(request: v1.BatchSignRequest, answer: v1.BatchSignResponse) -> tuple[SignResult, ...]:
    if len(answer.signatures) != len(request.requests):
        raise InternalError(f"the POP answered {len(answer.signatures)} of {len(request.requests)} items")
    return tuple(
        result_of(item.key_id, item.request_id, result)
        for item, result in zip(request.requests, answer.signatures, strict=True)
    )


def sign(
    key: str | Key,
    data: bytes,
    *,
    prehashed: bool = False,
    hash: HashAlgorithm = HashAlgorithm.SHA256,
    format: SignatureFormat = SignatureFormat.COMPACT,
    sign_mode: str = "",
    request_id: str = "",
    key_version: int = 0,
    timeout: float | None = None,
) -> Call[Signature]:
    """Sign a message of up to 1 MiB, or with `prehashed` its digest of exactly 32 bytes.

    With retries on, the client chooses a `request_id` if none is given. Raises DataTooLarge, DigestLength, KeyNotFound,
    KeyDisabled, KeyDeleted, KeyVersionUnavailable, RequestIdReused, QuotaExceeded, QueueFull, VaultUnavailable,
    LedgerUnavailable.
    """
    request = v1.SignRequest(
        key_id=key_name(key),
        data=_bytes(data),
        prehashed=prehashed,
        hash=hash,
        format=format,
        sign_mode=sign_mode,
        request_id=request_id,
        key_version=key_version,
    )
    return call(SIGN, request, lambda answer: _signature(request.request_id, answer), timeout)


def sign_batch(items: Iterable[SignItem], *, timeout: float | None = None) -> Call[tuple[SignResult, ...]]:
    """Sign 1 to 256 items, each with its own key and outcome, in one request; the answer keeps the order.

    A bad item fails alone: `result.unwrap()` raises its error. With retries on, each item without a `request_id` gets
    one. Raises BatchEmpty, BatchTooLarge.
    """
    request = v1.BatchSignRequest(requests=[message_of(item) for item in items])
    return call(BATCH_SIGN, request, lambda answer: _results(request, answer), timeout)


def verify(
    key: str | Key | bytes,
    data: bytes,
    signature: bytes | Signature,
    *,
    prehashed: bool = False,
    hash: HashAlgorithm = HashAlgorithm.SHA256,
    format: SignatureFormat = SignatureFormat.COMPACT,
    key_version: int = 0,
    timeout: float | None = None,
) -> Call[bool]:
    """Whether this is a well-formed low-S signature of the data by the key: one of the POP's (id, `namespace/name`,
    Key), or a bare public key of 33 or 65 bytes.

    Raises InvalidField, DataTooLarge, DigestLength, KeyNotFound, KeyVersionUnavailable.
    """
    request = v1.VerifyRequest(
        key_id="" if isinstance(key, bytes) else key_name(key),
        public_key=key.hex() if isinstance(key, bytes) else "",
        data=_bytes(data),
        signature=_bytes(bytes(signature) if isinstance(signature, Signature) else signature),
        prehashed=prehashed,
        hash=hash,
        format=format,
        key_version=key_version,
    )
    return call(VERIFY, request, lambda answer: answer.valid, timeout)
