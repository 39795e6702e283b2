"""Who can reach the database at all: only storage/ opens connections, and the release gate its own."""

import ast
from pathlib import Path

import pytest

import popsigner_server

SOURCES = Path(popsigner_server.__file__).parent
# What opens a connection, or is one that has no role yet.
OPENERS = {
    "create_engine",
    "create_async_engine",
    "async_engine_from_config",
    "engine_from_config",
    "connect",
    "AsyncEngine",
    "Engine",
    "_engine",
    "raw_connection",
    "get_raw_connection",
    "AsyncSession",
    "sessionmaker",
    "async_sessionmaker",
}
# `vault` and `telemetry` connect to other things; they may not import a database's driver at all (below).
DRIVERS = {"psycopg", "asyncpg", "psycopg_pool"}
ALLOWED = {"storage/engine.py", "storage/migrate.py", "storage/notices.py", "ledger/line.py"}
ROOMS = sorted(
    path.relative_to(SOURCES).as_posix()
    for path in SOURCES.rglob("*.py")
    if "gen" not in path.parts and "versions" not in path.parts
)


def imports(tree: ast.AST) -> set[str]:
    """The top packages that a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def names(tree: ast.AST) -> set[str]:
    """Every name, attribute and import that a module spells."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add(node.name.rpartition(".")[2])
    return found


@pytest.mark.parametrize("module", [room for room in ROOMS if room not in ALLOWED])
def test_no_room_opens_a_connection_of_its_own(module: str) -> None:
    tree = ast.parse((SOURCES / module).read_text())

    assert not imports(tree) & DRIVERS
    if "sqlalchemy" in imports(tree) or "popsigner_server.storage" in (SOURCES / module).read_text():
        assert not names(tree) & OPENERS


def test_those_that_may_are_there() -> None:
    for module in ALLOWED:
        assert names(ast.parse((SOURCES / module).read_text())) & OPENERS, module
