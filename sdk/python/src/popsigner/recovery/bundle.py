"""The recovery bundle: the sealed copies of an organization's keys in one file that may be published.

Text, one JSON object a line, so that `jq`, `base64` and `age` open it where this program is gone: a header with the
recipient; a line for each key, sorted by its first public key; a line with the public keys that have no copy; an end
with the number of keys and a SHA-256 over all lines before it. What is damaged is named, and costs nothing but itself.
"""

import base64
import binascii
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..keyfiles import files
from ..keyfiles.errors import EntryMissing, FileUnusable, NotThisFormat, UnsupportedParameters

FORMAT: Final = "popsigner-recovery-bundle"
VERSION: Final = 1
# A hundred thousand keys; the whole is in memory.
MAX_BYTES: Final = 256 * 1024 * 1024
_ABOUT: Final = (
    "One line for each key. label and ciphertext are base64 of age files (age-encryption.org/v1); the identity of the "
    "recipient opens them."
)
_PUBLIC_KEY: Final = re.compile(r"0[23][0-9a-f]{64}")
_NAMED: Final = re.compile(rb'"public_key":"(0[23][0-9a-f]{64})"')
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedVersion:
    """The sealed private key of one version, and its public key: 33 bytes, compressed (SEC 1, 2.3.3)."""

    public_key: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One key: its sealed label, and at least one version, oldest first. `line` is its place in a file, from 1; 0 for
    one that is in none."""

    label: bytes
    versions: tuple[SealedVersion, ...]
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a bundle holds. `recipient` is the age recipient that everything is sealed to; `uncovered` are public keys
    (33 bytes) of versions without a copy; `damage` is one sentence for each thing that is not as it was written."""

    recipient: str
    entries: tuple[Entry, ...]
    uncovered: tuple[bytes, ...]
    damage: tuple[str, ...] = ()


def encode(bundle: Bundle) -> bytes:
    """The bundle as the bytes of its file. The same keys in another order give the same bytes."""
    entries = sorted(bundle.entries, key=lambda entry: entry.versions[0].public_key)
    lines = [
        {"about": _ABOUT, "format": FORMAT, "recipient": bundle.recipient, "version": VERSION},
        *map(_entry_line, entries),
        {"uncovered": sorted(public_key.hex() for public_key in bundle.uncovered)},
    ]
    content = b"".join(map(_line, lines))
    return content + _line({"keys": len(entries), "sha256": hashlib.sha256(content).hexdigest()})


def write(path: Path, bundle: Bundle) -> None:
    """Write a new file, whole or not at all. Raises EntryExists, EntryMissing (no such folder), FileUnusable."""
    with files.locked(path.parent):
        files.write_sealed(path, encode(bundle))


def read(path: Path) -> Bundle:
    """Read a file of at most 256 MiB. Raises EntryMissing, FileUnusable, NotThisFormat, UnsupportedParameters (a later
    version of the format)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise EntryMissing(f"there is no file {path}") from None
    except OSError as error:
        raise files.unusable(path, error) from None
    try:
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
                raise FileUnusable(f"{path} is not a regular file of at most {MAX_BYTES} bytes")
            content = file.read(MAX_BYTES)
    except OSError as error:
        raise files.unusable(path, error) from None
    return decode(content)


def decode(content: bytes) -> Bundle:
    """The bundle in the bytes of a file. Raises NotThisFormat, UnsupportedParameters."""
    first, *lines = content.split(b"\n")
    recipient = _recipient(first)
    reading = _Reading(hashlib.sha256(first + b"\n"))
    for number, line in enumerate(lines[:-1], start=2):
        reading.take(number, line)
    reading.finish(lines[-1] if lines else b"")
    return Bundle(
        recipient=recipient,
        entries=tuple(reading.entries),
        uncovered=tuple(reading.uncovered),
        damage=tuple(reading.damage),
    )


@dataclass(slots=True)
class _Reading:
    """What was read so far, behind the header."""

    digest: "hashlib._Hash"
    entries: list[Entry] = field(default_factory=list)
    uncovered: list[bytes] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    damaged_lines: int = 0
    listed: bool = False
    ended: bool = False

    def take(self, number: int, line: bytes) -> None:
        """Read one whole line."""
        found = _object(line)
        if self.ended:
            self.damage.append(f"line {number} comes after the end")
        elif found is not None and found.keys() == {"keys", "sha256"}:
            self._end(number, found)
        elif found is not None and found.keys() == {"uncovered"}:
            self._list_uncovered(number, found["uncovered"])
        else:
            self._entry(number, line, found)
        self.digest.update(line + b"\n")

    def finish(self, rest: bytes) -> None:
        """Judge what is left after the last whole line."""
        if not self.ended:
            self.damage.append("the end is missing: the file was cut off, and keys may be missing")
        elif rest:
            self.damage.append("the file goes on after its end")

    def _entry(self, number: int, line: bytes, found: dict[str, Any] | None) -> None:
        entry, whole = _entry(number, found)
        if entry is None:
            self.damaged_lines += 1
        else:
            self.entries.append(entry)
        if not whole:
            named = ", ".join(each.decode() for each in _NAMED.findall(line)) or "none of them readable"
            self.damage.append(f"line {number} is damaged: the copies of one key, with the public keys {named}")

    def _list_uncovered(self, number: int, given: Any) -> None:
        found = [_public_key(each) for each in given] if isinstance(given, list) else [None]
        if self.listed or None in found:
            self.damage.append(f"line {number} is damaged, which lists the public keys without a copy")
        self.listed = True
        self.uncovered += [each for each in found if each is not None]

    def _end(self, number: int, found: dict[str, Any]) -> None:
        self.ended = True
        count = len(self.entries) + self.damaged_lines
        if found["keys"] != count:
            self.damage.append(f"the end, line {number}, counts another number of keys than the {count} that are there")
        elif found["sha256"] != self.digest.hexdigest():
            self.damage.append(f"the SHA-256 in the end, line {number}, is not that of the lines before it")


def entries_of(copies: Iterable[Any]) -> list[Entry]:
    """RecoveryCopy messages as entries. Raises NotThisFormat for an answer that is none."""
    found = []
    for copy in copies:
        versions = [(_public_key(each.public_key), each.ciphertext) for each in copy.versions]
        if not versions or None in [public_key for public_key, _ in versions]:
            raise NotThisFormat("the POP's answer is not a list of recovery copies")
        found.append(
            Entry(
                label=copy.label,
                versions=tuple(
                    SealedVersion(public_key=public_key, ciphertext=ciphertext)
                    for public_key, ciphertext in versions
                    if public_key is not None
                ),
            )
        )
    return found


def _line(found: dict[str, Any]) -> bytes:
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _entry_line(entry: Entry) -> dict[str, Any]:
    versions = [
        {"ciphertext": base64.b64encode(each.ciphertext).decode(), "public_key": each.public_key.hex()}
        for each in entry.versions
    ]
    return {"label": base64.b64encode(entry.label).decode(), "versions": versions}


def _recipient(line: bytes) -> str:
    header = _object(line)
    if header is None or header.get("format") != FORMAT or not isinstance(header.get("recipient"), str):
        raise NotThisFormat(
            f'this is not a recovery bundle: its first line has no "format":"{FORMAT}" and no recipient'
        )
    if header.get("version") != VERSION:
        raise UnsupportedParameters(f"the bundle's version is not {VERSION}; a newer popsigner may read it")
    return str(header["recipient"])


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _entry(number: int, found: dict[str, Any] | None) -> tuple[Entry | None, bool]:
    """What can be read of an entry, and whether that is all of it."""
    if found is None or found.keys() != {"label", "versions"} or not isinstance(found["versions"], list):
        return None, False
    label = _base64(found["label"])
    versions = [_version(each) for each in found["versions"]]
    good = tuple(each for each in versions if each is not None)
    entry = Entry(label=label or b"", versions=good, line=number) if good else None
    return entry, entry is not None and label is not None and len(good) == len(versions)


def _version(found: Any) -> SealedVersion | None:
    if not isinstance(found, dict) or found.keys() != {"ciphertext", "public_key"}:
        return None
    public_key, ciphertext = _public_key(found["public_key"]), _base64(found["ciphertext"])
    if public_key is None or ciphertext is None:
        return None
    return SealedVersion(public_key=public_key, ciphertext=ciphertext)


def _public_key(given: Any) -> bytes | None:
    return bytes.fromhex(given) if isinstance(given, str) and _PUBLIC_KEY.fullmatch(given) else None


def _base64(given: Any) -> bytes | None:
    try:
        return base64.b64decode(given, validate=True) if isinstance(given, str) else None
    except (binascii.Error, ValueError):
        return None
