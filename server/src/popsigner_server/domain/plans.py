"""Plans: what an organization may use (PRD 2.2.2)."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields

_NAME = re.compile(r"[a-z][a-z0-9-]{0,49}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan; None is no limit.

    `weight` is its share of the signing queue relative to others; with `priority` the first of its waiting signatures
    are always drawn before the others', not only after a quiet moment. `requests_per_second` is for the whole
    organization. `audit_retention_days` is how long audit rows are kept.
    """

    name: str
    weight: int = 1
    priority: bool = False
    keys: int | None = None
    signatures_per_month: int | None = None
    namespaces: int | None = None
    members: int | None = None
    audit_retention_days: int | None = None
    requests_per_second: int | None = None


# The plan of a POP's first organization, and of one that signs itself up.
SELF_HOSTED = "self-hosted"
FREE = "free"


class Plans:
    """The plan catalogue. It has at least the plans `free` and `self-hosted`."""

    def __init__(self, plans: Mapping[str, Plan]) -> None:
        self._plans = dict(plans)

    def of(self, name: str) -> Plan:
        """The plan of this name; `free` for one that the catalogue has no longer: its organizations go on with the
        smallest plan until the operator gives them another."""
        return self._plans.get(name) or self._plans[FREE]

    @property
    def names(self) -> list[str]:
        """Every plan, in the order of the catalogue."""
        return list(self._plans)


def read_plans(text: str) -> Plans:
    """Read a catalogue (TOML: a table a plan). Raises ValueError with a sentence that names the plan and the figure."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the plan catalogue is no TOML: {error}.") from error
    figures = {field.name for field in fields(Plan)} - {"name"}
    plans = {}
    for name, table in tables.items():
        if _NAME.fullmatch(name) is None or not isinstance(table, dict):
            raise ValueError(f"the plan catalogue holds {name!r}, which is no plan: [name] begins one.")
        for figure, value in table.items():
            if figure not in figures:
                raise ValueError(f"plan {name} has {figure}, which is none of {', '.join(sorted(figures))}.")
            if figure == "priority":
                if type(value) is not bool:
                    raise ValueError(f"plan {name}: priority must be true or false.")
                continue
            least = 1 if figure in ("weight", "requests_per_second", "audit_retention_days") else 0
            if type(value) is not int or value < least:
                raise ValueError(f"plan {name}: {figure} must be a whole number of at least {least}.")
        plans[name] = Plan(name=name, **table)
    for needed in (FREE, SELF_HOSTED):
        if needed not in plans:
            raise ValueError(f"the plan catalogue lacks the plan {needed}.")
    return Plans(plans)
