"""The handlers of log-ins, sessions and identity providers, by their RPCs."""

from popsigner_server.identity.reception import Reception
from popsigner_server.keys.recovery import RecoverySettings
from popsigner_server.tenancy.belongings import Belongings
from popsigner_server.transport.handlers import (
    complete_login,
    connect_identity_provider,
    decide_device,
    disconnect_identity_provider,
    end_session,
    get_device,
    get_provider,
    get_verification_keys,
    list_identity_providers,
    list_providers,
    list_sessions,
    poll_device,
    refresh_session,
    revoke_all_sessions,
    revoke_session,
    start_device,
    whoami,
)
from popsigner_server.transport.interceptors.base import Handler


def people_handlers(reception: Reception, belongings: Belongings, recovery: RecoverySettings) -> dict[str, Handler]:
    """Those that need nothing else of tenancy."""
    login = "/popsigner.internal.v1.LoginService"
    auth = "/popsigner.v1.AuthService"
    organization = "/popsigner.v1.OrganizationService"
    sessions, providers, devices = reception.sessions, reception.providers, reception.devices
    return {
        f"{login}/ListProviders": list_providers.list_providers(providers),
        f"{login}/GetProvider": get_provider.get_provider(providers),
        f"{login}/CompleteLogin": complete_login.complete_login(reception.logins),
        f"{login}/RefreshSession": refresh_session.refresh_session(sessions),
        f"{login}/EndSession": end_session.end_session(sessions),
        f"{login}/StartDevice": start_device.start_device(devices),
        f"{login}/GetDevice": get_device.get_device(devices),
        f"{login}/DecideDevice": decide_device.decide_device(devices, reception.visitors),
        f"{login}/PollDevice": poll_device.poll_device(devices),
        f"{login}/GetVerificationKeys": get_verification_keys.get_verification_keys(reception.tokens),
        f"{auth}/Whoami": whoami.whoami(belongings, recovery),
        f"{auth}/ListSessions": list_sessions.list_sessions(sessions),
        f"{auth}/RevokeSession": revoke_session.revoke_session(sessions),
        f"{auth}/RevokeAllSessions": revoke_all_sessions.revoke_all_sessions(sessions),
        f"{organization}/ConnectIdentityProvider": connect_identity_provider.connect_identity_provider(providers),
        f"{organization}/ListIdentityProviders": list_identity_providers.list_identity_providers(providers),
        f"{organization}/DisconnectIdentityProvider": disconnect_identity_provider.disconnect_identity_provider(
            providers
        ),
    }
