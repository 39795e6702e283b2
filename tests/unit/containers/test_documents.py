"""The documents beside the code: what they list is what the code has."""

import dataclasses
import re
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from popsigner_gateway.web import settings as gateway
from popsigner_node.cli import up
from popsigner_server.settings import CLIENT_NAMES, PREFIX, Settings
from popsigner_server.telemetry.metrics import Metrics
from tests.unit.containers.sources import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def _rows(page: str) -> dict[str, str]:
    """The rows of a page's tables: the first cell's code to the whole row."""
    rows = [line for line in (DOCS / page).read_text().splitlines() if line.startswith("| `")]
    return {code: row for row in rows for code in re.findall(r"`([^`]+)`", row.split("|")[1])}


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_every_setting_is_documented_with_its_default(field: str) -> None:
    row = _rows("settings.md")[PREFIX + field.upper()].split("|")
    information = Settings.model_fields[field]

    default = row[2].strip()
    if information.is_required():
        assert default == "required"
    elif information.default is None:
        assert default == "none"
    else:
        assert default == f"`{str(information.default).lower()}`"


def test_no_setting_is_documented_that_does_not_exist() -> None:
    documented = {name for name in _rows("settings.md") if name.startswith(PREFIX)}

    assert documented == {PREFIX + field.upper() for field in Settings.model_fields} | CLIENT_NAMES


def test_the_settings_of_the_gateway_are_documented_with_their_defaults_and_no_others() -> None:
    rows = _rows("login.md")
    documented = {name: row.split("|")[2].strip() for name, row in rows.items() if name.startswith(gateway.PREFIX)}

    assert documented == {
        gateway.PREFIX + each.name.upper(): "required" if each.default is dataclasses.MISSING else f"`{each.default}`"
        for each in dataclasses.fields(gateway.Settings)
    }


def test_every_option_of_the_node_is_documented() -> None:
    app = typer.Typer(add_completion=False)
    app.command()(up)
    options = {name for parameter in get_command(app).params for name in parameter.opts}

    assert {name for name in _rows("settings.md") if name.startswith("--")} == options - {"--help"}


def test_every_metric_is_documented_and_exists() -> None:
    metrics = Metrics()
    metrics.watch_api_key_cache(hits=lambda: 0, misses=lambda: 0)
    suffix = {"counter": "_total", "info": "_info"}
    exposed = {family.name + suffix.get(family.type, "") for family in metrics.registry.collect()}

    documented = {name for name in _rows("observability.md") if re.match("popsigner_|process_", name)}

    assert documented == {name for name in exposed if not name.startswith("process_")} | {"process_*"}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()

    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index] == []
