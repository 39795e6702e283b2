"""What the contract's comments say about the values of fields, as JSON Schema; the server is what enforces it.

Keys are `Message.field`. The generator refuses a key that names no field, so that none of them outlives the contract.
"""

from typing import Any

Schema = dict[str, Any]

ID = "[0-9A-HJKMNP-TV-Z]{26}"
KEY_NAME: Schema = {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"}
# An empty string is an absent field in proto3.
NAMESPACE_OR_NONE: Schema = {"pattern": "^([a-z][a-z0-9-]{0,62})?$"}
ALGORITHM: Schema = {"enum": ["", "secp256k1"]}
ENCODING: Schema = {"enum": ["", "base64", "hex"]}
METADATA: Schema = {
    "maxProperties": 64,
    "propertyNames": {"minLength": 1, "maxLength": 63},
    "additionalProperties": {"type": "string", "maxLength": 256},
}
COMPRESSED: Schema = {"pattern": "^0[23][0-9a-f]{64}$", "examples": ["02" + "ab" * 32]}
SCOPES = ["keys:read", "keys:write", "keys:sign", "keys:export", "audit:read", "billing:read", "billing:write"]
SHORT: Schema = {"maxLength": 64}
PAGE: Schema = {"maximum": 1000}
TITLE: Schema = {"minLength": 1, "maxLength": 100}
SLUG: Schema = {"pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
EMAIL: Schema = {"minLength": 3, "maxLength": 254}
NETWORKS: Schema = {"maxItems": 64, "examples": [["203.0.113.0/24", "2001:db8::/32"]]}
API_KEY: Schema = {"pattern": f"^psk_(live|test)_{ID}_[0-9a-f]{{64}}$"}
# 1 MiB as hexadecimal characters with 0x, the longer of its two spellings.
DATA: Schema = {"maxLength": 2 * (1 << 20) + 2}

LIMITS: dict[str, Schema] = {
    "Key.id": {"pattern": f"^key_{ID}$"},
    "Key.name": KEY_NAME,
    "Key.public_key": COMPRESSED,
    "Key.eth_address": {"pattern": "^0x[0-9A-Fa-f]{40}$"},
    "Key.version": {"minimum": 1},
    "Key.min_version": {"minimum": 1},
    "KeyVersion.version": {"minimum": 1},
    "KeyVersion.public_key": COMPRESSED,
    "KeyVersion.eth_address": {"pattern": "^0x[0-9A-Fa-f]{40}$"},
    "ListKeyVersionsResponse.versions": {"maxItems": 64},
    "CreateKeyRequest.name": KEY_NAME,
    "CreateKeyRequest.namespace": NAMESPACE_OR_NONE,
    "CreateKeyRequest.algorithm": ALGORITHM,
    "CreateKeyRequest.metadata": METADATA,
    "KeyName.name": KEY_NAME,
    "KeyName.namespace": NAMESPACE_OR_NONE,
    "BatchCreateKeysRequest.keys": {"maxItems": 256},
    "BatchCreateKeysRequest.count": {"maximum": 256},
    "BatchCreateKeysRequest.namespace": NAMESPACE_OR_NONE,
    "BatchCreateKeysRequest.algorithm": ALGORITHM,
    "BatchCreateKeysRequest.metadata": METADATA,
    "ListKeysRequest.page_size": PAGE,
    "ListKeysRequest.labels": {"maxItems": 8},
    "UpdateKeyRequest.name": KEY_NAME,
    "UpdateKeyRequest.metadata": METADATA,
    "UpdateKeyRequest.min_version": {"maximum": 64},
    "RotateKeyRequest.expected_version": {"maximum": 64},
    "GetWrappingKeyResponse.id": {"pattern": "^[0-9a-f]{64}$"},
    "ImportKeyRequest.name": KEY_NAME,
    "ImportKeyRequest.namespace": NAMESPACE_OR_NONE,
    "ImportKeyRequest.algorithm": ALGORITHM,
    "ImportKeyRequest.metadata": METADATA,
    "ImportKeyRequest.ciphertext": {"minLength": 1, "maxLength": 5464},
    "ImportKeyRequest.wrapping_key_id": {"pattern": "^([0-9a-f]{64})?$"},
    "ExportKeyRequest.recipient": {"minLength": 1, "maxLength": 4096},
    "ExportKeyRequest.versions": {"maxItems": 64},
    "ExportedVersion.version": {"minimum": 1},
    "ExportedVersion.public_key": COMPRESSED,
    "SetRecoveryRecipientRequest.recipient": {"pattern": "^(age1[02-9ac-hj-np-z]{58})?$"},
    "ListRecoveryCopiesRequest.page_size": {"maximum": 100},
    "RecoveryVersion.public_key": COMPRESSED,
    "SignRequest.data": DATA,
    "SignRequest.encoding": ENCODING,
    "SignRequest.sign_mode": SHORT,
    "SignRequest.request_id": SHORT,
    "SignItem.data": DATA,
    "SignItem.sign_mode": SHORT,
    "SignItem.request_id": SHORT,
    "SignResponse.public_key": COMPRESSED,
    "BatchSignRequest.requests": {"minItems": 1, "maxItems": 256},
    "BatchSignRequest.encoding": ENCODING,
    "BatchSignRequest.sign_mode": SHORT,
    "VerifyRequest.public_key": {"pattern": "^(0[23][0-9A-Fa-f]{64}|04[0-9A-Fa-f]{128})?$"},
    "VerifyRequest.data": DATA,
    "VerifyRequest.encoding": ENCODING,
    "Namespace.id": {"pattern": f"^ns_{ID}$"},
    "CreateNamespaceRequest.name": {"pattern": "^[a-z][a-z0-9-]{0,62}$"},
    "CreateNamespaceRequest.address_prefix": {"pattern": "^([a-z][a-z0-9]{0,82})?$"},
    "ListNamespacesRequest.page_size": PAGE,
    "ApiKey.id": {"pattern": f"^ak_{ID}$"},
    "CreateApiKeyRequest.name": TITLE,
    "CreateApiKeyRequest.ip_allow_list": NETWORKS,
    "CreateApiKeyRequest.namespaces": {"maxItems": 64},
    "CreateApiKeyRequest.keys": {"maxItems": 256},
    "CreateApiKeyRequest.scopes": {"items": {"type": "string", "enum": [f"api:{scope}" for scope in SCOPES]}},
    "CreateApiKeyResponse.key": API_KEY,
    "RotateApiKeyRequest.overlap_seconds": {"maximum": 2_592_000},
    "RotateApiKeyResponse.key": API_KEY,
    "ListApiKeysRequest.page_size": PAGE,
    "AuditLog.id": {"pattern": f"^log_{ID}$"},
    "ListLogsRequest.page_size": PAGE,
    "Organization.id": {"pattern": f"^org_{ID}$"},
    "Organization.name": TITLE,
    "Organization.slug": SLUG,
    "CreateOrganizationRequest.name": TITLE,
    "UpdateOrganizationRequest.name": TITLE,
    "Member.user_id": {"pattern": f"^user_{ID}$"},
    "ListMembersRequest.page_size": PAGE,
    "Invitation.id": {"pattern": f"^inv_{ID}$"},
    "CreateInvitationRequest.email": EMAIL,
    "ListInvitationsRequest.page_size": PAGE,
    "IdentityProvider.id": {"pattern": f"^idp_{ID}$"},
    "ConnectIdentityProviderRequest.name": {"maxLength": 100},
    "ConnectIdentityProviderRequest.client_id": {"minLength": 1, "maxLength": 255},
    "ConnectIdentityProviderRequest.client_secret": {"maxLength": 1024},
    "Session.id": {"pattern": f"^sess_{ID}$"},
    "GetUsageRequest.month": {"pattern": "^([0-9]{4}-(0[1-9]|1[0-2]))?$", "examples": ["2026-01"]},
}

# The fields of requests without which they are refused; proto3 itself knows none.
REQUIRED = frozenset(
    {
        "CreateKeyRequest.name",
        "KeyName.name",
        "SignItem.key_id",
        "BatchSignRequest.requests",
        "VerifyRequest.signature",
        "CreateNamespaceRequest.name",
        "CreateApiKeyRequest.name",
        "CreateInvitationRequest.email",
        "CreateInvitationRequest.role",
        "CreateOrganizationRequest.name",
        "UpdateOrganizationRequest.name",
        "UpdateMemberRequest.role",
        "AcceptInvitationRequest.token",
        "ConnectIdentityProviderRequest.client_id",
    }
)
