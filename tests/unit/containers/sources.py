"""The files of the containers, read for the tests: the compose file, the Dockerfile, envoy.yaml and what goes in."""

import json
import re
import shlex
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "docker"
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
OUR_IMAGES = ("server", "openbao", "envoy")


@cache
def compose() -> dict[str, Any]:
    """docker-compose.yml with its merge keys resolved, before interpolation."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return tree


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def interpolated(text: str) -> str:
    """`${NAME:-default}` as compose reads it where NAME is not set."""
    return VARIABLE.sub(lambda match: match[2] or "", text)


def mounted_secrets(service: str) -> set[str]:
    """The paths of a service's secrets inside its container."""
    return {f"/run/secrets/{name}" for name in services()[service].get("secrets", [])}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of the Dockerfile: its instructions, in order, as (name, rest of the line)."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def lines(self, name: str) -> list[str]:
        return [rest for instruction, rest in self.instructions if instruction == name]


@cache
def instructions() -> tuple[tuple[str, str], ...]:
    """Every instruction of the Dockerfile; comments gone, continued lines joined."""
    text = "\n".join(line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    parts = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return tuple((name, rest) for name, rest in parts)


@cache
def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    current: list[tuple[str, str]] = []
    for name, rest in instructions():
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            current = []
            found[stage] = Stage(name=stage, base=base, instructions=())
        elif found:
            current.append((name, rest))
            last = list(found)[-1]
            found[last] = Stage(name=last, base=found[last].base, instructions=tuple(current))
    return found


def lineage(stage: str) -> list[Stage]:
    """The stage and the stages that it is built on, the oldest first."""
    chain = [stages()[stage]]
    while chain[0].base in stages():
        chain.insert(0, stages()[chain[0].base])
    return chain


def copies(stage: Stage) -> list[tuple[list[str], str, str | None]]:
    """The stage's COPY instructions as (sources, destination, stage they come from)."""
    found = []
    for line in stage.lines("COPY"):
        words = shlex.split(line)
        flags = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))
        places = [word for word in words if not word.startswith("--")]
        found.append((places[:-1], places[-1], flags.get("from")))
    return found


def project(member: str) -> dict[str, Any]:
    """A member's [project] table."""
    table: dict[str, Any] = tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]
    return table


@cache
def envoy() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((ROOT / "envoy.yaml").read_text())
    return tree


def files_of_envoy() -> set[str]:
    """Every file that envoy.yaml names."""
    return set(re.findall(r"/etc/popsigner/[\w.]+", json.dumps(envoy())))
