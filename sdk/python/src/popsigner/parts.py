"""The parts of the two clients: which of them offers which call under which name."""

from .calls import api_keys, audit, auth, identity_providers, keys, namespaces, organization, people, recovery, transfer
from .carrier import AsyncCarrier, Carrier
from .endpoint import Endpoint
from .methods import (
    AsyncDownload,
    AsyncListing,
    AsyncMethod,
    AsyncPart,
    AsyncSequel,
    Download,
    Listing,
    Method,
    Part,
    Sequel,
)


class Keys(Part):
    """The catalogue of keys."""

    create = Method(keys.create)
    create_batch = Method(keys.create_batch)
    get = Method(keys.get)
    list = Listing(keys.page)
    update = Method(keys.update)
    delete = Method(keys.delete)
    undelete = Method(keys.undelete)
    enable = Method(keys.enable)
    disable = Method(keys.disable)
    rotate = Method(keys.rotate)
    versions = Method(keys.versions)
    wrapping_key = Method(transfer.wrapping_key)
    import_key = Sequel(transfer.import_key)
    import_wrapped = Method(transfer.import_wrapped)
    export = Method(transfer.export)
    export_private = Sequel(transfer.export_private)


class Namespaces(Part):
    """The organization's environments."""

    create = Method(namespaces.create)
    list = Listing(namespaces.page)
    delete = Method(namespaces.delete)


class ApiKeys(Part):
    """The API keys of the organization's programs."""

    create = Method(api_keys.create)
    list = Listing(api_keys.page)
    rotate = Method(api_keys.rotate)
    revoke = Method(api_keys.revoke)


class Audit(Part):
    """The organization's ledger."""

    list = Listing(audit.page)
    get = Method(audit.get)


class Organization(Part):
    """The organization itself."""

    get = Method(organization.get)
    update = Method(organization.update)
    delete = Method(organization.delete)
    restore = Method(organization.restore)
    create = Method(organization.create)


class Recovery(Part):
    """Sealed copies of every private key, for the day on which the POP is gone."""

    get = Method(recovery.get)
    set = Method(recovery.set_recipient)
    cancel = Method(recovery.cancel)
    copies = Listing(recovery.page)


class Members(Part):
    """The organization's people."""

    list = Listing(people.members)
    set_role = Method(people.set_role)
    remove = Method(people.remove)


class Invitations(Part):
    """Who may become one of them."""

    create = Method(people.invite)
    list = Listing(people.invitations)
    revoke = Method(people.revoke_invitation)
    accept = Method(people.accept_invitation)


class IdentityProviders(Part):
    """Where the organization's people log in."""

    connect = Method(identity_providers.connect)
    list = Method(identity_providers.providers)
    disconnect = Method(identity_providers.disconnect)


class Sessions(Part):
    """The log-ins of the person who asks."""

    list = Method(auth.sessions)
    revoke = Method(auth.revoke_session)
    revoke_all = Method(auth.revoke_all_sessions)


class Account(Part):
    """What the POP knows of the person who asks."""

    export = Download(auth.export_account)
    delete = Method(auth.delete_account)


class AsyncKeys(AsyncPart):
    """The catalogue of keys."""

    create = AsyncMethod(keys.create)
    create_batch = AsyncMethod(keys.create_batch)
    get = AsyncMethod(keys.get)
    list = AsyncListing(keys.page)
    update = AsyncMethod(keys.update)
    delete = AsyncMethod(keys.delete)
    undelete = AsyncMethod(keys.undelete)
    enable = AsyncMethod(keys.enable)
    disable = AsyncMethod(keys.disable)
    rotate = AsyncMethod(keys.rotate)
    versions = AsyncMethod(keys.versions)
    wrapping_key = AsyncMethod(transfer.wrapping_key)
    import_key = AsyncSequel(transfer.import_key)
    import_wrapped = AsyncMethod(transfer.import_wrapped)
    export = AsyncMethod(transfer.export)
    export_private = AsyncSequel(transfer.export_private)


class AsyncNamespaces(AsyncPart):
    """The organization's environments."""

    create = AsyncMethod(namespaces.create)
    list = AsyncListing(namespaces.page)
    delete = AsyncMethod(namespaces.delete)


class AsyncApiKeys(AsyncPart):
    """The API keys of the organization's programs."""

    create = AsyncMethod(api_keys.create)
    list = AsyncListing(api_keys.page)
    rotate = AsyncMethod(api_keys.rotate)
    revoke = AsyncMethod(api_keys.revoke)


class AsyncAudit(AsyncPart):
    """The organization's ledger."""

    list = AsyncListing(audit.page)
    get = AsyncMethod(audit.get)


class AsyncOrganization(AsyncPart):
    """The organization itself."""

    get = AsyncMethod(organization.get)
    update = AsyncMethod(organization.update)
    delete = AsyncMethod(organization.delete)
    restore = AsyncMethod(organization.restore)
    create = AsyncMethod(organization.create)


class AsyncRecovery(AsyncPart):
    """Sealed copies of every private key, for the day on which the POP is gone."""

    get = AsyncMethod(recovery.get)
    set = AsyncMethod(recovery.set_recipient)
    cancel = AsyncMethod(recovery.cancel)
    copies = AsyncListing(recovery.page)


class AsyncMembers(AsyncPart):
    """The organization's people."""

    list = AsyncListing(people.members)
    set_role = AsyncMethod(people.set_role)
    remove = AsyncMethod(people.remove)


class AsyncInvitations(AsyncPart):
    """Who may become one of them."""

    create = AsyncMethod(people.invite)
    list = AsyncListing(people.invitations)
    revoke = AsyncMethod(people.revoke_invitation)
    accept = AsyncMethod(people.accept_invitation)


class AsyncIdentityProviders(AsyncPart):
    """Where the organization's people log in."""

    connect = AsyncMethod(identity_providers.connect)
    list = AsyncMethod(identity_providers.providers)
    disconnect = AsyncMethod(identity_providers.disconnect)


class AsyncSessions(AsyncPart):
    """The log-ins of the person who asks."""

    list = AsyncMethod(auth.sessions)
    revoke = AsyncMethod(auth.revoke_session)
    revoke_all = AsyncMethod(auth.revoke_all_sessions)


class AsyncAccount(AsyncPart):
    """What the POP knows of the person who asks."""

    export = AsyncDownload(auth.export_account)
    delete = AsyncMethod(auth.delete_account)


class Whole(Part):
    """All parts together: what the client adds to is this."""

    def __init__(self, carrier: Carrier) -> None:
        super().__init__(carrier)
        self.keys = Keys(carrier)
        self.namespaces = Namespaces(carrier)
        self.api_keys = ApiKeys(carrier)
        self.audit = Audit(carrier)
        self.organization = Organization(carrier)
        self.recovery = Recovery(carrier)
        self.members = Members(carrier)
        self.invitations = Invitations(carrier)
        self.identity_providers = IdentityProviders(carrier)
        self.sessions = Sessions(carrier)
        self.account = Account(carrier)

    @property
    def endpoint(self) -> Endpoint:
        """Where the POP is."""
        return self._carrier.dealings.connection.endpoint

    usage = Method(audit.usage)
    whoami = Method(auth.whoami)


class AsyncWhole(AsyncPart):
    """All parts together: what the asynchronous client adds to is this."""

    def __init__(self, carrier: AsyncCarrier) -> None:
        super().__init__(carrier)
        self.keys = AsyncKeys(carrier)
        self.namespaces = AsyncNamespaces(carrier)
        self.api_keys = AsyncApiKeys(carrier)
        self.audit = AsyncAudit(carrier)
        self.organization = AsyncOrganization(carrier)
        self.recovery = AsyncRecovery(carrier)
        self.members = AsyncMembers(carrier)
        self.invitations = AsyncInvitations(carrier)
        self.identity_providers = AsyncIdentityProviders(carrier)
        self.sessions = AsyncSessions(carrier)
        self.account = AsyncAccount(carrier)

    @property
    def endpoint(self) -> Endpoint:
        """Where the POP is."""
        return self._carrier.dealings.connection.endpoint

    usage = AsyncMethod(audit.usage)
    whoami = AsyncMethod(auth.whoami)
