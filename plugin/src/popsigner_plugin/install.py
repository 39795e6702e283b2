"""Put the plugin's launcher into OpenBao's plugin directory: `popsigner-plugin-install DIR`."""

import argparse
import hashlib
import importlib.util
import io
import json
import marshal
import os
import shlex
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

COMMAND: Final = "popsigner-secp256k1"
# The version of what the engine stores and answers, not of this distribution. OpenBao pins a mount to the version
# that it was mounted with: under a new version the mount would be empty until somebody with a root token tunes it,
# whereas a new SHA-256 under the same version is taken over at OpenBao's next start. So this changes only when the
# stored form does so that older keys cannot be read.
VERSION: Final = "v1.0.0"

# All that the process imports from outside the interpreter's own library: whole packages, because a module that is
# imported late must be there too; of pycryptodome (some forty shared objects) what Keccak needs, and the one file of
# cffi that cryptography loads.
_PACKAGES: Final = (
    "popsigner_plugin",
    "popsigner_http2",
    "coincurve",
    "cryptography",
    "google._upb",
    "google.protobuf",
    "grpclib",
    "h2",
    "hpack",
    "hyperframe",
    "multidict",
    "uvloop",
)
_MODULES: Final = (
    "Crypto",
    "Crypto.Hash",
    "Crypto.Hash._keccak",
    "Crypto.Hash.keccak",
    "Crypto.Util",
    "Crypto.Util._file_system",
    "Crypto.Util._raw_api",
    "Crypto.Util.py3compat",
    "_cffi_backend",
)
# Linux reads this much of a `#!` line, the newline included (BINPRM_BUF_SIZE since Linux 5.1; 128 before).
_SHEBANG_LIMIT: Final = 127
_OPTIONS: Final = "-ISB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What OpenBao's catalogue must hold. command: the file's name; sha256: of the file, hex."""

    command: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Module:
    name: str
    path: Path
    package: bool


def install(plugin_directory: Path) -> Registration:
    """Write the launcher (mode 0700) for the installation that this code runs from, over one that is there.

    The same installation gives the same file; any change of a file that the plugin imports gives another digest.
    """
    content = _launcher()
    sha256 = hashlib.sha256(content).hexdigest()
    plugin_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = plugin_directory / f".{COMMAND}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700), "wb") as file:
        file.write(content)
    # A running plugin keeps the file that it was started from.
    fresh.replace(plugin_directory / COMMAND)
    return Registration(command=COMMAND, version=VERSION, sha256=sha256)


def main() -> None:
    """The command `popsigner-plugin-install`."""
    parser = argparse.ArgumentParser(
        description="Put the secp256k1 secrets engine into OpenBao's plugin directory and print what to register."
    )
    parser.add_argument("directory", type=Path, help="OpenBao's plugin_directory")
    sys.stdout.write(json.dumps(asdict(install(parser.parse_args().directory))) + "\n")


def _launcher() -> bytes:
    modules = sorted(_modules(), key=lambda module: module.name)
    entries, code = [], {}
    for module in modules:
        content = module.path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        entries.append({"name": module.name, "path": str(module.path), "package": module.package, "sha256": digest})
        if module.path.suffix == ".py":
            code[module.name] = compile(content, str(module.path), "exec", dont_inherit=True, optimize=0)
    manifest = {"python": importlib.util.MAGIC_NUMBER.hex(), "version": VERSION, "modules": entries}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in (
            ("__main__.py", Path(__file__).with_name("launcher.py").read_bytes()),
            ("manifest.json", json.dumps(manifest).encode()),
            # Version 2 of the format depends on the code alone; later ones depend on what else the process holds.
            ("code.marshal", marshal.dumps(code, 2)),
        ):
            # A fixed date (ZipInfo's default), so that the same content gives the same file.
            file.writestr(zipfile.ZipInfo(name), data)
    return _first_lines(_interpreter()).encode() + archive.getvalue()


def _interpreter() -> str:
    """The interpreter itself and not the virtual environment's link to it: nothing of the environment is asked."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _first_lines(interpreter: str) -> str:
    shebang = f"#!{interpreter} {_OPTIONS}\n"
    if len(shebang.encode()) <= _SHEBANG_LIMIT and " " not in interpreter:
        return shebang
    return f'#!/bin/sh\nexec {shlex.quote(interpreter)} {_OPTIONS} "$0" "$@"\n'


def _modules() -> Iterator[_Module]:
    for name in _MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise _missing(name)
        yield _Module(name=name, path=Path(spec.origin), package=spec.submodule_search_locations is not None)
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise _missing(name)
        for folder in spec.submodule_search_locations:
            yield from _below(name, Path(folder))


def _below(package: str, folder: Path) -> Iterator[_Module]:
    for path in sorted(folder.rglob("*")):
        stem = _module_stem(path)
        if stem is None:
            continue
        parts = [package, *path.relative_to(folder).parts[:-1]]
        if stem != "__init__":
            parts.append(stem)
        yield _Module(name=".".join(parts), path=path, package=stem == "__init__")


def _module_stem(path: Path) -> str | None:
    for suffix in (*EXTENSION_SUFFIXES, ".py"):
        if path.name.endswith(suffix):
            stem = path.name.removesuffix(suffix)
            return stem if stem.isidentifier() else None
    return None


def _missing(name: str) -> RuntimeError:
    return RuntimeError(f"{name} is not installed in {sys.prefix}; install popsigner-plugin again.")


if __name__ == "__main__":
    main()
