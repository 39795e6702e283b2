"""What a new API key is limited to, and that no caller makes or renews one that is bound less than itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from popsigner_server import errors
from popsigner_server.domain.networks import Network, covers, parse_network
from popsigner_server.domain.principals import ActorKind, Bounds, Principal, Role, Scope

MAX_NETWORKS = 64
KEY_SCOPES = "api:keys:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """An API key to make."""

    name: str
    scopes: frozenset[Scope]
    role: Role
    expires_at: datetime | None
    bounds: Bounds


def networks_of(written: Sequence[str]) -> tuple[Network, ...]:
    """An allow-list as it was written, each network once. Raises InvalidField."""
    if len(written) > MAX_NETWORKS:
        raise errors.InvalidField("ip_allow_list", f"must be at most {MAX_NETWORKS}.")
    networks: dict[Network, None] = {}
    for place, text in enumerate(written):
        try:
            networks[parse_network(text)] = None
        except ValueError as error:
            raise errors.InvalidField(f"ip_allow_list[{place}]", str(error)) from error
    return tuple(networks)


def check_wish(wish: Wish) -> None:
    """The rules that hold for every API key. Raises InvalidField."""
    if not wish.scopes and wish.role is Role.UNSPECIFIED:
        raise errors.InvalidField("scopes", "give at least one scope, or a role.")
    if not wish.bounds.limits_keys:
        return
    # What a role or another scope opens (people, the audit trail, the bill) cannot be divided by keys.
    if wish.role is not Role.UNSPECIFIED:
        raise errors.InvalidField("role", "must be empty for a key that is limited to namespaces or keys.")
    if not all(scope.startswith(KEY_SCOPES) for scope in wish.scopes):
        raise errors.InvalidField(
            "scopes", f"must all begin with {KEY_SCOPES} for a key that is limited to namespaces or keys."
        )


def check_rights(principal: Principal, scopes: frozenset[Scope], role: Role) -> None:
    """Nobody hands out what they do not have. Raises ScopeMissing, RoleMissing."""
    for scope in sorted(scopes - principal.scopes):
        raise errors.ScopeMissing(scope)
    if role > principal.role:
        raise errors.RoleMissing(role.name)


def check_bound_as(
    principal: Principal, networks: Sequence[Network], expires_at: datetime | None, *, field: str = ""
) -> None:
    """An API key that is bound to addresses or to a time gives nothing away that is bound less: otherwise whoever
    steals it makes themselves one for everywhere and for ever. People are not bound; their sessions end by themselves.

    Raises InvalidField for `field`, or for the one of CreateApiKey's that is too wide.
    """
    if principal.actor_kind is not ActorKind.API_KEY:
        return
    mine = principal.bounds.networks
    if mine and not (networks and all(covers(mine, network) for network in networks)):
        raise errors.InvalidField(
            field or "ip_allow_list", "must lie within the networks that the caller's own API key is bound to."
        )
    if principal.expires_at is not None and (expires_at is None or expires_at > principal.expires_at):
        raise errors.InvalidField(
            field or "expires_at",
            f"must not be later than the end of the caller's own API key, {principal.expires_at:%Y-%m-%dT%H:%M:%SZ}.",
        )
