from dataclasses import replace
from uuid import UUID

from popsigner_server.domain.principals import ActorKind, Caller, Principal, Role, Scope
from popsigner_server.gen.popsigner.v1 import api_key_pb2

PRINCIPAL = Principal(
    organization_id=UUID(int=1),
    actor_id=UUID(int=2),
    actor_kind=ActorKind.API_KEY,
    plan="self-hosted",
    scopes=frozenset({Scope.KEYS_SIGN}),
    role=Role.UNSPECIFIED,
    expires_at=None,
)


def test_a_higher_role_is_greater() -> None:
    assert Role.UNSPECIFIED < Role.VIEWER < Role.OPERATOR < Role.ADMIN < Role.OWNER


def test_the_roles_are_the_contracts() -> None:
    assert {role.name: role.value for role in Role} == {
        name.removeprefix("ROLE_"): value for name, value in api_key_pb2.Role.items()
    }


def test_the_scopes_are_those_that_the_contract_names() -> None:
    assert sorted(Scope) == [
        "api:audit:read",
        "api:billing:read",
        "api:billing:write",
        "api:keys:export",
        "api:keys:read",
        "api:keys:sign",
        "api:keys:write",
    ]


def test_callers_group_by_who_calls_from_where() -> None:
    caller = Caller(principal=PRINCIPAL, ip_address="127.0.0.1", user_agent=None)
    same = Caller(principal=replace(PRINCIPAL), ip_address="127.0.0.1", user_agent=None)
    elsewhere = replace(caller, ip_address="127.0.0.2")
    other = replace(caller, principal=replace(PRINCIPAL, actor_id=UUID(int=3)))
    assert len({caller, same, elsewhere, other}) == 3


def test_principals_with_other_rights_differ_though_they_hash_alike() -> None:
    narrowed = replace(PRINCIPAL, scopes=frozenset())
    assert hash(narrowed) == hash(PRINCIPAL)
    assert narrowed != PRINCIPAL
