"""The one table of who may call what: RPC to the scope or the role that it needs."""

from dataclasses import dataclass

from popsigner_server.domain.principals import Role, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a caller needs: a scope, or a role. Exactly one."""

    scope: Scope | None = None
    role: Role | None = None


_READ = Need(scope=Scope.KEYS_READ)
_WRITE = Need(scope=Scope.KEYS_WRITE)
_SIGN = Need(scope=Scope.KEYS_SIGN)
_ADMIN = Need(role=Role.ADMIN)

ACCESS: dict[str, Need] = {
    "/popsigner.v1.KeyService/CreateKey": _WRITE,
    "/popsigner.v1.KeyService/BatchCreateKeys": _WRITE,
    "/popsigner.v1.KeyService/GetKey": _READ,
    "/popsigner.v1.KeyService/ListKeys": _READ,
    "/popsigner.v1.KeyService/UpdateKey": _WRITE,
    "/popsigner.v1.KeyService/DeleteKey": _WRITE,
    "/popsigner.v1.SignService/Sign": _SIGN,
    "/popsigner.v1.SignService/BatchSign": _SIGN,
    "/popsigner.v1.SignService/SignStream": _SIGN,
    "/popsigner.v1.SignService/Verify": _READ,
    "/popsigner.v1.NamespaceService/CreateNamespace": _WRITE,
    "/popsigner.v1.NamespaceService/ListNamespaces": _READ,
    "/popsigner.v1.NamespaceService/DeleteNamespace": _WRITE,
    "/popsigner.v1.ApiKeyService/CreateApiKey": _ADMIN,
    "/popsigner.v1.ApiKeyService/ListApiKeys": _ADMIN,
    "/popsigner.v1.ApiKeyService/RevokeApiKey": _ADMIN,
    "/popsigner.v1.AuditService/ListLogs": Need(scope=Scope.AUDIT_READ),
    "/popsigner.v1.AuditService/GetLog": Need(scope=Scope.AUDIT_READ),
    "/popsigner.v1.BillingService/GetUsage": Need(scope=Scope.BILLING_READ),
}
