"""Plans: what an organization may use."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan. `weight` is its share of the signing queue relative to others; a quota of None is no limit."""

    name: str
    weight: int
    signatures_per_month: int | None
    keys: int | None


# Who runs a POP for themselves has no limits but the machine's.
SELF_HOSTED = Plan(name="self-hosted", weight=1, signatures_per_month=None, keys=None)
