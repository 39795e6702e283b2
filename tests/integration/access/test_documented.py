"""docs/access.md beside the code: its tables are those that the access matrix and the database are held to."""

from pathlib import Path

from tests.integration.access.calls import INTERNAL
from tests.integration.access.expected import NEEDS, ROLES, SCOPES, SCOPES_OF_PEOPLE
from tests.integration.isolation.test_privileges import PRIVILEGES

PAGE = Path(__file__).parents[3] / "docs" / "access.md"
PEOPLE = ROLES[1:]


def tables() -> dict[str, list[list[str]]]:
    """The page's tables by their first heading cell, as rows of cells."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in PAGE.read_text().splitlines():
        if not line.startswith("|"):
            heading = ""
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not heading:
            heading = cells[0]
            found[heading] = []
        elif not cells[0].startswith("---"):
            found[heading].append(cells)
    return found


def may(role: str, needs: str) -> bool:
    if " and " in needs:
        return all(may(role, need) for need in needs.split(" and "))
    kind, _, least = needs.partition(" ")
    if kind == "scope":
        return least in SCOPES_OF_PEOPLE[role]
    return kind in ("person", "anyone") or (kind == "role" and PEOPLE.index(role) >= PEOPLE.index(least))


def shown(needs: str) -> str:
    if " and " in needs:
        return " and ".join(map(shown, needs.split(" and ")))
    kind, _, least = needs.partition(" ")
    return {"scope": f"`{least}`", "role": f"role {least}", "person": "a person", "anyone": "any credential"}[kind]


def test_the_table_of_rpcs_is_the_matrix() -> None:
    expected = [
        [f"`{rpc}`", shown(needs), *("yes" if may(role, needs) else "" for role in PEOPLE)]
        for rpc, needs in NEEDS.items()
        if rpc not in INTERNAL
    ]

    assert tables()["RPC"] == expected


def test_the_table_of_scopes_is_the_matrix() -> None:
    expected = [
        [f"`{scope}`", *("yes" if scope in SCOPES_OF_PEOPLE[role] else "" for role in PEOPLE)] for scope in SCOPES
    ]

    assert tables()["Scope"] == expected


def test_the_table_of_database_roles_names_each() -> None:
    assert {row[0].strip("`") for row in tables()["Database role"]} == PRIVILEGES.keys()
