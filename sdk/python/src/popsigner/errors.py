"""The failures that POPSigner names, one class a reason, grouped in families by gRPC status code.

`PopsignerError` is the base of all. `except KeyNotFound` catches one reason, `except NotFound` its family. A reason
that this version does not know yet arrives as its family, with the name in `reason`.
"""

from grpc import StatusCode

from .refusal import PopsignerError as PopsignerError
from .refusal import Violation as Violation
from .refusal import error_class as error_class


class ConfigurationError(PopsignerError):
    """The client was set up wrongly: nobody to ask as, an endpoint that is none, plaintext to another machine."""


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


class OrganizationRequired(InvalidRequest, reason="ORGANIZATION_REQUIRED"):
    """A person with several organizations, or with none, has to name the one that is meant."""


class WrappedKeyInvalid(InvalidRequest, reason="WRAPPED_KEY_INVALID"):
    """The ciphertext of an import does not open with the wrapping key."""


class PrivateKeyInvalid(InvalidRequest, reason="PRIVATE_KEY_INVALID"):
    """What was wrapped is no secp256k1 private key."""


class NotAuthenticated(PopsignerError, code=StatusCode.UNAUTHENTICATED):
    """The POP does not accept who is asking."""


class CredentialsMissing(NotAuthenticated, reason="CREDENTIALS_MISSING"):
    """Neither an API key nor an access token was presented."""


class CredentialsInvalid(NotAuthenticated, reason="CREDENTIALS_INVALID"):
    """The API key or access token is malformed, unknown or wrong."""


class ApiKeyExpired(NotAuthenticated, reason="API_KEY_EXPIRED"):
    """The API key has expired."""


class ApiKeyRevoked(NotAuthenticated, reason="API_KEY_REVOKED"):
    """The API key was revoked."""


class TokenExpired(NotAuthenticated, reason="TOKEN_EXPIRED"):
    """The access token is over. A client with a `Credential` trades it for a new one by itself."""


class SessionEnded(NotAuthenticated, reason="SESSION_ENDED"):
    """The session was ended, or is over; the person has to log in again."""


class RefreshTokenReused(NotAuthenticated, reason="REFRESH_TOKEN_REUSED"):
    """A refresh token was used twice, which ended the session; the person has to log in again."""


class LoginReplayed(NotAuthenticated, reason="LOGIN_REPLAYED"):
    """The log-in was completed before, or took too long."""


class NotPermitted(PopsignerError, code=StatusCode.PERMISSION_DENIED):
    """The API key or person may not do this."""


class ScopeMissing(NotPermitted, reason="SCOPE_MISSING"):
    """The API key lacks a scope; the message names it."""


class RoleMissing(NotPermitted, reason="ROLE_MISSING"):
    """The caller lacks a role; the message names it."""


class EmailUnverified(NotPermitted, reason="EMAIL_UNVERIFIED"):
    """The identity provider has not verified the e-mail address."""


class NotInvited(NotPermitted, reason="NOT_INVITED"):
    """Nobody has invited this e-mail address."""


class AddressNotAllowed(NotPermitted, reason="ADDRESS_NOT_ALLOWED"):
    """The API key may not be used from this address."""


class ApiKeyRestricted(NotPermitted, reason="API_KEY_RESTRICTED"):
    """The API key is limited to certain namespaces or keys, and this goes beyond them."""


class MembershipMissing(NotPermitted, reason="MEMBERSHIP_MISSING"):
    """The person does not belong to the organization, or no longer."""


class PersonRequired(NotPermitted, reason="PERSON_REQUIRED"):
    """This is for people's sessions, not for API keys."""


class SignUpClosed(NotPermitted, reason="SIGN_UP_CLOSED"):
    """On this POP the operator founds the organizations."""


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


class UserNotFound(NotFound, reason="USER_NOT_FOUND"):
    """No such member in this organization."""


class InvitationNotFound(NotFound, reason="INVITATION_NOT_FOUND"):
    """No such invitation in this organization, or none for this address."""


class SessionNotFound(NotFound, reason="SESSION_NOT_FOUND"):
    """The person has no such session."""


class IdentityProviderNotFound(NotFound, reason="IDENTITY_PROVIDER_NOT_FOUND"):
    """No such identity provider in this organization."""


class DeviceNotFound(NotFound, reason="DEVICE_NOT_FOUND"):
    """No device waits under this code, or no longer."""


class RecoveryMissing(NotFound, reason="RECOVERY_MISSING"):
    """No recovery recipient is registered, or no change of it waits."""


class AlreadyExists(PopsignerError, code=StatusCode.ALREADY_EXISTS):
    """Something of this name is there already."""


class KeyNameTaken(AlreadyExists, reason="KEY_NAME_TAKEN"):
    """A key of this name exists in the namespace."""


class NamespaceNameTaken(AlreadyExists, reason="NAMESPACE_NAME_TAKEN"):
    """A namespace of this name exists."""


class RequestIdReused(AlreadyExists, reason="REQUEST_ID_REUSED"):
    """The request id was used within 24 hours for another key or other data."""


class AlreadyMember(AlreadyExists, reason="ALREADY_MEMBER"):
    """The person is a member already."""


class InvitationExists(AlreadyExists, reason="INVITATION_EXISTS"):
    """An invitation for this address waits already."""


class IdentityProviderExists(AlreadyExists, reason="IDENTITY_PROVIDER_EXISTS"):
    """The organization has connected this issuer already."""


class KeyPresent(AlreadyExists, reason="KEY_PRESENT"):
    """This private key is in the POP already, under another name."""


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


class KeyVersionChanged(PreconditionFailed, reason="KEY_VERSION_CHANGED"):
    """The key has another newest version than the caller expects; read it again."""


class KeyVersionsExhausted(PreconditionFailed, reason="KEY_VERSIONS_EXHAUSTED"):
    """The key has as many versions as a key can have (64); make a new key."""


class WrappingKeyUnknown(PreconditionFailed, reason="WRAPPING_KEY_UNKNOWN"):
    """The wrapping key is not accepted any more; read it again and wrap the private key again."""


class KeyNotExportable(PreconditionFailed, reason="KEY_NOT_EXPORTABLE"):
    """The key was not created exportable; its recovery copy is the other way out."""


class RecoveryChangeWaiting(PreconditionFailed, reason="RECOVERY_CHANGE_WAITING"):
    """Another change of the recovery recipient waits; cancel it first."""


class LastOwner(PreconditionFailed, reason="LAST_OWNER"):
    """The organization needs an owner; make somebody else one first."""


class OrganizationDeleted(PreconditionFailed, reason="ORGANIZATION_DELETED"):
    """The organization is deleted; an owner can restore it while its grace period lasts."""


class InvitationExpired(PreconditionFailed, reason="INVITATION_EXPIRED"):
    """The invitation is over, was taken back, or was accepted before."""


class ResourceExhausted(PopsignerError, code=StatusCode.RESOURCE_EXHAUSTED):
    """Too much, or too fast."""


class AuthenticationBusy(ResourceExhausted, reason="AUTHENTICATION_BUSY"):
    """Too many unknown API keys are being checked at this moment."""


class QuotaExceeded(ResourceExhausted, reason="QUOTA_EXCEEDED"):
    """The plan's quota is used up; `violations` names it."""


class QueueFull(ResourceExhausted, reason="QUEUE_FULL"):
    """The organization has too many signatures waiting."""


class RateLimited(ResourceExhausted, reason="RATE_LIMITED"):
    """Too many requests from this address, by this API key or by this organization."""


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
