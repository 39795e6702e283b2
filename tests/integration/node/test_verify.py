"""The comparison that ends a restore, on a POP whose vault is then changed behind its database's back."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from uuid import UUID

import psycopg
import pytest

from popsigner_node.bao_session import Session
from popsigner_node.errors import NodeError
from popsigner_node.manifest import Manifest
from popsigner_node.policies import MOUNT, SERVER_ROLE
from popsigner_node.verify import verify
from popsigner_server.domain.ids import Prefix, parse
from tests.integration.node.backups import Keeper, backup, opened, stores
from tests.integration.node.test_life import call
from tests.support.pop import Pop


@dataclass(frozen=True, kw_only=True)
class Twins:
    """A vault and a database, and what a backup says of them. keys: their names in the vault."""

    database: psycopg.Connection
    vault: Session
    manifest: Manifest
    keys: list[str]

    def verify(self, manifest: Manifest | None = None) -> None:
        try:
            verify(self.database, self.vault, manifest or self.manifest)
        finally:
            self.database.rollback()

    def destroy(self, name: str) -> None:
        self.vault.call("POST", f"{MOUNT}/keys/{name}/config", {"deletion_allowed": True})
        assert self.vault.call("DELETE", f"{MOUNT}/keys/{name}")[0] == 204


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    home = tmp_path_factory.mktemp("twins")
    keeper = Keeper(home)
    with Pop.started() as pop:
        shown = [call(pop, "/v1/keys", {"name": f"key-{number}"})["id"] for number in range(4)]
        call(pop, f"/v1/keys/{shown[0]}/rotate", {})
        assert backup(pop, home / "pop.age", keeper).returncode == 0
        manifest, _ = opened(home / "pop.age", keeper, home / "opened")
        parts = stores(pop)
        with psycopg.connect(parts.cluster.superuser_url()) as database, parts.vault.session(SERVER_ROLE) as vault:
            keys = [parse(Prefix.KEY, key).hex for key in shown]
            yield Twins(database=database, vault=vault, manifest=manifest, keys=keys)


def test_what_was_not_changed_fits(twins: Twins) -> None:
    twins.verify()


def test_a_rotation_that_had_not_ended_fits(twins: Twins) -> None:
    assert twins.vault.call("POST", f"{MOUNT}/keys/{twins.keys[1]}/rotate", {"to_version": 2})[0] == 200
    twins.verify()


def test_another_ledger_does_not_fit(twins: Twins) -> None:
    ((organization, head),) = twins.manifest.ledger.items()
    for other in ({}, {organization: replace(head, size=head.size + 1)}, {organization: replace(head, rows=1)}):
        with pytest.raises(NodeError, match="ledgers are not those"):
            twins.verify(replace(twins.manifest, ledger=other))


def test_other_keys_do_not_fit(twins: Twins) -> None:
    with pytest.raises(NodeError, match="keys in the database are not those"):
        twins.verify(replace(twins.manifest, catalogue="0" * 64))


def test_a_key_that_only_the_vault_knows_does_not_fit(twins: Twins) -> None:
    stranger = UUID(int=7).hex
    assert twins.vault.call("POST", f"{MOUNT}/keys/{stranger}", {})[0] == 200
    with pytest.raises(NodeError, match="holds 1 keys that the database does not know"):
        twins.verify()
    # Nothing that the backup does not name is destroyed.
    assert twins.vault.call("GET", f"{MOUNT}/keys/{stranger}")[0] == 200
    twins.verify(replace(twins.manifest, made_meanwhile=(stranger, UUID(int=8).hex)))
    assert twins.vault.call("GET", f"{MOUNT}/keys/{stranger}")[0] == 404


def test_a_key_of_the_database_is_never_taken_for_one_that_was_begun_meanwhile(twins: Twins) -> None:
    twins.verify(replace(twins.manifest, made_meanwhile=tuple(twins.keys)))
    assert twins.vault.call("GET", f"{MOUNT}/keys/{twins.keys[0]}")[0] == 200


def test_a_key_that_only_the_database_knows_does_not_fit(twins: Twins) -> None:
    twins.destroy(twins.keys[2])
    with pytest.raises(NodeError, match=f"does not hold the key {twins.keys[2]}"):
        twins.verify()
    assert twins.vault.call("POST", f"{MOUNT}/keys/{twins.keys[2]}", {})[0] == 200
    with pytest.raises(NodeError, match=f"does not hold all versions of the key {twins.keys[2]}"):
        twins.verify()
