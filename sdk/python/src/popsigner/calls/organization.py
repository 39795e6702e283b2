"""OrganizationService: the organization itself. Its people are in `people`, its log-in in `identity_providers`."""

from ..gen.popsigner.v1 import (
    CreateOrganizationRequest,
    CreateOrganizationResponse,
    DeleteOrganizationRequest,
    DeleteOrganizationResponse,
    GetOrganizationRequest,
    GetOrganizationResponse,
    Organization,
    RestoreOrganizationRequest,
    RestoreOrganizationResponse,
    UpdateOrganizationRequest,
    UpdateOrganizationResponse,
)
from . import Call, Repeat, Rpc, call, present

SERVICE = "/popsigner.v1.OrganizationService/"
GET = Rpc(SERVICE + "GetOrganization", GetOrganizationRequest, GetOrganizationResponse, Repeat.ALWAYS)
UPDATE = Rpc(SERVICE + "UpdateOrganization", UpdateOrganizationRequest, UpdateOrganizationResponse, Repeat.NEVER)
DELETE = Rpc(SERVICE + "DeleteOrganization", DeleteOrganizationRequest, DeleteOrganizationResponse, Repeat.NEVER)
RESTORE = Rpc(SERVICE + "RestoreOrganization", RestoreOrganizationRequest, RestoreOrganizationResponse, Repeat.NEVER)
CREATE = Rpc(SERVICE + "CreateOrganization", CreateOrganizationRequest, CreateOrganizationResponse, Repeat.NEVER)


def get(*, timeout: float | None = None) -> Call[Organization]:
    """The organization of the caller, or the one that the client names."""
    return call(GET, GetOrganizationRequest(), lambda answer: present(answer.organization), timeout)


def update(*, name: str, timeout: float | None = None) -> Call[Organization]:
    """Rename the organization. Raises InvalidField, OrganizationDeleted."""
    return call(UPDATE, UpdateOrganizationRequest(name=name), lambda answer: present(answer.organization), timeout)


def delete(*, name: str, timeout: float | None = None) -> Call[Organization]:
    """Delete the organization: nothing signs any more, and after 7 days its keys are destroyed and its data erased.

    `name` confirms it: the organization's name in full. Raises InvalidField, OrganizationDeleted.
    """
    return call(DELETE, DeleteOrganizationRequest(name=name), lambda answer: present(answer.organization), timeout)


def restore(*, timeout: float | None = None) -> Call[Organization]:
    """Take the deletion back, within its 7 days."""
    return call(RESTORE, RestoreOrganizationRequest(), lambda answer: present(answer.organization), timeout)


def create(*, name: str, timeout: float | None = None) -> Call[Organization]:
    """Found an organization on the free plan; the person who asks is its owner. Raises InvalidField, SignUpClosed,
    PersonRequired."""
    return call(CREATE, CreateOrganizationRequest(name=name), lambda answer: present(answer.organization), timeout)
