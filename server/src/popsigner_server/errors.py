"""The failures that this service can name: one family, one subclass a reason.

A reason is a value of `popsigner.v1.ErrorReason`; a test holds the two equal. The edge
(`transport/interceptors/errors.py`) has the one table from `Kind` to a gRPC code. `detail` is a sentence for the
caller: it says what is wrong and what to do, and never holds a secret, a digest or message data.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar


class Kind(Enum):
    """What sort of failure; the edge turns it into a gRPC code."""

    INVALID = auto()
    UNAUTHENTICATED = auto()
    DENIED = auto()
    NOT_FOUND = auto()
    CONFLICT = auto()
    PRECONDITION = auto()
    EXHAUSTED = auto()
    DEADLINE = auto()
    CANCELLED = auto()
    UNAVAILABLE = auto()
    UNKNOWN_METHOD = auto()
    INTERNAL = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One wrong field: its name in the contract, and a sentence."""

    field: str
    description: str


class SignerError(Exception):
    """A failure with a kind, a reason and a sentence.

    `retry_after` is in seconds; `faults` name wrong fields; `quota` names the quota that is used up.
    """

    kind: ClassVar[Kind] = Kind.INTERNAL
    reason: ClassVar[str] = "INTERNAL_FAULT"
    sentence: ClassVar[str] = "Something went wrong inside the POP."

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after: float | None = None,
        faults: tuple[Fault, ...] = (),
        quota: str | None = None,
    ) -> None:
        self.detail = detail or self.sentence
        self.retry_after = retry_after
        self.faults = faults
        self.quota = quota
        super().__init__(self.detail)


class InvalidField(SignerError):
    kind, reason = Kind.INVALID, "INVALID_FIELD"

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}", faults=(Fault(field=field, description=description),))


class MalformedRequest(SignerError):
    kind, reason = Kind.INVALID, "MALFORMED_REQUEST"
    sentence = "The request is not the protobuf message that this RPC takes."


class DataTooLarge(SignerError):
    kind, reason = Kind.INVALID, "DATA_TOO_LARGE"
    sentence = "data is longer than 1 MiB (1 048 576 bytes); hash it yourself and send the digest with prehashed."


class DigestLength(SignerError):
    kind, reason = Kind.INVALID, "DIGEST_LENGTH"
    sentence = "prehashed data must be a digest of exactly 32 bytes."


class BatchEmpty(SignerError):
    kind, reason = Kind.INVALID, "BATCH_EMPTY"
    sentence = "The batch has no items; send 1 to 256."


class BatchTooLarge(SignerError):
    kind, reason = Kind.INVALID, "BATCH_TOO_LARGE"
    sentence = "The batch has more than 256 items; split it."


class InvalidCursor(SignerError):
    kind, reason = Kind.INVALID, "INVALID_CURSOR"
    sentence = "The cursor is not one that this list gave out; begin again without a cursor."


class CredentialsMissing(SignerError):
    kind, reason = Kind.UNAUTHENTICATED, "CREDENTIALS_MISSING"
    sentence = "Send an API key in `authorization: Bearer psk_…` or `x-api-key`."


class CredentialsInvalid(SignerError):
    kind, reason = Kind.UNAUTHENTICATED, "CREDENTIALS_INVALID"
    sentence = "The API key is not valid."


class ApiKeyExpired(SignerError):
    kind, reason = Kind.UNAUTHENTICATED, "API_KEY_EXPIRED"
    sentence = "The API key has expired; create a new one."


class ApiKeyRevoked(SignerError):
    kind, reason = Kind.UNAUTHENTICATED, "API_KEY_REVOKED"
    sentence = "The API key was revoked."


class AuthenticationBusy(SignerError):
    kind, reason = Kind.EXHAUSTED, "AUTHENTICATION_BUSY"
    sentence = "Too many unknown API keys are being checked at this moment; retry."


class ScopeMissing(SignerError):
    kind, reason = Kind.DENIED, "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This needs the scope {scope}, which the caller does not have.")


class RoleMissing(SignerError):
    kind, reason = Kind.DENIED, "ROLE_MISSING"

    def __init__(self, role: str) -> None:
        super().__init__(f"This needs the role {role} or a higher one, which the caller does not have.")


class KeyNotFound(SignerError):
    kind, reason = Kind.NOT_FOUND, "KEY_NOT_FOUND"
    sentence = "There is no such key; name it by its id (key_…) or as namespace/name."


class NamespaceNotFound(SignerError):
    kind, reason = Kind.NOT_FOUND, "NAMESPACE_NOT_FOUND"
    sentence = "There is no such namespace; create it first."


class ApiKeyNotFound(SignerError):
    kind, reason = Kind.NOT_FOUND, "API_KEY_NOT_FOUND"
    sentence = "There is no such API key; name it by its id (ak_…)."


class AuditLogNotFound(SignerError):
    kind, reason = Kind.NOT_FOUND, "AUDIT_LOG_NOT_FOUND"
    sentence = "There is no such audit row; name it by its id (log_…)."


class KeyNameTaken(SignerError):
    kind, reason = Kind.CONFLICT, "KEY_NAME_TAKEN"

    def __init__(self, name: str) -> None:
        super().__init__(f"The namespace already has a key named {name}; choose another name.")


class NamespaceNameTaken(SignerError):
    kind, reason = Kind.CONFLICT, "NAMESPACE_NAME_TAKEN"

    def __init__(self, name: str) -> None:
        super().__init__(f"A namespace named {name} exists already.")


class RequestIdReused(SignerError):
    kind, reason = Kind.CONFLICT, "REQUEST_ID_REUSED"
    sentence = "This request_id was used within 24 hours for another key or other data; choose a new one."


class KeyDisabled(SignerError):
    kind, reason = Kind.PRECONDITION, "KEY_DISABLED"
    sentence = "The key is disabled; enable it before it signs."


class KeyDeleted(SignerError):
    kind, reason = Kind.PRECONDITION, "KEY_DELETED"
    sentence = "The key is deleted."


class NamespaceNotEmpty(SignerError):
    kind, reason = Kind.PRECONDITION, "NAMESPACE_NOT_EMPTY"
    sentence = "The namespace still holds keys; delete them (with force) first."


class KeyVersionUnavailable(SignerError):
    kind, reason = Kind.PRECONDITION, "KEY_VERSION_UNAVAILABLE"
    sentence = "The key has no such version, or may no longer sign with it."


class QuotaExceeded(SignerError):
    kind, reason = Kind.EXHAUSTED, "QUOTA_EXCEEDED"
    sentence = "The plan's quota is used up."


class QueueFull(SignerError):
    kind, reason = Kind.EXHAUSTED, "QUEUE_FULL"
    sentence = "Too many signatures of this organization are waiting; slow down and retry."


class DeadlinePassed(SignerError):
    kind, reason = Kind.DEADLINE, "DEADLINE_PASSED"
    sentence = "The deadline passed before the answer was ready; nothing more is done for this call."


class CallCancelled(SignerError):
    kind, reason = Kind.CANCELLED, "CALL_CANCELLED"
    sentence = "The caller cancelled."


class VaultUnavailable(SignerError):
    kind, reason = Kind.UNAVAILABLE, "VAULT_UNAVAILABLE"
    sentence = "OpenBao cannot be reached or is sealed; nothing was released; retry."


class LedgerUnavailable(SignerError):
    kind, reason = Kind.UNAVAILABLE, "LEDGER_UNAVAILABLE"
    sentence = "The database cannot be reached or did not commit; nothing was released; retry."


class Draining(SignerError):
    kind, reason = Kind.UNAVAILABLE, "DRAINING"
    sentence = "This server is shutting down; retry."


class MethodUnknown(SignerError):
    kind, reason = Kind.UNKNOWN_METHOD, "METHOD_UNKNOWN"
    sentence = "There is no such RPC."


class InternalFault(SignerError):
    kind, reason = Kind.INTERNAL, "INTERNAL_FAULT"

    def __init__(self, error_id: str) -> None:
        super().__init__(f"Something went wrong inside the POP; its log has more under the error id {error_id}.")
