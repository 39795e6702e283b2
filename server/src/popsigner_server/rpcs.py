"""Which handler answers which RPC of the contract."""

from popsigner_server.rooms import Rooms
from popsigner_server.tenancy.belongings import Belongings
from popsigner_server.transport.handlers import (
    accept_invitation,
    batch_create_keys,
    batch_sign,
    cancel_recovery_change,
    create_api_key,
    create_invitation,
    create_key,
    create_namespace,
    create_organization,
    delete_account,
    delete_key,
    delete_namespace,
    delete_organization,
    disable_key,
    enable_key,
    export_account,
    export_key,
    get_key,
    get_log,
    get_organization,
    get_recovery,
    get_usage,
    get_wrapping_key,
    import_key,
    list_api_keys,
    list_invitations,
    list_key_versions,
    list_keys,
    list_logs,
    list_members,
    list_namespaces,
    list_recovery_copies,
    preview_invitation,
    remove_member,
    restore_organization,
    revoke_api_key,
    revoke_invitation,
    rotate_api_key,
    rotate_key,
    set_recovery_recipient,
    sign,
    sign_stream,
    undelete_key,
    update_key,
    update_member,
    update_organization,
    verify,
)
from popsigner_server.transport.interceptors.base import Handler
from popsigner_server.transport.people_handlers import people_handlers


def handlers_of(rooms: Rooms, environment: str) -> dict[str, Handler]:
    """The handler of every RPC of the contract."""
    return {
        "/popsigner.v1.KeyService/CreateKey": create_key.create_key(rooms.creation),
        "/popsigner.v1.KeyService/BatchCreateKeys": batch_create_keys.batch_create_keys(rooms.creation),
        "/popsigner.v1.KeyService/GetKey": get_key.get_key(rooms.catalogue),
        "/popsigner.v1.KeyService/ListKeys": list_keys.list_keys(rooms.catalogue),
        "/popsigner.v1.KeyService/UpdateKey": update_key.update_key(rooms.lifecycle),
        "/popsigner.v1.KeyService/DeleteKey": delete_key.delete_key(rooms.lifecycle),
        "/popsigner.v1.KeyService/UndeleteKey": undelete_key.undelete_key(rooms.lifecycle),
        "/popsigner.v1.KeyService/EnableKey": enable_key.enable_key(rooms.lifecycle),
        "/popsigner.v1.KeyService/DisableKey": disable_key.disable_key(rooms.lifecycle),
        "/popsigner.v1.KeyService/RotateKey": rotate_key.rotate_key(rooms.rotation),
        "/popsigner.v1.KeyService/ListKeyVersions": list_key_versions.list_key_versions(rooms.catalogue),
        "/popsigner.v1.KeyService/GetWrappingKey": get_wrapping_key.get_wrapping_key(rooms.wrapping_keys),
        "/popsigner.v1.KeyService/ImportKey": import_key.import_key(rooms.importing),
        "/popsigner.v1.KeyService/ExportKey": export_key.export_key(rooms.export),
        "/popsigner.v1.SignService/Sign": sign.sign(rooms.signer),
        "/popsigner.v1.SignService/BatchSign": batch_sign.batch_sign(rooms.signer),
        "/popsigner.v1.SignService/SignStream": sign_stream.sign_stream(rooms.signer),
        "/popsigner.v1.SignService/Verify": verify.verify(rooms.key_cache),
        "/popsigner.v1.NamespaceService/CreateNamespace": create_namespace.create_namespace(rooms.namespaces),
        "/popsigner.v1.NamespaceService/ListNamespaces": list_namespaces.list_namespaces(rooms.namespaces),
        "/popsigner.v1.NamespaceService/DeleteNamespace": delete_namespace.delete_namespace(rooms.namespaces),
        "/popsigner.v1.ApiKeyService/CreateApiKey": create_api_key.create_api_key(
            rooms.api_keys, rooms.namespaces, rooms.catalogue, environment
        ),
        "/popsigner.v1.ApiKeyService/ListApiKeys": list_api_keys.list_api_keys(rooms.api_keys, environment),
        "/popsigner.v1.ApiKeyService/RotateApiKey": rotate_api_key.rotate_api_key(rooms.api_keys, environment),
        "/popsigner.v1.ApiKeyService/RevokeApiKey": revoke_api_key.revoke_api_key(rooms.api_keys, environment),
        "/popsigner.v1.AuditService/ListLogs": list_logs.list_logs(rooms.ledger, rooms.catalogue),
        "/popsigner.v1.AuditService/GetLog": get_log.get_log(rooms.ledger),
        "/popsigner.v1.BillingService/GetUsage": get_usage.get_usage(rooms.usage),
        **handlers_of_recovery(rooms),
        **handlers_of_people(rooms),
        **people_handlers(rooms.reception, Belongings(rooms.database), rooms.recovery),
    }


def handlers_of_recovery(rooms: Rooms) -> dict[str, Handler]:
    """Those of the recovery kit."""
    of = "/popsigner.v1.RecoveryService"
    return {
        f"{of}/GetRecovery": get_recovery.get_recovery(rooms.recovery),
        f"{of}/SetRecoveryRecipient": set_recovery_recipient.set_recovery_recipient(rooms.recovery),
        f"{of}/CancelRecoveryChange": cancel_recovery_change.cancel_recovery_change(rooms.recovery),
        f"{of}/ListRecoveryCopies": list_recovery_copies.list_recovery_copies(rooms.copies),
    }


def handlers_of_people(rooms: Rooms) -> dict[str, Handler]:
    """Those of organizations and their people."""
    of = "/popsigner.v1.OrganizationService"
    return {
        f"{of}/GetOrganization": get_organization.get_organization(rooms.organizations),
        f"{of}/UpdateOrganization": update_organization.update_organization(rooms.organizations),
        f"{of}/DeleteOrganization": delete_organization.delete_organization(rooms.organizations),
        f"{of}/RestoreOrganization": restore_organization.restore_organization(rooms.organizations),
        f"{of}/CreateOrganization": create_organization.create_organization(rooms.organizations),
        f"{of}/ListMembers": list_members.list_members(rooms.members),
        f"{of}/UpdateMember": update_member.update_member(rooms.members),
        f"{of}/RemoveMember": remove_member.remove_member(rooms.members),
        f"{of}/CreateInvitation": create_invitation.create_invitation(rooms.invitations),
        f"{of}/ListInvitations": list_invitations.list_invitations(rooms.invitations),
        f"{of}/RevokeInvitation": revoke_invitation.revoke_invitation(rooms.invitations),
        f"{of}/AcceptInvitation": accept_invitation.accept_invitation(rooms.invitations),
        "/popsigner.v1.AuthService/ExportAccount": export_account.export_account(rooms.exports),
        "/popsigner.v1.AuthService/DeleteAccount": delete_account.delete_account(rooms.accounts),
        "/popsigner.internal.v1.LoginService/PreviewInvitation": preview_invitation.preview_invitation(
            rooms.invitations
        ),
    }
