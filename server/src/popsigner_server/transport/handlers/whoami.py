"""AuthService.Whoami."""

from collections.abc import Sequence

from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.principals import Caller, Role
from popsigner_server.gen.popsigner.v1 import auth_pb2
from popsigner_server.keys.recovery import RecoverySettings
from popsigner_server.tenancy.belongings import Belonging, Belongings
from popsigner_server.transport import convert_people, convert_recovery
from popsigner_server.transport.interceptors.base import Call, Handler


def whoami(belongings: Belongings, recovery: RecoverySettings) -> Handler:
    async def handle(call: Call, request: auth_pb2.WhoamiRequest) -> auth_pb2.WhoamiResponse:
        person = call.known_person
        if person is None:
            principal = call.caller.principal
            name, belonging = await belongings.of_api_key(principal)
            answer = auth_pb2.WhoamiResponse(id=show(Prefix.API_KEY, principal.actor_id), name=name)
            return await announced(_filled(answer, call.caller, [belonging]), [belonging])
        answer = auth_pb2.WhoamiResponse(
            id=show(Prefix.USER, person.user_id),
            email=person.email,
            name=person.name,
            session_id=show(Prefix.SESSION, person.session_id),
        )
        found = await belongings.of_person(person)
        return await announced(_filled(answer, call.known_caller, found), found)

    async def announced(answer: auth_pb2.WhoamiResponse, found: Sequence[Belonging]) -> auth_pb2.WhoamiResponse:
        """With what waits in the organizations that the caller owns, whichever of them the call names."""
        owned = {each.organization.id: each.organization for each in found if each.role is Role.OWNER}
        if owned:
            waiting = await recovery.waiting(owned)
            answer.announcements.extend(
                convert_recovery.announcement(organization, waiting[organization_id])
                for organization_id, organization in owned.items()
                if organization_id in waiting
            )
        return answer

    return handle


def _filled(
    answer: auth_pb2.WhoamiResponse, caller: Caller | None, belongings: Sequence[Belonging]
) -> auth_pb2.WhoamiResponse:
    for belonging in belongings:
        membership = answer.memberships.add(role=convert_people.role_to_proto(belonging.role))
        membership.organization.CopyFrom(convert_people.organization_to_proto(belonging.organization))
        if caller is not None and belonging.organization.id == caller.principal.organization_id:
            answer.organization.CopyFrom(membership.organization)
    if caller is not None:
        answer.role = convert_people.role_to_proto(caller.principal.role)
        answer.scopes.extend(sorted(caller.principal.scopes))
    return answer
