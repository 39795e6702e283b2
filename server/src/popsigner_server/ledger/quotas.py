"""What a plan allows to exist: counted under the head of the organization, so exact however many processes create.

Signatures are counted by the release gate. Both tell the audit trail the same way: `quota.warning` at 80 %,
`quota.exceeded` at the first refusal, each once a calendar month (UTC).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Date, ScalarSelect, cast, func, select
from sqlalchemy.dialects.postgresql import insert

from popsigner_server import errors
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.plans import Plan, Plans
from popsigner_server.ledger.changes import Change, Notice
from popsigner_server.storage.tables import invitations, keys, namespaces, org_members, organizations, quota_notices

# A key counts from its reservation until it is destroyed: a deleted one can be restored.
UNCOUNTED = (KeyState.DESTROYED.value, KeyState.ABANDONED.value)
WARNING_PERCENT = 80

_month = cast(func.date_trunc("month", func.timezone("UTC", func.now())), Date)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """How a refusal names what is counted, and what makes room."""

    one: str
    many: str
    remedy: str


_WORDS: Mapping[str, _Words] = {
    "keys": _Words(one="key", many="keys", remedy="delete one with force (a deleted key counts until it is destroyed)"),
    "namespaces": _Words(one="namespace", many="namespaces", remedy="delete an empty one"),
    "members": _Words(
        one="member", many="members", remedy="remove one, or take back an invitation (an open one keeps its place)"
    ),
}


def allowed(plan: Plan, metric: str) -> int | None:
    """How many of `keys`, `namespaces` or `members` the plan allows; None for no limit."""
    return {"keys": plan.keys, "namespaces": plan.namespaces, "members": plan.members}[metric]


def existing(organization_id: UUID, metric: str, *, invited: bool = False) -> ScalarSelect[int]:
    """How many exist, as a subquery; with `invited` the people whose invitation is open count among the members."""
    if metric == "keys":
        found = select(func.count()).where(keys.c.org_id == organization_id, keys.c.state.not_in(UNCOUNTED))
    elif metric == "namespaces":
        found = select(func.count()).where(namespaces.c.org_id == organization_id)
    else:
        found = select(func.count()).where(org_members.c.org_id == organization_id)
    if not invited:
        return found.scalar_subquery()
    invitation = invitations.c
    waiting = select(func.count()).where(
        invitation.org_id == organization_id,
        invitation.accepted_at.is_(None),
        invitation.revoked_at.is_(None),
        invitation.expires_at > func.now(),
    )
    return select(found.scalar_subquery() + waiting.scalar_subquery()).scalar_subquery()


class Quotas:
    """Asks before something is made whether the plan has room for it."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans

    async def claim(self, change: Change, metric: str, *, adding: int = 1, invited: bool = False) -> None:
        """Call it inside the change, before the rows are inserted: `adding` more of `keys`, `namespaces` or `members`.

        An invitation claims a member with `invited`; accepting it claims a member without, for its place is its own.
        Raises QuotaExceeded; the ledger then writes `quota.exceeded` in a change of its own, for this one is undone.
        """
        organization_id = change.organization_id
        notice = quota_notices.c
        told = select(func.array_agg(notice.level)).where(
            notice.org_id == organization_id, notice.metric == metric, notice.period_start == _month
        )
        query = select(organizations.c.plan, told.scalar_subquery()).where(organizations.c.id == organization_id)
        name, levels = (await change.connection.execute(query)).one()
        plan = self._plans.of(name)
        limit = allowed(plan, metric)
        if limit is None:
            # Nothing is counted: under the head a million keys would hold back signatures for as long as that takes.
            return
        used = (
            await change.connection.execute(select(existing(organization_id, metric, invited=invited)))
        ).scalar_one()
        refused = used + adding > limit
        held = used if refused else used + adding
        notices = [
            Notice(level=level, metric=metric, used=held, quota=limit)
            for level, due in (("warning", held * 100 >= limit * WARNING_PERCENT), ("exceeded", refused))
            if due and level not in (levels or ())
        ]
        if refused:
            change.outliving += notices
            raise errors.QuotaExceeded(_sentence(plan, metric, limit, used), quota=metric)
        await tell(change, notices)


async def tell(change: Change, notices: Sequence[Notice]) -> None:
    """Write the audit rows of these notices, unless the month has them already."""
    for notice in notices:
        values = {"org_id": change.organization_id, "metric": notice.metric, "level": notice.level}
        query = insert(quota_notices).values(**values, period_start=_month).on_conflict_do_nothing()
        period = (await change.connection.execute(query.returning(quota_notices.c.period_start))).scalar()
        if period is not None:
            change.record(
                f"quota.{notice.level}",
                caller=None,
                resource_type="organization",
                resource_id=change.organization_id,
                metadata={
                    "metric": notice.metric,
                    "used": str(notice.used),
                    "quota": str(notice.quota),
                    "period": period.isoformat(),
                },
            )


def _sentence(plan: Plan, metric: str, limit: int, used: int) -> str:
    words = _WORDS[metric]
    counted = f"{limit} {words.one if limit == 1 else words.many}"
    return (
        f"The plan {plan.name} allows {counted}, and the organization has {used}; {words.remedy}, or ask the POP's "
        "operator for a larger plan."
    )
