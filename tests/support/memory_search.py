"""Looks for a secret where it must not be: in the memory of processes and in the files below folders.

hits = search_memory([pid], secret)      # [Hit(pid=41, mapping="[heap]", address=0x55..., spelling="raw")]
files = search_files([folder], secret)   # [FileHit(path=..., spelling="hex")]

Reading another process's memory needs the right to trace it: the same user where the kernel's Yama allows it, or root.
"""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CHUNK: Final = 16 * 2**20
_INT_DIGIT_BITS: Final = 30
# The kernel's own pages, which hold nothing of the process.
_KERNEL: Final = frozenset({"[vvar]", "[vvar_vclock]", "[vsyscall]", "[vdso]"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One copy in memory. mapping: a file's path, [heap], [stack] or "anonymous". address: of its first byte."""

    pid: int
    mapping: str
    address: int
    spelling: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHit:
    """A file that holds the secret at least once in that spelling."""

    path: Path
    spelling: str


def spellings(secret: bytes) -> dict[str, bytes]:
    """The forms in which programs write bytes (16 or more of them), each under a name.

    Raw in both byte orders (libsecp256k1 and OpenSSL count in the other one), hexadecimal, base64 in its two alphabets
    and in the three ways in which the secret can stand in what was encoded, decimal, and the digits of a Python int.
    """
    number = int.from_bytes(secret, "big")
    digits = -(-8 * len(secret) // _INT_DIGIT_BITS)
    words = [number >> _INT_DIGIT_BITS * place & (1 << _INT_DIGIT_BITS) - 1 for place in range(digits)]
    found = {
        "raw": secret,
        "raw, reversed": secret[::-1],
        "hex": secret.hex().encode(),
        "hex, upper case": secret.hex().upper().encode(),
        "decimal": str(number).encode(),
        "int": b"".join(word.to_bytes(4, "little") for word in words),
    }
    for shift in range(3):
        # Only the characters that no neighbour of the secret has a part in.
        inner = slice(-(-8 * shift // 6), 8 * (shift + len(secret)) // 6)
        text = base64.b64encode(bytes(shift) + secret)[inner]
        found[f"base64, shifted by {shift}"] = text
        found[f"base64url, shifted by {shift}"] = text.replace(b"+", b"-").replace(b"/", b"_")
    return found


def search_memory(pids: Iterable[int], secret: bytes) -> list[Hit]:
    """Every copy of the secret in what these processes may have written to and can read."""
    needles = _needles(secret)
    return [
        Hit(pid=pid, mapping=mapping, address=address, spelling=needles[found])
        for pid in pids
        for mapping, start, end in _mappings(pid)
        for address, found in _found(pid, start, end, needles)
    ]


def search_files(folders: Iterable[Path], secret: bytes) -> list[FileHit]:
    """Every file at or below these folders that holds the secret, once for each spelling."""
    needles = _needles(secret)
    hits = []
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            if path.is_file():
                content = path.read_bytes()
                hits += [FileHit(path=path, spelling=name) for needle, name in needles.items() if needle in content]
    return hits


def _needles(secret: bytes) -> dict[bytes, str]:
    # The first name stays where two spellings are the same bytes.
    return {needle: name for name, needle in reversed(spellings(secret).items())}


def _mappings(pid: int) -> Iterator[tuple[str, int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        place, rights, _, _, _, *path = line.split(maxsplit=5)
        mapping = path[0] if path else "anonymous"
        # What a process can only read of a file is what the file holds.
        written = "w" in rights or not mapping.startswith("/")
        if rights.startswith("r") and written and mapping not in _KERNEL:
            start, end = (int(edge, 16) for edge in place.split("-"))
            yield mapping, start, end


def _found(pid: int, start: int, end: int, needles: dict[bytes, str]) -> Iterator[tuple[int, bytes]]:
    longest = max(map(len, needles))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for chunk in range(start, end, _CHUNK):
            memory.seek(chunk)
            try:
                # A little more, for a copy that the chunk's end cuts.
                content = memory.read(min(end - chunk, _CHUNK + longest - 1))
            except OSError:
                # A mapping without pages behind it, or one that has gone since it was listed.
                continue
            for needle in needles:
                place = content.find(needle)
                while 0 <= place < _CHUNK:
                    yield chunk + place, needle
                    place = content.find(needle, place + 1)
