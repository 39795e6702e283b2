"""The failures that this service can name: one family, one subclass a reason.

A reason is a value of `popsigner.v1.ErrorReason`; a test holds the two equal. The edge
(`transport/interceptors/errors.py`) has the one table from `Kind` to a gRPC code. `detail` is a sentence for the
caller: it says what is wrong and what to do, and never holds a secret, a digest or message data.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar, TypeVar

E = TypeVar("E", bound=Exception)


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


class WrappedKeyInvalid(SignerError):
    kind, reason = Kind.INVALID, "WRAPPED_KEY_INVALID"
    sentence = (
        "The ciphertext does not open with the wrapping key: it must be RSA-OAEP-SHA256 of an AES-256 key, followed by"
        " AES-KWP of the private key, both whole."
    )


class PrivateKeyInvalid(SignerError):
    kind, reason = Kind.INVALID, "PRIVATE_KEY_INVALID"
    sentence = "What was wrapped is no secp256k1 private key."


class InvalidCursor(SignerError):
    kind, reason = Kind.INVALID, "INVALID_CURSOR"
    sentence = "The cursor is not one that this list gave out; begin again without a cursor."


class OrganizationRequired(SignerError):
    kind, reason = Kind.INVALID, "ORGANIZATION_REQUIRED"
    sentence = "Name one of your organizations in x-popsigner-organization, by its id (org_…) or its slug."


class CredentialsMissing(SignerError):
    kind, reason = Kind.UNAUTHENTICATED, "CREDENTIALS_MISSING"
    sentence = "Send an API key in `authorization: Bearer psk_…` or `x-api-key`, or log in with `popsigner login`."


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


class TokenExpired(SignerError):
    kind, reason = Kind.UNAUTHENTICATED, "TOKEN_EXPIRED"
    sentence = "The access token is over; trade the refresh token for a new one."


class SessionEnded(SignerError):
    kind, reason = Kind.UNAUTHENTICATED, "SESSION_ENDED"
    sentence = "The session has ended; log in again."


class RefreshTokenReused(SignerError):
    kind, reason = Kind.UNAUTHENTICATED, "REFRESH_TOKEN_REUSED"
    sentence = "This refresh token was used before, so the session has ended; log in again."


class LoginReplayed(SignerError):
    kind, reason = Kind.UNAUTHENTICATED, "LOGIN_REPLAYED"
    sentence = "This log-in was completed before, or took too long; begin again."


class ScopeMissing(SignerError):
    kind, reason = Kind.DENIED, "SCOPE_MISSING"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This needs the scope {scope}, which the caller does not have.")


class RoleMissing(SignerError):
    kind, reason = Kind.DENIED, "ROLE_MISSING"

    def __init__(self, role: str) -> None:
        super().__init__(f"This needs the role {role} or a higher one, which the caller does not have.")


class EmailUnverified(SignerError):
    kind, reason = Kind.DENIED, "EMAIL_UNVERIFIED"
    sentence = "The identity provider has not verified the e-mail address; verify it there, then log in again."


class NotInvited(SignerError):
    kind, reason = Kind.DENIED, "NOT_INVITED"
    sentence = "Nobody has invited this e-mail address; ask an administrator of the organization for an invitation."


class AddressNotAllowed(SignerError):
    kind, reason = Kind.DENIED, "ADDRESS_NOT_ALLOWED"
    sentence = "The API key may not be used from this address."


class ApiKeyRestricted(SignerError):
    kind, reason = Kind.DENIED, "API_KEY_RESTRICTED"
    sentence = "The API key is limited to certain namespaces or keys, and this goes beyond them."


class MembershipMissing(SignerError):
    kind, reason = Kind.DENIED, "MEMBERSHIP_MISSING"
    sentence = "You do not belong to this organization; ask one of its administrators for an invitation."


class PersonRequired(SignerError):
    kind, reason = Kind.DENIED, "PERSON_REQUIRED"
    sentence = "This is for people, not for API keys; log in with `popsigner login`."


class SignUpClosed(SignerError):
    kind, reason = Kind.DENIED, "SIGN_UP_CLOSED"
    sentence = "On this POP the operator founds the organizations."


class RecoveryMissing(SignerError):
    kind, reason = Kind.NOT_FOUND, "RECOVERY_MISSING"
    sentence = "No recovery recipient is registered."


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


class UserNotFound(SignerError):
    kind, reason = Kind.NOT_FOUND, "USER_NOT_FOUND"
    sentence = "There is no such member; name a member by the id (user_…)."


class InvitationNotFound(SignerError):
    kind, reason = Kind.NOT_FOUND, "INVITATION_NOT_FOUND"
    sentence = "There is no such invitation, or it is for another e-mail address."


class SessionNotFound(SignerError):
    kind, reason = Kind.NOT_FOUND, "SESSION_NOT_FOUND"
    sentence = "There is no such session; name it by its id (sess_…)."


class IdentityProviderNotFound(SignerError):
    kind, reason = Kind.NOT_FOUND, "IDENTITY_PROVIDER_NOT_FOUND"
    sentence = "There is no such identity provider; name it by its id (idp_…)."


class DeviceNotFound(SignerError):
    kind, reason = Kind.NOT_FOUND, "DEVICE_NOT_FOUND"
    sentence = "No device waits under this code, or no longer; begin again there."


class KeyNameTaken(SignerError):
    kind, reason = Kind.CONFLICT, "KEY_NAME_TAKEN"

    def __init__(self, name: str) -> None:
        super().__init__(f"The namespace already has a key named {name}; choose another name.")


class KeyPresent(SignerError):
    kind, reason = Kind.CONFLICT, "KEY_PRESENT"
    sentence = "This private key is in the POP already; nothing was imported."


class NamespaceNameTaken(SignerError):
    kind, reason = Kind.CONFLICT, "NAMESPACE_NAME_TAKEN"

    def __init__(self, name: str) -> None:
        super().__init__(f"A namespace named {name} exists already.")


class RequestIdReused(SignerError):
    kind, reason = Kind.CONFLICT, "REQUEST_ID_REUSED"
    sentence = "This request_id was used within 24 hours for another key or other data; choose a new one."


class AlreadyMember(SignerError):
    kind, reason = Kind.CONFLICT, "ALREADY_MEMBER"
    sentence = "This person is a member already."


class InvitationExists(SignerError):
    kind, reason = Kind.CONFLICT, "INVITATION_EXISTS"
    sentence = "An invitation for this e-mail address waits already; take it back first."


class IdentityProviderExists(SignerError):
    kind, reason = Kind.CONFLICT, "IDENTITY_PROVIDER_EXISTS"
    sentence = "This issuer is connected already; disconnect it first."


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


class KeyVersionChanged(SignerError):
    kind, reason = Kind.PRECONDITION, "KEY_VERSION_CHANGED"

    def __init__(self, newest: int) -> None:
        super().__init__(f"The key's newest version is {newest}; read the key again before you rotate it.")


class KeyVersionsExhausted(SignerError):
    kind, reason = Kind.PRECONDITION, "KEY_VERSIONS_EXHAUSTED"
    sentence = "The key has as many versions as a key can have (64); make a new key."


class WrappingKeyUnknown(SignerError):
    kind, reason = Kind.PRECONDITION, "WRAPPING_KEY_UNKNOWN"
    sentence = "This wrapping key is not accepted (any more); read it again and wrap the private key again."


class KeyNotExportable(SignerError):
    kind, reason = Kind.PRECONDITION, "KEY_NOT_EXPORTABLE"
    sentence = "The key was not created exportable; its recovery copy is the other way out."


class RecoveryChangeWaiting(SignerError):
    kind, reason = Kind.PRECONDITION, "RECOVERY_CHANGE_WAITING"
    sentence = "Another change of the recovery recipient waits; cancel it first."


class LastOwner(SignerError):
    kind, reason = Kind.PRECONDITION, "LAST_OWNER"
    sentence = "The organization needs an owner; make another member an owner first."


class OrganizationDeleted(SignerError):
    kind, reason = Kind.PRECONDITION, "ORGANIZATION_DELETED"
    sentence = "The organization is deleted; an owner can restore it while its grace period lasts."


class InvitationExpired(SignerError):
    kind, reason = Kind.PRECONDITION, "INVITATION_EXPIRED"
    sentence = "The invitation is over, was taken back or was accepted before; ask for a new one."


class QuotaExceeded(SignerError):
    kind, reason = Kind.EXHAUSTED, "QUOTA_EXCEEDED"
    sentence = "The plan's quota is used up."


class QueueFull(SignerError):
    kind, reason = Kind.EXHAUSTED, "QUEUE_FULL"
    sentence = "Too many signatures of this organization are waiting; slow down and retry."


class RateLimited(SignerError):
    kind, reason = Kind.EXHAUSTED, "RATE_LIMITED"
    sentence = "Too many requests; slow down and retry."


class RequestTooLarge(SignerError):
    kind, reason = Kind.EXHAUSTED, "REQUEST_TOO_LARGE"
    sentence = "The request is larger than the POP accepts."


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


def untraced(error: E) -> E:
    """The error itself, without its traceback and those of what it came from.

    A traceback holds the frames that it came through, those all that was asked for, and one that keeps the error
    closes a cycle. Callers decide how often they are refused, and the collector comes once in hours.
    """
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error
