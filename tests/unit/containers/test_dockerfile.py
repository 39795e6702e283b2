"""The Dockerfile: its syntax, and that each file, user, port, command and version that it names exists."""

import json
import re
import shlex
from fnmatch import fnmatch

import pytest
from typer.main import get_command

from popsigner_server.__main__ import app
from tests.unit.containers.sources import (
    DOCKER,
    OUR_IMAGES,
    ROOT,
    copies,
    instructions,
    lineage,
    project,
    services,
    stages,
)

KNOWN = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "CMD"}
ENTRIES = "/opt/popsigner/entry/"
MEMBERS = {"server": ["http2", "server"], "openbao": ["http2", "plugin", "node"], "envoy": ["gateway"]}


def test_it_holds_known_instructions_alone() -> None:
    assert {name for name, _ in instructions()} <= KNOWN
    assert instructions()[0][0] in ("ARG", "FROM")


def test_each_stage_stands_on_the_python_image_or_an_earlier_stage() -> None:
    seen: set[str] = set()
    for name, stage in stages().items():
        assert stage.base == "${PYTHON_IMAGE}" or stage.base in seen
        seen.add(name)
    (image,) = [rest for name, rest in instructions() if name == "ARG" and rest.startswith("PYTHON_IMAGE=")]
    minor = re.fullmatch(r"PYTHON_IMAGE=python:3\.(\d+)-slim", image)
    assert minor is not None
    assert int(minor[1]) in (11, 12, 13)


@pytest.mark.parametrize("name", list(stages()))
def test_each_copied_file_exists_and_reaches_the_build(name: str) -> None:
    for sources, _, origin in copies(stages()[name]):
        for source in sources:
            if origin is not None:
                assert origin in stages()
                assert source == "/opt/popsigner"
            else:
                assert (ROOT / source).exists(), source
                assert _sent(source), f".dockerignore keeps {source} out"


def test_secrets_and_the_checkouts_other_files_do_not_reach_the_build() -> None:
    for path in ("docker/secrets/unseal_key", ".git/config", ".venv/bin/python", "tests/conftest.py"):
        assert not _sent(path), path


def test_every_third_party_package_comes_from_the_lock_by_its_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    installs = [line for stage in stages().values() for line in stage.lines("RUN") if "uv pip install" in line]
    assert installs
    for line in installs:
        if "--no-deps" in line:
            assert "--offline" in line
        else:
            assert "--require-hashes --constraint requirements.lock" in line
            for file in re.findall(r"--requirement (\S+)", line):
                for dependency in project(file.removesuffix("/pyproject.toml"))["dependencies"]:
                    name = re.split(r"[\[<>=]", dependency)[0]
                    # Our own, from the checkout.
                    if name == "popsigner-http2":
                        assert "--excludes own" in line
                        continue
                    assert re.search(rf"^{name}==", lock, re.MULTILINE), name
    for pattern in re.findall(r"grep -o '\^([\w-]+)==", "\n".join(installs)):
        assert len(re.findall(rf"^{pattern}==\S+", lock, re.MULTILINE)) == 1


def test_uv_is_of_the_makefiles_version() -> None:
    version = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert version is not None

    assert ("ARG", f"UV_VERSION={version[1]}") in instructions()


@pytest.mark.parametrize("name", OUR_IMAGES)
def test_an_image_ends_as_its_own_user_and_not_as_root(name: str) -> None:
    chain = [instruction for stage in lineage(name) for instruction in stage.instructions]
    created = re.search(r"--uid (\d+) --gid (\d+)", json.dumps(chain))
    assert created is not None

    last = [rest for instruction, rest in chain if instruction == "USER"][-1]
    assert last == f"{created[1]}:{created[2]}"
    assert last != "0:0"


@pytest.mark.parametrize("name", OUR_IMAGES)
def test_an_image_installs_the_members_that_it_copies(name: str) -> None:
    build = stages()[f"build-{name}"]

    folders = " ".join(f"./{member}" for member in MEMBERS[name])
    installs = [line for line in build.lines("RUN") if "--no-deps" in line]
    assert installs == [f"uv pip install --no-deps --no-sources --offline {folders}"]
    copied = {source for sources, _, _ in copies(build) for source in sources}
    assert set(MEMBERS[name]) <= copied


@pytest.mark.parametrize("name", OUR_IMAGES)
def test_an_image_exposes_the_ports_that_its_service_uses(name: str) -> None:
    ports = {int(port) for line in stages()[name].lines("EXPOSE") for port in line.split()}
    service = services()[name]
    listening = {
        int(value.rpartition(":")[2])
        for variable, value in service.get("environment", {}).items()
        if variable.endswith("LISTEN")
    }

    assert ports == listening | {port["target"] for port in service.get("ports", [])}


@pytest.mark.parametrize("name", [*OUR_IMAGES, "migrate", "bootstrap"])
def test_each_command_is_in_its_image(name: str) -> None:
    service = services()[name]
    target = service["build"]["target"]
    commands = [json.loads(line) for line in stages()[target].lines("CMD")]
    commands += [command for command in [service.get("command")] if command]
    commands += [service["healthcheck"]["test"][1:]] if "test" in service["healthcheck"] else []
    entries = {
        destination + source.removeprefix("docker/"): source
        for sources, destination, _ in copies(stages()[target])
        for source in sources
        if destination == ENTRIES
    }
    for program, argument, *options in commands:
        if program == "python":
            text = (ROOT / entries[argument]).read_text()
            assert all(f'"{option}"' in text for option in options)
        else:
            assert program in {script for member in MEMBERS[target] for script in project(member).get("scripts", {})}
            assert argument in _verbs()


def test_the_volumes_of_the_vault_are_folders_of_its_user() -> None:
    (line,) = stages()["openbao"].lines("RUN")
    made = shlex.split(line)
    uid, gid = services()["openbao"]["user"].split(":")

    assert made[:8] == ["install", "--directory", "--owner", uid, "--group", gid, "--mode", "0700"]
    assert made[8:] == [volume.split(":")[1] for volume in services()["openbao"]["volumes"]]


def _verbs() -> set[str]:
    return set(getattr(get_command(app), "commands", {}))


def _sent(path: str) -> bool:
    """Whether .dockerignore lets this file or folder into the build (the last pattern that matches decides)."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        places = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        names = parts if "**/" in line else places
        if any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for name in names):
            sent = line.startswith("!")
    return sent


def test_the_scripts_of_the_images_are_all_used() -> None:
    copied = {source for stage in stages().values() for sources, _, _ in copies(stage) for source in sources}

    assert {f"docker/{file.name}" for file in DOCKER.glob("*.py")} <= copied
