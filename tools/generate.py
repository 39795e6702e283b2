"""Make everything that is made from the contract; `make proto` runs it, `--check` fails on a difference.

python tools/generate.py            regenerate
python tools/generate.py --check    fail if regenerating would change a file
python tools/generate.py --lint     buf lint, and buf breaking against proto/baseline.binpb
python tools/generate.py --baseline accept the contract of today as the one that must not be broken
"""

import argparse
import filecmp
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def installed(module: str) -> Path:
    """The file that the module is installed as."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        sys.exit(f"{module} is not installed; run `make setup`")
    return Path(spec.origin)


SITE_PACKAGES = installed("google.api.annotations_pb2").parents[2]
CONTRACT = ROOT / "proto"
ENGINE = ROOT / "plugin" / "proto"
PACKED = "popsigner/engine/v1/packed.proto"
# What gateway and server say to each other: neither the SDK nor the documents of the contract know it.
INTERNAL = "popsigner/internal/"
BASELINE = CONTRACT / "baseline.binpb"
SERVER_GEN = Path("server/src/popsigner_server/gen")
PLUGIN_GEN = Path("plugin/src/popsigner_plugin/gen")
SDK_GEN = Path("sdk/python/src/popsigner/gen")
GATEWAY = Path("gateway/src/popsigner_gateway")
GATEWAY_GEN = GATEWAY / "gen"
# Folders (and single files) that hold nothing but generated content.
PRODUCTS = (SERVER_GEN, PLUGIN_GEN, SDK_GEN, GATEWAY_GEN, GATEWAY / "descriptors.binpb", GATEWAY / "openapi.json")


def protoc(*arguments: str) -> None:
    """Run the protoc of grpcio-tools; its message and a non-zero exit end the program."""
    includes = [f"-I{installed('grpc_tools').parent / '_proto'}", f"-I{SITE_PACKAGES}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, *arguments]
    # Its plugins chatter on standard error; what they say counts only when they fail.
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def sources(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))


def move_under(package: str, generated: Path, target: Path) -> None:
    """Copy generated modules to `target` so that they import one another below the Python package `package`.

    protoc names modules by their proto path (`popsigner.v1.key_pb2`). That name belongs to the SDK's distribution, so
    the server's and the plugin's copies live below their own packages.
    """
    roots = sorted({path.relative_to(generated).parts[0] for path in generated.rglob("*_pb2.py")})
    any_root = "|".join(roots)
    dotted = re.compile(rf"(?<![\w./])((?:{any_root})(?:\.\w+)*\.\w+(?:_pb2|_grpc)\b)")
    from_import = re.compile(rf"^(\s*)from ((?:{any_root})(?:\.\w+)*) import", re.MULTILINE)
    for path in sorted(generated.rglob("*.py*")):
        text = dotted.sub(rf"{package}.\1", from_import.sub(rf"\1from {package}.\2 import", path.read_text()))
        place = target / path.relative_to(generated)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    for folder in {target, *(path.parent for path in target.rglob("*.py"))}:
        while folder != target.parent:
            (folder / "__init__.py").touch()
            folder = folder.parent


def python(out: Path, package: str, *arguments: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        protoc(*(argument.replace("OUT", scratch) for argument in arguments))
        move_under(package, Path(scratch), out)


def generate(root: Path) -> None:
    """Write every product below `root`."""
    for product in PRODUCTS:
        shutil.rmtree(root / product, ignore_errors=True)
    everything = sources(CONTRACT)
    contract = [source for source in everything if not source.startswith(INTERNAL)]
    stubs = ["--python_out=OUT", "--mypy_out=quiet:OUT"]
    for out, package in ((SERVER_GEN, "popsigner_server.gen"), (GATEWAY_GEN, "popsigner_gateway.gen")):
        python(root / out, package, f"-I{CONTRACT}", *stubs, "--grpc_python_out=OUT", "--mypy_grpc_out=quiet:OUT",
               *everything)  # fmt: skip
    python(root / SERVER_GEN, "popsigner_server.gen", f"-I{ENGINE}", *stubs, PACKED)
    python(root / PLUGIN_GEN, "popsigner_plugin.gen", f"-I{ENGINE}", *stubs, "--grpclib_python_out=OUT",
           *sources(ENGINE))  # fmt: skip
    sdk = root / SDK_GEN
    sdk.mkdir(parents=True)
    protoc(f"-I{CONTRACT}", f"--python_betterproto2_out={sdk}", "--python_betterproto2_opt=client_generation=none",
           *contract)  # fmt: skip
    gateway = root / GATEWAY
    gateway.mkdir(parents=True, exist_ok=True)
    protoc(f"-I{CONTRACT}", "--include_imports", f"--descriptor_set_out={gateway / 'descriptors.binpb'}",
           *contract, "google/rpc/status.proto", "google/rpc/error_details.proto")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        commented = Path(scratch) / "commented.binpb"
        protoc(f"-I{CONTRACT}", "--include_imports", "--include_source_info", f"--descriptor_set_out={commented}",
               *contract)  # fmt: skip
        command = [sys.executable, "-m", "popsigner_gateway.openapi", str(commented), str(gateway / "openapi.json")]
        subprocess.run(command, check=True)


def differences(one: Path, other: Path) -> list[str]:
    if one.is_file() or other.is_file():
        same = one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)
        return [] if same else [str(one)]
    ours, theirs = ({p.relative_to(d) for d in (folder,) for p in d.rglob("*") if p.is_file() and p.suffix != ".pyc"}
                    for folder in (one, other))  # fmt: skip
    changed = {p for p in ours & theirs if not filecmp.cmp(one / p, other / p, shallow=False)}
    return sorted(str(one / p) for p in (ours ^ theirs) | changed)


def check() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = [name for product in PRODUCTS for name in differences(ROOT / product, Path(scratch) / product)]
    if stale:
        sys.exit("These files are not what the contract makes; run `make proto`:\n  " + "\n  ".join(stale))
    print("generated files are current")


def buf(*arguments: str) -> None:
    link = ROOT / "third_party"
    if not link.is_symlink() or link.resolve() != SITE_PACKAGES.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(SITE_PACKAGES)
    done = subprocess.run(["buf", *arguments], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--check", "--lint", "--baseline"):
        parser.add_argument(flag, action="store_true")
    chosen = parser.parse_args()
    if chosen.lint:
        buf("lint", "proto")
        buf("breaking", "proto", "--exclude-imports", "--against", str(BASELINE.relative_to(ROOT)))
        print("the contract lints and breaks nothing")
    elif chosen.baseline:
        buf("build", "proto", "--output", str(BASELINE.relative_to(ROOT)))
    elif chosen.check:
        check()
    else:
        generate(ROOT)


if __name__ == "__main__":
    main()
