"""Who may call what, as the contract and the product's documents say it. Written here once more, and never read from
the server's own table: two independent hands must agree."""

from collections.abc import Mapping

# The least that a caller needs: a scope, a role, to be a person, to have any valid credential, to be the gateway.
NEEDS: Mapping[str, str] = {
    "ApiKeyService/CreateApiKey": "role ADMIN",
    "ApiKeyService/ListApiKeys": "role ADMIN",
    "ApiKeyService/RotateApiKey": "role ADMIN",
    "ApiKeyService/RevokeApiKey": "role ADMIN",
    "AuditService/ListLogs": "scope api:audit:read",
    "AuditService/GetLog": "scope api:audit:read",
    "AuthService/Whoami": "anyone",
    "AuthService/ListSessions": "person",
    "AuthService/RevokeSession": "person",
    "AuthService/RevokeAllSessions": "person",
    "AuthService/ExportAccount": "person",
    "AuthService/DeleteAccount": "person",
    "BillingService/GetUsage": "scope api:billing:read",
    "KeyService/CreateKey": "scope api:keys:write",
    "KeyService/BatchCreateKeys": "scope api:keys:write",
    "KeyService/GetKey": "scope api:keys:read",
    "KeyService/ListKeys": "scope api:keys:read",
    "KeyService/UpdateKey": "scope api:keys:write",
    "KeyService/DeleteKey": "scope api:keys:write",
    "KeyService/UndeleteKey": "scope api:keys:write",
    "KeyService/EnableKey": "scope api:keys:write",
    "KeyService/DisableKey": "scope api:keys:write",
    "KeyService/RotateKey": "scope api:keys:write",
    "KeyService/ListKeyVersions": "scope api:keys:read",
    "NamespaceService/CreateNamespace": "scope api:keys:write",
    "NamespaceService/ListNamespaces": "scope api:keys:read",
    "NamespaceService/DeleteNamespace": "scope api:keys:write",
    "OrganizationService/GetOrganization": "role VIEWER",
    "OrganizationService/UpdateOrganization": "role ADMIN",
    "OrganizationService/DeleteOrganization": "role OWNER",
    "OrganizationService/RestoreOrganization": "role OWNER",
    "OrganizationService/CreateOrganization": "person",
    "OrganizationService/ListMembers": "role VIEWER",
    "OrganizationService/UpdateMember": "role ADMIN",
    # Everybody may leave; to remove another takes the role ADMIN, and the matrix removes another.
    "OrganizationService/RemoveMember": "role ADMIN",
    "OrganizationService/CreateInvitation": "role ADMIN",
    "OrganizationService/ListInvitations": "role ADMIN",
    "OrganizationService/RevokeInvitation": "role ADMIN",
    "OrganizationService/AcceptInvitation": "person",
    "OrganizationService/ConnectIdentityProvider": "role OWNER",
    "OrganizationService/ListIdentityProviders": "role ADMIN",
    "OrganizationService/DisconnectIdentityProvider": "role OWNER",
    "SignService/Sign": "scope api:keys:sign",
    "SignService/BatchSign": "scope api:keys:sign",
    "SignService/SignStream": "scope api:keys:sign",
    "SignService/Verify": "scope api:keys:read",
    "LoginService/ListProviders": "gateway",
    "LoginService/GetProvider": "gateway",
    "LoginService/CompleteLogin": "gateway",
    "LoginService/RefreshSession": "gateway",
    "LoginService/EndSession": "gateway",
    "LoginService/StartDevice": "gateway",
    "LoginService/GetDevice": "gateway",
    "LoginService/DecideDevice": "gateway",
    "LoginService/PollDevice": "gateway",
    "LoginService/PreviewInvitation": "gateway",
    "LoginService/GetVerificationKeys": "gateway",
}
ROLES = ("ROLE_UNSPECIFIED", "VIEWER", "OPERATOR", "ADMIN", "OWNER")
SCOPES = (
    "api:keys:read",
    "api:keys:write",
    "api:keys:sign",
    "api:keys:export",
    "api:audit:read",
    "api:billing:read",
    "api:billing:write",
)
# What a person may by their role: an API key has its scopes written down, and its role gives it none.
SCOPES_OF_PEOPLE: Mapping[str, frozenset[str]] = {
    "VIEWER": frozenset({"api:keys:read", "api:audit:read"}),
    "OPERATOR": frozenset({"api:keys:read", "api:audit:read", "api:keys:sign"}),
    "ADMIN": frozenset(SCOPES) - {"api:billing:write"},
    "OWNER": frozenset(SCOPES),
}
# Reasons of PERMISSION_DENIED that judge what is asked for, and not who asks.
OF_THE_REQUEST = {"OrganizationService/CreateOrganization": {"SIGN_UP_CLOSED"}}
