"""The one table of who may call what: RPC to the scope or the role that it needs, or to the sort of caller.

A person's scopes come from their role (domain.principals.SCOPES_OF); a role above the needed one will do."""

from dataclasses import dataclass
from enum import Enum, auto

from popsigner_server.domain.principals import Role, Scope


class Who(Enum):
    """For whom an RPC is."""

    # An API key, or a person in an organization: with the scope, or the role, that it needs.
    MEMBER = auto()
    # Anybody with a valid credential, whatever their organizations.
    ANYONE = auto()
    # A person's session, whatever their organizations.
    PERSON = auto()
    # The gateway's web application alone.
    GATEWAY = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a caller needs: of a MEMBER a scope or a role, or both."""

    who: Who = Who.MEMBER
    scope: Scope | None = None
    role: Role | None = None


_READ = Need(scope=Scope.KEYS_READ)
_WRITE = Need(scope=Scope.KEYS_WRITE)
_SIGN = Need(scope=Scope.KEYS_SIGN)
_VIEWER = Need(role=Role.VIEWER)
_ADMIN = Need(role=Role.ADMIN)
_OWNER = Need(role=Role.OWNER)
_ANYONE = Need(who=Who.ANYONE)
_PERSON = Need(who=Who.PERSON)
_GATEWAY = Need(who=Who.GATEWAY)

ACCESS: dict[str, Need] = {
    "/popsigner.v1.KeyService/CreateKey": _WRITE,
    "/popsigner.v1.KeyService/BatchCreateKeys": _WRITE,
    "/popsigner.v1.KeyService/GetKey": _READ,
    "/popsigner.v1.KeyService/ListKeys": _READ,
    "/popsigner.v1.KeyService/UpdateKey": _WRITE,
    "/popsigner.v1.KeyService/DeleteKey": _WRITE,
    "/popsigner.v1.KeyService/UndeleteKey": _WRITE,
    "/popsigner.v1.KeyService/EnableKey": _WRITE,
    "/popsigner.v1.KeyService/DisableKey": _WRITE,
    "/popsigner.v1.KeyService/RotateKey": _WRITE,
    "/popsigner.v1.KeyService/ListKeyVersions": _READ,
    "/popsigner.v1.KeyService/GetWrappingKey": _WRITE,
    "/popsigner.v1.KeyService/ImportKey": _WRITE,
    "/popsigner.v1.KeyService/ExportKey": Need(scope=Scope.KEYS_EXPORT, role=Role.ADMIN),
    "/popsigner.v1.RecoveryService/GetRecovery": _READ,
    "/popsigner.v1.RecoveryService/SetRecoveryRecipient": _OWNER,
    "/popsigner.v1.RecoveryService/CancelRecoveryChange": _OWNER,
    "/popsigner.v1.RecoveryService/ListRecoveryCopies": _READ,
    "/popsigner.v1.SignService/Sign": _SIGN,
    "/popsigner.v1.SignService/BatchSign": _SIGN,
    "/popsigner.v1.SignService/SignStream": _SIGN,
    "/popsigner.v1.SignService/Verify": _READ,
    "/popsigner.v1.NamespaceService/CreateNamespace": _WRITE,
    "/popsigner.v1.NamespaceService/ListNamespaces": _READ,
    "/popsigner.v1.NamespaceService/DeleteNamespace": _WRITE,
    "/popsigner.v1.ApiKeyService/CreateApiKey": _ADMIN,
    "/popsigner.v1.ApiKeyService/ListApiKeys": _ADMIN,
    "/popsigner.v1.ApiKeyService/RotateApiKey": _ADMIN,
    "/popsigner.v1.ApiKeyService/RevokeApiKey": _ADMIN,
    "/popsigner.v1.AuditService/ListLogs": Need(scope=Scope.AUDIT_READ),
    "/popsigner.v1.AuditService/GetLog": Need(scope=Scope.AUDIT_READ),
    "/popsigner.v1.BillingService/GetUsage": Need(scope=Scope.BILLING_READ),
    "/popsigner.v1.OrganizationService/GetOrganization": _VIEWER,
    "/popsigner.v1.OrganizationService/UpdateOrganization": _ADMIN,
    "/popsigner.v1.OrganizationService/DeleteOrganization": _OWNER,
    "/popsigner.v1.OrganizationService/RestoreOrganization": _OWNER,
    "/popsigner.v1.OrganizationService/CreateOrganization": _PERSON,
    "/popsigner.v1.OrganizationService/ListMembers": _VIEWER,
    "/popsigner.v1.OrganizationService/UpdateMember": _ADMIN,
    # Everybody may leave; that removing others takes an ADMIN is tenancy's rule.
    "/popsigner.v1.OrganizationService/RemoveMember": _VIEWER,
    "/popsigner.v1.OrganizationService/CreateInvitation": _ADMIN,
    "/popsigner.v1.OrganizationService/ListInvitations": _ADMIN,
    "/popsigner.v1.OrganizationService/RevokeInvitation": _ADMIN,
    "/popsigner.v1.OrganizationService/AcceptInvitation": _PERSON,
    "/popsigner.v1.OrganizationService/ConnectIdentityProvider": _OWNER,
    "/popsigner.v1.OrganizationService/ListIdentityProviders": _ADMIN,
    "/popsigner.v1.OrganizationService/DisconnectIdentityProvider": _OWNER,
    "/popsigner.v1.AuthService/Whoami": _ANYONE,
    "/popsigner.v1.AuthService/ListSessions": _PERSON,
    "/popsigner.v1.AuthService/RevokeSession": _PERSON,
    "/popsigner.v1.AuthService/RevokeAllSessions": _PERSON,
    "/popsigner.v1.AuthService/ExportAccount": _PERSON,
    "/popsigner.v1.AuthService/DeleteAccount": _PERSON,
    "/popsigner.internal.v1.LoginService/ListProviders": _GATEWAY,
    "/popsigner.internal.v1.LoginService/GetProvider": _GATEWAY,
    "/popsigner.internal.v1.LoginService/CompleteLogin": _GATEWAY,
    "/popsigner.internal.v1.LoginService/RefreshSession": _GATEWAY,
    "/popsigner.internal.v1.LoginService/EndSession": _GATEWAY,
    "/popsigner.internal.v1.LoginService/StartDevice": _GATEWAY,
    "/popsigner.internal.v1.LoginService/GetDevice": _GATEWAY,
    "/popsigner.internal.v1.LoginService/DecideDevice": _GATEWAY,
    "/popsigner.internal.v1.LoginService/PollDevice": _GATEWAY,
    "/popsigner.internal.v1.LoginService/PreviewInvitation": _GATEWAY,
    "/popsigner.internal.v1.LoginService/GetVerificationKeys": _GATEWAY,
}
