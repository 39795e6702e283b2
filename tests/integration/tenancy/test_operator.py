"""What the operator's commands print, and what they leave in the database."""

import json
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from typer.testing import CliRunner

from popsigner_server.__main__ import app
from popsigner_server.domain.ids import Prefix, parse
from popsigner_server.identity import parse_api_key
from popsigner_server.identity.hashing import check_of, verify_secret
from popsigner_server.storage.migrate import migrate
from tests.integration.tenancy.house import unique
from tests.support.postgres import PostgresServer


class Console:
    """Runs a command with the settings of one database."""

    def __init__(self, database: str) -> None:
        self._database = database

    def run(self, *arguments: str) -> list[dict[str, Any]]:
        """The lines that it printed."""
        result = CliRunner().invoke(app, arguments, env={"POPSIGNER_DATABASE_URL": self._database})
        if result.exception is not None:
            raise result.exception
        return [json.loads(line) for line in result.stdout.splitlines()]

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self._database, row_factory=dict_row) as connection:
            return connection.execute(query, values).fetchall()

    def organization(self, answer: dict[str, Any]) -> dict[str, Any]:
        (row,) = self.rows(
            "SELECT * FROM organizations WHERE id = %s", parse(Prefix.ORGANIZATION, answer["organization"])
        )
        return row

    def events(self, organization_id: object) -> list[tuple[str, str]]:
        rows = self.rows("SELECT event, actor_type FROM audit_logs WHERE org_id = %s ORDER BY seq", organization_id)
        return [(row["event"], row["actor_type"]) for row in rows]

    def assert_owner(self, answer: dict[str, Any]) -> None:
        """The printed key is an owner's of that organization, and only a hash of it is kept."""
        presented = parse_api_key(answer["api_key"])
        (row,) = self.rows("SELECT * FROM api_keys WHERE id = %s", presented.id)
        assert row["org_id"] == parse(Prefix.ORGANIZATION, answer["organization"])
        assert (row["role"], row["revoked_at"], row["expires_at"]) == (4, None, None)
        assert verify_secret(row["key_hash"], presented.secret)
        assert row["key_check"] == check_of(presented.secret)
        assert presented.secret not in str(row)


@pytest.fixture
def console(database: str) -> Console:
    return Console(database)


def test_an_organization_is_founded_with_a_key_of_its_owner(console: Console) -> None:
    slug = unique("second")

    (answer,) = console.run("create-organization", "--name", "Second Rollup", "--slug", slug, "--plan", "pro")

    assert set(answer) == {"organization", "api_key"}
    row = console.organization(answer)
    assert (row["name"], row["slug"], row["plan"]) == ("Second Rollup", slug, "pro")
    (head,) = console.rows("SELECT signature_quota FROM ledger_heads WHERE org_id = %s", row["id"])
    assert head["signature_quota"] == 500_000
    (namespace,) = console.rows("SELECT name FROM namespaces WHERE org_id = %s", row["id"])
    assert namespace["name"] == "production"
    assert console.events(row["id"]) == [("organization.created", "system"), ("api_key.created", "system")]
    console.assert_owner(answer)


def test_without_a_slug_the_name_makes_one_and_a_taken_one_gets_an_ending(console: Console) -> None:
    name = unique("Third Rollup")

    first, second = console.run("create-organization", "--name", name) + console.run(
        "create-organization", "--name", name
    )

    slugs = [console.organization(answer)["slug"] for answer in (first, second)]
    assert slugs[0] == name.lower().replace(" ", "-")
    assert slugs[1].startswith(f"{slugs[0]}-")
    assert console.organization(first)["plan"] == "free"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--name", "x", "--plan", "golden"), "the catalogue has no plan golden; it has free, pro"),
        (("--name", "x", "--slug", "Not A Slug"), "--slug must be 1 to 63 lower-case"),
        (("--name", " "), "--name must be 1 to 100 printable"),
        (("--name", "x", "--slug", "taken"), "the slug taken is taken"),
    ],
)
def test_a_mistake_is_one_sentence_and_founds_nothing(
    console: Console, arguments: tuple[str, ...], sentence: str
) -> None:
    if not console.rows("SELECT 1 FROM organizations WHERE slug = 'taken'"):
        console.run("create-organization", "--name", "taken", "--slug", "taken")
    before = console.rows("SELECT count(*) FROM organizations")

    with pytest.raises(ValueError, match=sentence):
        console.run("create-organization", *arguments)

    assert console.rows("SELECT count(*) FROM organizations") == before


def test_who_lost_their_owner_key_gets_another_one(console: Console) -> None:
    slug = unique("lost")
    (founded,) = console.run("create-organization", "--name", "Lost", "--slug", slug)

    answers = console.run("owner-key", "--organization", slug)
    answers += console.run("owner-key", "--organization", founded["organization"])

    assert {answer["organization"] for answer in answers} == {founded["organization"]}
    assert len({founded["api_key"], *(answer["api_key"] for answer in answers)}) == 3
    for answer in (founded, *answers):
        console.assert_owner(answer)
    created = ("api_key.created", "system")
    events = console.events(parse(Prefix.ORGANIZATION, founded["organization"]))
    assert events == [("organization.created", "system"), created, created, created]


def test_a_deleted_organization_gets_an_owner_key_to_be_restored_with(console: Console) -> None:
    (founded,) = console.run("create-organization", "--name", unique("gone"))
    organization_id = parse(Prefix.ORGANIZATION, founded["organization"])
    with psycopg.connect(console._database) as connection:
        connection.execute("UPDATE ledger_heads SET closed_at = now() WHERE org_id = %s", [organization_id])

    (answer,) = console.run("owner-key", "--organization", founded["organization"])

    console.assert_owner(answer)


def test_there_is_no_owner_key_for_nobody(console: Console) -> None:
    with pytest.raises(ValueError, match="there is no organization nowhere"):
        console.run("owner-key", "--organization", "nowhere")


def test_every_organization_is_listed_but_the_erased(console: Console) -> None:
    (founded,) = console.run("create-organization", "--name", unique("Größe"))
    (erased,) = console.run("create-organization", "--name", unique("erased"))
    with psycopg.connect(console._database) as connection:
        connection.execute(
            "UPDATE organizations SET erased_at = now() WHERE id = %s",
            [parse(Prefix.ORGANIZATION, erased["organization"])],
        )

    listed = {line["organization"]: line for line in console.run("list-organizations")}

    row = console.organization(founded)
    assert listed[founded["organization"]] == {
        "organization": founded["organization"],
        "name": row["name"],
        "slug": row["slug"],
        "plan": "free",
        "members": 0,
        "created_at": row["created_at"].isoformat(),
        "deleted_at": None,
        "erase_at": None,
    }
    assert erased["organization"] not in listed


def test_bootstrap_founds_the_first_organization_once(postgres: PostgresServer) -> None:
    url = postgres.fresh_database()
    migrate(url)
    fresh = Console(url)

    (first,), (again,) = fresh.run("bootstrap"), fresh.run("bootstrap")

    fresh.assert_owner(first)
    assert again == {"organization": first["organization"], "api_key": None}
    assert fresh.organization(first)["slug"] == "default"
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE organizations SET erased_at = now(), slug = 'erased'")
    (second,) = fresh.run("bootstrap")
    assert second["organization"] != first["organization"]
    fresh.assert_owner(second)
