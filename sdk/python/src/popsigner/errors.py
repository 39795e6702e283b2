"""The failures that POPSigner names, one class a reason, grouped in families by gRPC status code.

`PopsignerError` is the base of all. `except KeyNotFound` catches one reason, `except NotFound` its family. A reason
that this version does not know yet arrives as its family, with the name in `reason`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from grpc import StatusCode

_FAMILIES: dict[StatusCode, type["PopsignerError"]] = {}
_REASONS: dict[str, type["PopsignerError"]] = {}


@dataclass(frozen=True, slots=True)
class Violation:
    """What exactly was wrong: a field of the request (InvalidField), or a quota (QuotaExceeded)."""

    subject: str
    description: str


class PopsignerError(Exception):
    """A call, or one item of a batch, was refused.

    `message` is one sentence for a person; `reason` the name of the contract's ErrorReason, empty where the POP gave
    none (it was not reached, for example); `code` the gRPC status; `retry_after` seconds to wait at least before a
    retry; `metadata` and `violations` what else the POP said.
    """

    default_code: ClassVar[StatusCode] = StatusCode.UNKNOWN
    default_reason: ClassVar[str] = ""

    def __init_subclass__(cls, *, code: StatusCode | None = None, reason: str = "") -> None:
        if code is not None:
            cls.default_code = code
            _FAMILIES[code] = cls
        if reason:
            cls.default_reason = reason
            _REASONS[reason] = cls

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        code: StatusCode | None = None,
        retry_after: float | None = None,
        metadata: Mapping[str, str] = MappingProxyType({}),
        violations: tuple[Violation, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.code = self.default_code if code is None else code
        self.retry_after = retry_after
        self.metadata = metadata
        self.violations = violations

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later: the POP was unavailable, or asked to wait."""
        return self.code is StatusCode.UNAVAILABLE or (
            self.code is StatusCode.RESOURCE_EXHAUSTED and self.retry_after is not None
        )


def error_class(reason: str, code: StatusCode) -> type[PopsignerError]:
    """The class of a reason; for one that is not known here, the family of its status code."""
    return _REASONS.get(reason) or _FAMILIES.get(code, PopsignerError)


class ConfigurationError(PopsignerError):
    """The client was set up wrongly: no API key, an endpoint that is none, plaintext to another machine."""


class InvalidRequest(PopsignerError, code=StatusCode.INVALID_ARGUMENT):
    """The request is wrong and stays wrong."""


class InvalidField(InvalidRequest, reason="INVALID_FIELD"):
    """A field has a value that it cannot have; `violations` names the fields."""


class MalformedRequest(InvalidRequest, reason="MALFORMED_REQUEST"):
    """The request is not what its message says."""


class DataTooLarge(InvalidRequest, reason="DATA_TOO_LARGE"):
    """The data of one item is longer than 1 MiB (1 048 576 bytes)."""


class DigestLength(InvalidRequest, reason="DIGEST_LENGTH"):
    """Prehashed data is not exactly 32 bytes."""


class BatchEmpty(InvalidRequest, reason="BATCH_EMPTY"):
    """A batch without items."""


class BatchTooLarge(InvalidRequest, reason="BATCH_TOO_LARGE"):
    """A batch of more than 256 items."""


class InvalidCursor(InvalidRequest, reason="INVALID_CURSOR"):
    """The cursor is not one that this list gave out."""


class NotAuthenticated(PopsignerError, code=StatusCode.UNAUTHENTICATED):
    """The POP does not accept who is asking."""


class CredentialsMissing(NotAuthenticated, reason="CREDENTIALS_MISSING"):
    """No API key was presented."""


class CredentialsInvalid(NotAuthenticated, reason="CREDENTIALS_INVALID"):
    """The API key is malformed, unknown or wrong."""


class ApiKeyExpired(NotAuthenticated, reason="API_KEY_EXPIRED"):
    """The API key has expired."""


class ApiKeyRevoked(NotAuthenticated, reason="API_KEY_REVOKED"):
    """The API key was revoked."""


class NotPermitted(PopsignerError, code=StatusCode.PERMISSION_DENIED):
    """The API key may not do this."""


class ScopeMissing(NotPermitted, reason="SCOPE_MISSING"):
    """The API key lacks a scope; the message names it."""


class RoleMissing(NotPermitted, reason="ROLE_MISSING"):
    """The API key lacks a role; the message names it."""


class NotFound(PopsignerError, code=StatusCode.NOT_FOUND):
    """There is no such thing in this organization."""


class KeyNotFound(NotFound, reason="KEY_NOT_FOUND"):
    """No such key in this organization."""


class NamespaceNotFound(NotFound, reason="NAMESPACE_NOT_FOUND"):
    """No such namespace in this organization."""


class ApiKeyNotFound(NotFound, reason="API_KEY_NOT_FOUND"):
    """No such API key in this organization."""


class AuditLogNotFound(NotFound, reason="AUDIT_LOG_NOT_FOUND"):
    """No such audit row in this organization."""


class AlreadyExists(PopsignerError, code=StatusCode.ALREADY_EXISTS):
    """Something of this name is there already."""


class KeyNameTaken(AlreadyExists, reason="KEY_NAME_TAKEN"):
    """A key of this name exists in the namespace."""


class NamespaceNameTaken(AlreadyExists, reason="NAMESPACE_NAME_TAKEN"):
    """A namespace of this name exists."""


class RequestIdReused(AlreadyExists, reason="REQUEST_ID_REUSED"):
    """The request id was used within 24 hours for another key or other data."""


class PreconditionFailed(PopsignerError, code=StatusCode.FAILED_PRECONDITION):
    """Something is not in the state that this needs."""


class KeyDisabled(PreconditionFailed, reason="KEY_DISABLED"):
    """The key is disabled."""


class KeyDeleted(PreconditionFailed, reason="KEY_DELETED"):
    """The key is deleted."""


class NamespaceNotEmpty(PreconditionFailed, reason="NAMESPACE_NOT_EMPTY"):
    """The namespace still holds keys."""


class KeyVersionUnavailable(PreconditionFailed, reason="KEY_VERSION_UNAVAILABLE"):
    """The key version is unknown, or below the lowest that may sign."""


class ResourceExhausted(PopsignerError, code=StatusCode.RESOURCE_EXHAUSTED):
    """Too much, or too fast."""


class AuthenticationBusy(ResourceExhausted, reason="AUTHENTICATION_BUSY"):
    """Too many unknown API keys are being checked at this moment."""


class QuotaExceeded(ResourceExhausted, reason="QUOTA_EXCEEDED"):
    """The plan's quota is used up; `violations` names it."""


class QueueFull(ResourceExhausted, reason="QUEUE_FULL"):
    """The organization has too many signatures waiting."""


class RateLimited(ResourceExhausted, reason="RATE_LIMITED"):
    """Too many requests from this address."""


class RequestTooLarge(ResourceExhausted, reason="REQUEST_TOO_LARGE"):
    """The request is larger than the POP accepts."""


class DeadlineExceeded(PopsignerError, code=StatusCode.DEADLINE_EXCEEDED):
    """There was no answer within the call's timeout."""


class DeadlinePassed(DeadlineExceeded, reason="DEADLINE_PASSED"):
    """The deadline passed before the POP released the signature."""


class Cancelled(PopsignerError, code=StatusCode.CANCELLED):
    """The call was cancelled."""


class CallCancelled(Cancelled, reason="CALL_CANCELLED"):
    """The POP saw that the caller cancelled."""


class Unavailable(PopsignerError, code=StatusCode.UNAVAILABLE):
    """The POP, or a part of it, cannot be reached at this moment."""


class VaultUnavailable(Unavailable, reason="VAULT_UNAVAILABLE"):
    """OpenBao cannot be reached or is sealed; nothing was released."""


class LedgerUnavailable(Unavailable, reason="LEDGER_UNAVAILABLE"):
    """The audit row could not be committed; nothing was released."""


class Draining(Unavailable, reason="DRAINING"):
    """This server is stopping; another one answers."""


class ServerUnavailable(Unavailable, reason="SERVER_UNAVAILABLE"):
    """The gateway cannot reach the server."""


class Unimplemented(PopsignerError, code=StatusCode.UNIMPLEMENTED):
    """This POP does not offer this call."""


class MethodUnknown(Unimplemented, reason="METHOD_UNKNOWN"):
    """There is no such call."""


class InternalError(PopsignerError, code=StatusCode.INTERNAL):
    """A fault of the POP."""


class InternalFault(InternalError, reason="INTERNAL_FAULT"):
    """A fault of the POP; the message carries an error id that its log repeats."""
