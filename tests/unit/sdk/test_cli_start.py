"""How the command starts: quickly, and without what it does not need."""

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import popsigner
from popsigner.cli.app import app, load

HEAVY = {
    "grpc",
    "betterproto2",
    "rich.markdown",
    "urllib.request",
    "popsigner.cli.signing",
    "popsigner.client",
    "popsigner.credential",
    "popsigner.gen",
    "popsigner.keyfiles",
    "popsigner.wrapping",
    "popsigner_node",
}


def commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command of the tree, as its words."""
    found: list[tuple[str, ...]] = []
    for name, command in getattr(group, "commands", {}).items():
        below = commands(command, (*path, name))
        found += below or [(*path, name)]
    return found


# Their words are the node's.
OF_THE_NODE = {("up",), ("backup",), ("restore",)}
ALL = [
    found
    for name in getattr(typer.main.get_command(app), "commands", {})
    for found in commands(load(name), (name,)) or [(name,)]
]


def test_the_commands_are_those_that_are_documented() -> None:
    assert {" ".join(words) for words in ALL} == {
        "up",
        "backup",
        "restore",
        "keys create",
        "keys list",
        "keys show",
        "keys delete",
        "keys restore",
        "keys enable",
        "keys disable",
        "keys update",
        "keys versions",
        "keys rotate",
        "keys export",
        "migrate import",
        "migrate export",
        "sign",
        "verify",
        "namespaces create",
        "namespaces list",
        "namespaces delete",
        "api-keys create",
        "api-keys list",
        "api-keys rotate",
        "api-keys revoke",
        "login",
        "logout",
        "whoami",
        "org show",
        "org rename",
        "org create",
        "org delete",
        "org restore",
        "org use",
        "org connect-oidc",
        "org providers",
        "org disconnect-oidc",
        "members list",
        "members set-role",
        "members remove",
        "members leave",
        "invitations create",
        "invitations list",
        "invitations revoke",
        "invitations accept",
        "sessions list",
        "sessions revoke",
        "account export",
        "account delete",
        "recovery show",
        "recovery set",
        "recovery cancel",
        "recovery export",
        "recovery open",
        "exit-drill run",
        "exit-drill verify",
        "audit list",
        "usage",
        "version",
    }


@pytest.mark.parametrize("words", [words for words in ALL if words not in OF_THE_NODE], ids=" ".join)
def test_every_command_has_help_with_examples(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])

    assert result.exit_code == 0
    assert f"  Examples:\n    popsigner {' '.join(words)}" in result.stdout
    assert "--json" in result.stdout
    assert "--api-key " not in result.stdout


@pytest.mark.parametrize(
    "arguments", [["--help"], ["keys", "create", "--help"], ["version"], ["login", "--nonsense"], ["nonsense"]]
)
def test_nothing_heavy_is_loaded_before_it_is_needed(arguments: list[str]) -> None:
    program = (
        "import sys, json, atexit\n"
        "atexit.register(lambda: sys.stderr.write('\\n' + json.dumps(sorted(sys.modules))))\n"
        "from popsigner.cli import main\n"
        "main()\n"
    )

    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)

    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "popsigner.cli.app" in loaded
    assert not loaded & HEAVY


def test_a_command_that_is_none_is_a_mistake_in_usage_that_names_the_nearest() -> None:
    result = CliRunner().invoke(app, ["invitation"])

    assert result.exit_code == 2
    assert "invitations" in result.stderr


@pytest.mark.parametrize("name", sorted({words[0] for words in ALL}))
def test_the_list_of_commands_says_of_each_what_the_command_says(name: str) -> None:
    listed = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout

    (line,) = re.findall(rf"^  {name}  +(.+)$", listed, re.MULTILINE)
    assert line.rstrip(".") in " ".join((load(name).help or "").split())


def test_the_version_is_that_of_the_distribution() -> None:
    result = CliRunner().invoke(app, ["version", "--json"])

    assert json.loads(result.stdout) == {"version": importlib.metadata.version("popsigner")}
    assert popsigner.__version__ == importlib.metadata.version("popsigner")


class EntryPoint:
    """One of another distribution, as importlib.metadata gives it."""

    def __init__(self, command: Any) -> None:
        self._command = command

    def load(self) -> Any:
        return self._command


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Any]], None]:
    def install(found: list[Any]) -> None:
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_names: [EntryPoint(each) for each in found])

    return install


def test_up_without_the_node_says_what_to_install(installed: Callable[[list[Any]], None]) -> None:
    installed([])

    result = CliRunner().invoke(app, ["up"])

    assert result.exit_code == 2
    assert "popsigner-node" in result.stderr


def test_up_hands_everything_to_the_node(installed: Callable[[list[Any]], None]) -> None:
    def up(port: int = 8080, data_dir: str = "") -> None:
        """Run it all."""
        typer.echo(f"{port} {data_dir}")
        raise typer.Exit(3)

    installed([up])

    started = CliRunner().invoke(app, ["up", "--port", "0", "--data-dir", "/somewhere"])
    helped = CliRunner().invoke(app, ["up", "--help"])

    assert (started.exit_code, started.stdout) == (3, "0 /somewhere\n")
    assert "--data-dir" in helped.stdout
    assert "Run it all" in helped.stdout


def test_up_takes_a_whole_application_too(installed: Callable[[list[Any]], None]) -> None:
    node = typer.Typer()

    @node.command()
    def up(port: int = 8080) -> None:
        typer.echo(port)

    installed([node])

    assert CliRunner().invoke(app, ["up", "--port", "7"]).stdout == "7\n"
