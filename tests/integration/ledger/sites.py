"""Organizations as they can be, written into a database in which one edition of the release gate decides."""

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import psycopg

SIGNATURE = (
    "uuid[], uuid[], uuid[], int[], text[], text[], uuid[], int[], int[], int[], int[], bytea, text[], text[], boolean"
)
WRITTEN = {
    "audit_logs": "org_id, seq, event, actor_type, actor_id, resource_type, resource_id, key_version, digest, hash,"
    " sign_mode, request_id, ip_address, user_agent, metadata",
    "ledger_heads": "org_id, size, signature_quota, closed_at",
    "usage_metrics": "org_id, metric, period_start, period_end, value",
    "sign_requests": "org_id, request_id, key_id, key_version, digest",
    "quota_notices": "org_id, metric, period_start, level",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """Of an organization; times are hours from now."""

    id: UUID
    revoked: bool
    expires: int | None
    generation: int
    previous: int | None
    # Which of its secrets is shown.
    shown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A person with a session; of no role, a stranger."""

    user: UUID
    session: UUID
    role: int | None
    ended: bool
    expires: int
    # The session that is shown is another person's.
    mixed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    id: UUID
    state: int
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    id: UUID
    size: int
    quota: int | None
    used: int | None
    closed: bool
    held: bool
    callers: list[ApiKey | Member]
    keys: list[Key]


class Site:
    """One database, in which one edition decides."""

    def __init__(self, url: str, edition: int) -> None:
        self._url = url
        self._edition = edition
        self._owner = psycopg.connect(url, autocommit=True)
        self._gate = psycopg.connect(url, autocommit=True, options="-c timezone=UTC -c role=popsigner_gate")

    def close(self) -> None:
        self._owner.close()
        self._gate.close()

    def found(self, there: Organization, now: datetime) -> None:
        def at(hours: int | None) -> datetime | None:
            return None if hours is None else now + timedelta(hours=hours)

        run = self._owner.execute
        space = uuid4()
        run("INSERT INTO organizations (id, name, slug, plan) VALUES (%s, 'o', %s, 'free')", (there.id, there.id.hex))
        run(
            "INSERT INTO ledger_heads (org_id, size, signature_quota, closed_at) VALUES (%s, %s, %s, %s)",
            (there.id, there.size, there.quota, now if there.closed else None),
        )
        if there.used is not None:
            run(
                "INSERT INTO usage_metrics SELECT %s, 'signatures', m, m + interval '1 month', %s"
                " FROM date_trunc('month', now() AT TIME ZONE 'UTC') m",
                (there.id, there.used),
            )
        run("INSERT INTO namespaces (id, org_id, name, address_prefix) VALUES (%s, %s, 'n', 'a')", (space, there.id))
        for key in there.keys:
            run(
                "INSERT INTO keys (id, org_id, namespace_id, name, algorithm, state, min_version, current_version,"
                " exportable) VALUES (%s, %s, %s, %s, 'secp256k1', %s, %s, %s, false)",
                (key.id, there.id, space, key.id.hex, key.state, key.low, key.high),
            )
        for caller in there.callers:
            if isinstance(caller, ApiKey):
                run(
                    "INSERT INTO api_keys (id, org_id, name, key_hash, scopes, role, revoked_at, expires_at,"
                    " generation, previous_expires_at) VALUES (%s, %s, 'k', '-', '{}', 4, %s, %s, %s, %s)",
                    (caller.id, there.id, now if caller.revoked else None, at(caller.expires), caller.generation,
                     at(caller.previous)),
                )  # fmt: skip
                continue
            run(
                "INSERT INTO identity_providers (id, kind, name, issuer, client_id) VALUES (%s, 'oidc', 'p', %s, 'c')",
                (caller.user, caller.user.hex),
            )
            people = [caller.user, uuid4()] if caller.mixed else [caller.user]
            for user in people:
                run(
                    "INSERT INTO users (id, provider_id, subject, email, name) VALUES (%s, %s, %s, 'e', 'n')",
                    (user, caller.user, user.hex),
                )
            run(
                "INSERT INTO sessions (id, user_id, origin, expires_at, ended_at) VALUES (%s, %s, 'browser', %s, %s)",
                (caller.session, people[-1], at(caller.expires), now if caller.ended else None),
            )
            if caller.role is not None:
                run(
                    "INSERT INTO org_members (org_id, user_id, role) VALUES (%s, %s, %s)",
                    (there.id, caller.user, caller.role),
                )

    def decide(self, offer: tuple[object, ...], *, held: list[UUID], later: bool) -> tuple[object, ...]:
        """What the gate answers while somebody else has the heads of `held`."""
        if later:
            self._owner.execute("UPDATE sign_requests SET created_at = created_at - interval '25 hours'")
        places = ", ".join(f"%s::{kind}" for kind in SIGNATURE.split(", "))
        with ExitStack() as stack:
            if held:
                other = stack.enter_context(psycopg.connect(self._url))
                other.execute("SELECT FROM ledger_heads WHERE org_id = ANY (%s) FOR UPDATE", (held,))
            answer = self._gate.execute(
                f"SELECT * FROM popsigner_release_{self._edition}({places})",
                offer,
            ).fetchone()
        assert answer is not None
        return answer

    def written(self, organization_ids: list[UUID]) -> dict[str, list[tuple[object, ...]]]:
        return {
            table: self._owner.execute(
                f"SELECT {columns} FROM {table} WHERE org_id = ANY (%s) ORDER BY {columns}", (organization_ids,)
            ).fetchall()
            for table, columns in WRITTEN.items()
        }

    def ids(self) -> tuple[int, int, int]:
        """Audit rows, their distinct ids, and how many of them are UUIDv7."""
        found = self._owner.execute(
            "SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE substring(id::text FROM 15 FOR 1) = '7')"
            " FROM audit_logs"
        ).fetchone()
        assert found is not None
        return found
