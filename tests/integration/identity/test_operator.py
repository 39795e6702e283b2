"""The operator's commands for the POP's own identity providers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from popsigner_server.__main__ import app
from popsigner_server.domain.ids import Prefix, parse
from popsigner_server.identity.sealing import Sealing

SEALING_KEY = "5e" * 32
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(database: str, tmp_path: Path) -> Run:
    key_file = tmp_path / "sealing-key"
    key_file.write_text(SEALING_KEY + "\n")
    (tmp_path / "client-secret").write_text("a-client-secret\n")
    environment = {"POPSIGNER_DATABASE_URL": database, "POPSIGNER_SEALING_KEY_FILE": str(key_file)}

    def run(*arguments: str) -> list[dict[str, Any]]:
        result = CliRunner().invoke(app, arguments, env=environment)
        if result.exception is not None:
            raise result.exception
        assert "a-client-secret" not in result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run


def test_a_provider_is_added_listed_and_removed(run: Run, database: str, tmp_path: Path) -> None:
    secret_file = str(tmp_path / "client-secret")
    (made,) = run("add-provider", "--kind", "github", "--client-id", "Iv1", "--client-secret-file", secret_file)
    assert (made["kind"], made["name"], made["issuer"]) == ("github", "GitHub", "https://github.com")
    assert made in run("list-providers")
    with psycopg.connect(database) as connection:
        query = "SELECT org_id, client_secret FROM identity_providers WHERE id = %s"
        provider_id = parse(Prefix.IDENTITY_PROVIDER, made["provider"])
        ((organization, sealed),) = connection.execute(query, [provider_id]).fetchall()
    assert organization is None
    opened = Sealing.of(SEALING_KEY).open(sealed, table="identity_providers", row=provider_id)
    assert opened == b"a-client-secret"
    assert run("remove-provider", "--provider", made["provider"]) == [
        {"provider": made["provider"], "sessions_ended": 0}
    ]
    assert made not in run("list-providers")
    (again,) = run("add-provider", "--kind", "github", "--client-id", "Iv2")
    assert (again["provider"], again["client_id"]) == (made["provider"], "Iv2")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("add-provider", "--kind", "myspace", "--client-id", "x"), "--kind must be one of github, google, oidc"),
        (("add-provider", "--kind", "oidc", "--client-id", "x"), "issuer"),
        (("add-provider", "--kind", "oidc", "--client-id", "x", "--issuer", "http://id.example"), "https"),
        (("remove-provider", "--provider", "github"), "idp_"),
        (("remove-provider", "--provider", "idp_01JD3ZQ5RX8V0Q6K1M2N3P4R5S"), "no such identity provider"),
    ],
)
def test_a_mistake_is_one_sentence(run: Run, arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        run(*arguments)


def test_a_provider_is_added_once(run: Run) -> None:
    wish = ("add-provider", "--kind", "oidc", "--client-id", "x", "--issuer", "https://once.example")
    run(*wish)
    with pytest.raises(ValueError, match="connected already"):
        run(*wish)


def test_a_sealing_key_of_another_form_is_refused_before_anything_is_kept(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sealing-key").write_text("not a key")
    with pytest.raises(ValueError, match="POPSIGNER_SEALING_KEY_FILE must hold exactly 64 hexadecimal digits"):
        run("add-provider", "--kind", "google", "--client-id", "x")
    assert "google" not in {provider["kind"] for provider in run("list-providers")}
