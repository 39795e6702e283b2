"""The launcher: the same for the same installation, and nothing runs that was not checked."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from popsigner_plugin import install as installer
from popsigner_plugin.install import COMMAND, Registration, install

COOKIE = {"VAULT_BACKEND_PLUGIN": "6669da05-b1c8-4f49-97d9-c8e5bed98e20"}
SPEAKS = "OpenBao offers plugin protocol none"
"""What the plugin says when all its code was imported: it stands for "it would have run"."""


def run(launcher: Path, environment: Mapping[str, str] = COOKIE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([launcher], env=dict(environment), capture_output=True, text=True, timeout=30, check=False)


class Copy:
    """An installation of its own: a copy of some of the packages, before all others on the installer's path."""

    def __init__(self, folder: Path, *packages: str) -> None:
        self.site = folder / "site"
        self.launcher = folder / "plugins" / COMMAND
        self.site.mkdir()
        for package in packages:
            spec = find_spec(package)
            assert spec is not None
            assert spec.submodule_search_locations
            shutil.copytree(spec.submodule_search_locations[0], self.site / package)

    def install(self) -> Registration:
        environment = {"PYTHONPATH": str(self.site), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [sys.executable, "-m", "popsigner_plugin.install", str(self.launcher.parent)],
            env=environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return Registration(**json.loads(done.stdout))


def test_the_launcher_is_the_owners_alone_and_has_the_registered_digest(tmp_path: Path) -> None:
    registration = install(tmp_path / "plugins")
    launcher = tmp_path / "plugins" / registration.command
    assert stat.S_IMODE(launcher.stat().st_mode) == 0o700
    assert hashlib.sha256(launcher.read_bytes()).hexdigest() == registration.sha256
    assert [path.name for path in launcher.parent.iterdir()] == [COMMAND]
    assert SPEAKS in run(launcher).stderr


def test_the_same_installation_gives_the_same_launcher_from_any_process(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    assert copy.install() == copy.install() == install(tmp_path / "other")


def test_an_upgrade_gives_another_digest_under_the_same_version(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "popsigner_plugin")
    before = copy.install()
    (copy.site / "popsigner_plugin" / "engine.py").open("a").write("\n")
    after = copy.install()
    assert after.sha256 != before.sha256
    assert (after.version, after.command) == (before.version, before.command)
    assert SPEAKS in run(copy.launcher).stderr


@pytest.mark.parametrize(
    ("package", "file"),
    [
        ("popsigner_plugin", "engine.py"),
        ("coincurve", "context.py"),
        ("coincurve", "_libsecp256k1.*.so"),
        ("grpclib", "server.py"),
        ("cryptography", "hazmat/bindings/_rust*.so"),
        ("multidict", "__init__.py"),
        # Checked although nothing imports it at the start.
        ("h2", "windows.py"),
    ],
)
def test_a_changed_file_is_refused_by_name(tmp_path: Path, package: str, file: str) -> None:
    copy = Copy(tmp_path, package)
    copy.install()
    changed = next((copy.site / package).glob(file))
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    refused = run(copy.launcher)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert f"{changed} is not the file that was installed" in refused.stderr


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "coincurve")
    copy.install()
    gone = copy.site / "coincurve" / "der.py"
    gone.unlink()
    refused = run(copy.launcher)
    assert refused.returncode == 1
    assert f"{gone} cannot be read" in refused.stderr


def test_files_that_were_put_beside_the_checked_ones_are_not_seen(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "popsigner_plugin", "hpack")
    copy.install()
    evil = "raise SystemExit('foreign code ran')\n"
    for place in ("hpack/hpack/__init__.py", "popsigner_plugin/grpclib.py", "uvloop.py", "sitecustomize.py", "ssl.py"):
        (copy.site / place).parent.mkdir(exist_ok=True)
        (copy.site / place).write_text(evil)
    (copy.site / "evil.pth").write_text("import sys; sys.exit('foreign code ran')\n")
    (copy.launcher.parent / "json.py").write_text(evil)
    environment = COOKIE | {"PYTHONPATH": str(copy.site), "PYTHONSTARTUP": str(copy.site / "ssl.py")}
    done = subprocess.run(
        [copy.launcher], env=environment, cwd=copy.site, capture_output=True, text=True, timeout=30, check=False
    )
    assert SPEAKS in done.stderr


def test_compiled_leftovers_are_not_trusted(tmp_path: Path) -> None:
    copy = Copy(tmp_path, "coincurve")
    source = copy.site / "coincurve" / "flags.py"
    cache = copy.site / "coincurve" / "__pycache__" / f"flags.{sys.implementation.cache_tag}.pyc"
    cache.unlink(missing_ok=True)
    poison = tmp_path / "poison.py"
    poison.write_text("raise SystemExit('foreign code ran')\n")
    import py_compile

    py_compile.compile(str(poison), cfile=str(cache), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert source.exists()
    copy.install()
    assert SPEAKS in run(copy.launcher).stderr


@pytest.mark.parametrize("folder", ["x" * 120, "with space"])
def test_an_interpreter_that_no_shebang_can_name_is_started_by_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    far = tmp_path / folder / "python3"
    far.parent.mkdir()
    far.write_text(f'#!/bin/sh\nexec {installer._interpreter()} "$@"\n')
    far.chmod(0o700)
    monkeypatch.setattr(installer, "_interpreter", lambda: str(far))
    install(tmp_path / "plugins")
    launcher = tmp_path / "plugins" / COMMAND
    assert launcher.read_bytes().startswith(b"#!/bin/sh\n")
    assert SPEAKS in run(launcher, COOKIE | {"PATH": os.environ["PATH"]}).stderr


def test_by_hand_the_plugin_does_nothing_and_says_so(tmp_path: Path) -> None:
    install(tmp_path)
    refused = run(tmp_path / COMMAND, {})
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("This program is a plugin: OpenBao starts it.")


def test_without_a_client_certificate_it_refuses_to_run(tmp_path: Path) -> None:
    install(tmp_path)
    refused = run(tmp_path / COMMAND, COOKIE | {"PLUGIN_PROTOCOL_VERSIONS": "3,4,5"})
    assert refused.returncode == 1
    assert "mutual TLS alone" in refused.stderr
