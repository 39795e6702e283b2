"""People as callers."""

from uuid import UUID

from popsigner_server.domain.principals import SCOPES_OF, ActorKind, Caller, Person, Principal, Role


def caller_of(person: Person, organization_id: UUID, *, role: Role, plan: str) -> Caller:
    """The person as a caller in an organization that the call has only just found."""
    principal = Principal(
        organization_id=organization_id,
        actor_id=person.user_id,
        actor_kind=ActorKind.USER,
        scopes=SCOPES_OF[role],
        role=role,
        expires_at=None,
        plan=plan,
        session_id=person.session_id,
    )
    return Caller(principal=principal, ip_address=person.ip_address, user_agent=person.user_agent)
