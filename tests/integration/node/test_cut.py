"""The moment of the database and the vault's snapshot, with what can happen between the two."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from popsigner_node import cut as cut_module
from popsigner_node.catalogue import State, ledgers
from popsigner_node.cut import ATTEMPTS, cut
from popsigner_node.errors import NodeError
from popsigner_node.openbao import OpenBao
from popsigner_server.domain.keys import KeyState

VAULT = OpenBao(folder=Path("/nowhere"), socket=Path("/nowhere/s"), api_port=1, cluster_port=2)


@pytest.fixture
def tables(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection
        connection.execute("TRUNCATE organizations CASCADE")


@pytest.fixture
def organization(tables: psycopg.Connection) -> UUID:
    organization = uuid4()
    tables.execute(
        "INSERT INTO organizations (id, name, slug, plan) VALUES (%s, 'o', %s, 'self-hosted')",
        [organization, organization.hex],
    )
    tables.execute(
        "INSERT INTO namespaces (id, org_id, name, address_prefix) VALUES (%s, %s, 'n', 'celestia')",
        [organization, organization],
    )
    tables.execute("INSERT INTO ledger_heads (org_id) VALUES (%s)", [organization])
    return organization


def new_key(tables: psycopg.Connection, organization: UUID, state: State = State.ENABLED) -> UUID:
    key = uuid4()
    tables.execute(
        "INSERT INTO keys (id, org_id, namespace_id, name, algorithm, state, exportable)"
        " VALUES (%s, %s, %s, %s, 'secp256k1', %s, false)",
        [key, organization, organization, key.hex, state],
    )
    return key


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], list[int]]:
    """Has something happen during each snapshot of the vault; the answer's length counts the snapshots."""

    def install(happens: Callable[[], Any]) -> list[int]:
        taken: list[int] = []

        def snapshot(vault: OpenBao, into: Path) -> None:
            taken.append(1)
            happens()

        monkeypatch.setattr(cut_module, "take_snapshot", snapshot)
        return taken

    return install


During = Callable[[Callable[[], Any]], list[int]]


def test_the_states_are_the_servers() -> None:
    assert {state.name: state.value for state in State} == {state.name: state.value for state in KeyState}


@pytest.mark.parametrize(
    "destruction",
    [
        "UPDATE keys SET destruction_began_at = now() WHERE id = %(key)s",
        "UPDATE keys SET state = 4 WHERE id = %(key)s",
        "DELETE FROM keys WHERE id = %(key)s",
        "UPDATE organizations SET erased_at = now() WHERE id = %(organization)s",
    ],
    ids=["marked", "destroyed", "gone", "organization erased"],
)
def test_a_key_that_is_destroyed_meanwhile_makes_it_begin_again(
    database: str, tables: psycopg.Connection, organization: UUID, during: During, tmp_path: Path, destruction: str
) -> None:
    doomed, other = new_key(tables, organization), new_key(tables, organization)
    keys = iter([doomed])

    def destroy_once() -> None:
        if key := next(keys, None):
            tables.execute(destruction, {"key": key, "organization": organization})

    taken = during(destroy_once)
    with cut(database, VAULT, into=tmp_path / "s") as found:
        assert (found.attempts, len(taken)) == (2, 2)
        rows = found.connection.execute("SELECT id FROM keys WHERE state = 1").fetchall()
        assert (other,) in rows


def test_it_gives_up_while_keys_are_destroyed_without_end(
    database: str, tables: psycopg.Connection, organization: UUID, during: During, tmp_path: Path
) -> None:
    doomed = iter([new_key(tables, organization) for _ in range(ATTEMPTS + 1)])
    taken = during(lambda: tables.execute("UPDATE keys SET destruction_began_at = now() WHERE id = %s", [next(doomed)]))
    with pytest.raises(NodeError, match="being destroyed"), cut(database, VAULT, into=tmp_path / "s"):
        pass
    assert len(taken) == ATTEMPTS


@pytest.mark.parametrize("state", [State.CREATING, State.ABANDONED, State.DESTROYED])
def test_what_the_vault_need_not_have_may_change(
    database: str, tables: psycopg.Connection, organization: UUID, during: During, tmp_path: Path, state: State
) -> None:
    key = new_key(tables, organization, state)
    during(lambda: tables.execute("DELETE FROM keys WHERE id = %s", [key]))
    with cut(database, VAULT, into=tmp_path / "s") as found:
        assert found.attempts == 1


def test_keys_that_are_begun_meanwhile_are_named_and_not_in_the_moment(
    database: str, tables: psycopg.Connection, organization: UUID, during: During, tmp_path: Path
) -> None:
    before = new_key(tables, organization)
    made: list[UUID] = []
    during(lambda: made.append(new_key(tables, organization, State.CREATING)))
    with cut(database, VAULT, into=tmp_path / "s") as found:
        assert found.made_meanwhile == (made[0].hex,)
        assert found.connection.execute("SELECT id FROM keys").fetchall() == [(before,)]


def test_nobody_waits_for_it(
    database: str, tables: psycopg.Connection, organization: UUID, during: During, tmp_path: Path
) -> None:
    """A change of a key goes through while the moment is held, from its first statement to the dump."""
    key = new_key(tables, organization)
    tables.execute("SET lock_timeout = '1s'")
    rename = "UPDATE keys SET name = %s WHERE id = %s"
    during(lambda: tables.execute(rename, ["while the vault is asked", key]))
    with cut(database, VAULT, into=tmp_path / "s") as found:
        tables.execute(rename, ["while it is dumped", key])
        assert found.connection.execute("SELECT name FROM keys").fetchall() == [(key.hex,)]


@pytest.mark.parametrize(
    ("size", "numbers", "fits"),
    [
        (3, [1, 2, 3], True),
        (3, [2, 3], True),
        (0, [], True),
        (5, [], True),
        (3, [1, 3], False),
        (4, [1, 2, 3], False),
        (2, [1, 2, 3], False),
    ],
)
def test_a_ledger_has_no_gap_and_ends_at_its_head(
    tables: psycopg.Connection, organization: UUID, size: int, numbers: list[int], fits: bool
) -> None:
    tables.execute("UPDATE ledger_heads SET size = %s WHERE org_id = %s", [size, organization])
    for number in numbers:
        tables.execute(
            "INSERT INTO audit_logs (org_id, seq, id, event, actor_type) VALUES (%s, %s, %s, 'e', 'system')",
            [organization, number, uuid4()],
        )
    found = ledgers(tables)
    assert (found.broken == ()) is fits
    assert found.heads[str(organization)].size == size
    assert found.heads[str(organization)].rows == len(numbers)
