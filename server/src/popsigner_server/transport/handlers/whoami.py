"""AuthService.Whoami."""

from collections.abc import Sequence

from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.principals import Caller
from popsigner_server.gen.popsigner.v1 import auth_pb2
from popsigner_server.tenancy.belongings import Belonging, Belongings
from popsigner_server.transport import convert_people
from popsigner_server.transport.interceptors.base import Call, Handler


def whoami(belongings: Belongings) -> Handler:
    async def handle(call: Call, request: auth_pb2.WhoamiRequest) -> auth_pb2.WhoamiResponse:
        person = call.known_person
        if person is None:
            principal = call.caller.principal
            name, belonging = await belongings.of_api_key(principal)
            answer = auth_pb2.WhoamiResponse(id=show(Prefix.API_KEY, principal.actor_id), name=name)
            return _filled(answer, call.caller, [belonging])
        answer = auth_pb2.WhoamiResponse(
            id=show(Prefix.USER, person.user_id),
            email=person.email,
            name=person.name,
            session_id=show(Prefix.SESSION, person.session_id),
        )
        return _filled(answer, call.known_caller, await belongings.of_person(person))

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
