"""What is signed, and what comes back."""

from dataclasses import dataclass
from typing import Any

from .errors import PopsignerError
from .gen.popsigner.v1 import HashAlgorithm, Key, SignatureFormat


@dataclass(frozen=True, slots=True)
class SignItem:
    """One thing to sign in a batch or stream.

    `key` is an id, `namespace/name` or a Key; `data` the message of up to 1 MiB, or with `prehashed` its digest of
    exactly 32 bytes. `tag` is the caller's own mark and is not sent: a stream answers with it (with the item's
    position, counted from 0, where it is None). `request_id` (at most 64 characters) makes repeats within 24 hours
    count once. `key_version` 0 means the current one.
    """

    key: str | Key
    data: bytes
    tag: Any = None
    prehashed: bool = False
    hash: HashAlgorithm = HashAlgorithm.SHA256
    format: SignatureFormat = SignatureFormat.COMPACT
    sign_mode: str = ""
    request_id: str = ""
    key_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature that was audited and released.

    `signature` is 64 bytes R ‖ S (COMPACT), 65 bytes R ‖ S ‖ v (RECOVERABLE), or 8 to 72 bytes of DER; `public_key`
    the compressed SEC 1 key as 66 hexadecimal characters; `recovery_id` 0 or 1 with RECOVERABLE, else None;
    `request_id` what the audit row carries, empty if none was sent. `bytes(signature)` gives the bytes.
    """

    signature: bytes
    public_key: str
    key_version: int
    recovery_id: int | None
    request_id: str

    def __bytes__(self) -> bytes:
        return self.signature


@dataclass(frozen=True, slots=True, kw_only=True)
class SignResult:
    """The outcome of one item: a signature, or why there is none. `key_id` is as the item named it."""

    key_id: str
    outcome: Signature | PopsignerError

    @property
    def signature(self) -> Signature | None:
        """None where `error` says why."""
        return self.outcome if isinstance(self.outcome, Signature) else None

    @property
    def error(self) -> PopsignerError | None:
        """None where there is a signature."""
        return self.outcome if isinstance(self.outcome, PopsignerError) else None

    def unwrap(self) -> Signature:
        """The signature; raises the error if there is none."""
        if isinstance(self.outcome, PopsignerError):
            raise self.outcome
        return self.outcome
