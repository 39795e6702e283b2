"""The first program of the plugin process: check every file, then import nothing but what was checked.

`install` puts this file as `__main__.py` into the launcher, a zip archive that starts with a `#!` line. OpenBao pins
the launcher's SHA-256, and the launcher pins the rest:

    manifest.json   the modules that may be imported, each with its file's path and SHA-256
    code.marshal    the code of the Python files among them, compiled from the very bytes that have those digests

So a Python file is checked and then not even read again; a shared object is copied while it is checked and loaded
from the copy, which lives in sealed memory. No search path leads to other files: besides the modules of the manifest
there is the interpreter's own library, and both the interpreter and that library are trusted. Runs under `python -I
-S -B`, so that no PYTHON... variable, no current directory, no user folder and no `.pth` file has a say, and imports
only the standard library itself. Before all else it starts itself again under `OVERWRITING`.
"""

import ctypes
import fcntl
import hashlib
import importlib.util
import json
import marshal
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NoReturn

OVERWRITING = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.perturb=255:glibc.malloc.tcache_count=0"}


def refuse(sentence: str) -> NoReturn:
    """End the process with one sentence on standard error."""
    sys.stderr.write(f"popsigner-secp256k1 does not start: {sentence}\n")
    raise SystemExit(1)


def start_again(archive: str) -> NoReturn:
    """Run this file once more, in the same process, with an allocator that overwrites what is freed.

    Private keys pass through buffers of libraries that free them as they are: protobuf, TLS, HTTP/2. The C library sees
    all of them go, and fills them if it was told so before the interpreter starts. For that Python's own objects must
    come from it too, and it must keep no blocks aside that it does not fill (tcache). docs/engine.md has the price.

    The environment stays, without all variables of the interpreter but the one: `-I`, which takes none, would take
    that one neither, so its other parts are given by themselves.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    options = [sys.executable, "-sPSB", archive, *sys.argv[1:]]
    os.execve(sys.executable, options, environment | OVERWRITING)  # noqa: S606 - the very program that runs


def sealed(content: bytes, name: str) -> int:
    """A descriptor of memory that holds these bytes and that nobody can change any more."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", buffering=0, closefd=False) as memory:
        view = memoryview(content)
        while view:
            view = view[memory.write(view) :]
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor


def checked_libraries(modules: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Compare every file with its digest; the paths of the shared objects, each with the path of its sealed copy."""
    libraries = {}
    for module in modules:
        path = module["path"]
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            refuse(f"{path} cannot be read ({error.strerror}); install the plugin again.")
        if hashlib.sha256(content).hexdigest() != module["sha256"]:
            refuse(
                f"{path} is not the file that was installed; find out who changed it, then install the plugin again."
            )
        if not path.endswith(".py"):
            libraries[path] = f"/proc/self/fd/{sealed(content, module['name'])}"
    return libraries


class CheckedFinder:
    """Finds and loads the manifest's modules from checked code and sealed copies.

    The protocol of importlib.abc's MetaPathFinder and Loader, without them: importing that module takes 15 ms.
    """

    def __init__(
        self, modules: Sequence[Mapping[str, Any]], code: Mapping[str, CodeType], libraries: Mapping[str, str]
    ) -> None:
        self._modules = {module["name"]: module for module in modules}
        self._code = code
        self._libraries = libraries
        # Folders without a file of their own, as `google`.
        self._namespaces = {
            ".".join(parts[:end])
            for parts in (name.split(".") for name in self._modules)
            for end in range(1, len(parts))
        } - self._modules.keys()

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        module = self._modules.get(name)
        if module is None:
            if name not in self._namespaces:
                return None
            return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]  # a Loader but for its base
        library = self._libraries.get(module["path"])
        if library is not None:
            return ModuleSpec(name, ExtensionFileLoader(name, library), origin=library)
        # An empty search path: what is not in the manifest is not found beside the module's file either.
        spec = ModuleSpec(name, self, origin=module["path"], is_package=module["package"])  # type: ignore[arg-type]  # ditto
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        code = self._code.get(module.__name__)
        if code is not None:
            exec(code, module.__dict__)  # noqa: S102 - running a module's checked code is what a loader is for


def main(archive: str) -> int:
    """Check, then run the plugin; the exit code."""
    if sys.flags.isolated:
        start_again(archive)
    sys.path[:] = [entry for entry in sys.path if entry != archive]
    inside = __loader__.get_data  # type: ignore[name-defined]  # the zip importer, when run from the archive
    manifest = json.loads(inside(os.path.join(archive, "manifest.json")))
    if manifest["python"] != importlib.util.MAGIC_NUMBER.hex():
        refuse(f"it was installed for another Python than {sys.executable}; install the plugin again.")
    modules = manifest["modules"]
    libraries = checked_libraries(modules)
    code = marshal.loads(inside(os.path.join(archive, "code.marshal")))  # noqa: S302 - OpenBao has checked the archive
    sys.meta_path.insert(0, CheckedFinder(modules, code, libraries))

    class CheckedCDLL(ctypes.CDLL):
        """pycryptodome loads its shared objects by path, not by import."""

        def __init__(self, name: str | None, *arguments: Any, **options: Any) -> None:
            super().__init__(libraries.get(name, name) if name else name, *arguments, **options)

    ctypes.CDLL = CheckedCDLL  # type: ignore[misc]
    from popsigner_plugin.process import main as run

    return run(manifest["version"])


if __name__ == "__main__":
    sys.exit(main(sys.path[0]))
