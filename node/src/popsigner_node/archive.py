"""The file of a backup: a tar archive sealed to age recipients (C2SP age v1), which the ordinary programs open too:
`age -d -i identity.txt pop.age | tar -x`.

Both directions work in pieces of 64 KiB; memory does not grow with the archive.
"""

import functools
import hashlib
import os
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import pyrage  # type: ignore[import-untyped]  # it publishes no types

from popsigner_node.age_keys import Identity, Recipient
from popsigner_node.errors import Exit, NodeError
from popsigner_node.manifest import MOST_BYTES, NAME, Manifest, Member

_CHUNK = 2**16

Sink = Callable[[str], IO[bytes] | None]


class Target(Protocol):
    """What an archive is written to."""

    def write(self, data: memoryview, /) -> int: ...

    def flush(self) -> None: ...


class Interrupted(Exception):
    """The operator stopped the work."""


def seal(
    manifest: Manifest,
    files: Mapping[str, Path | bytes],
    *,
    recipients: Sequence[Recipient],
    to: Target,
    stop: threading.Event,
) -> None:
    """Write the archive of `files`, which are those that the manifest names. Raises OSError, Interrupted, NodeError."""
    ends = _Ends(source=_tarred(manifest, files), target=to, stop=stop)
    try:
        pyrage.encrypt_io(ends, ends, list(recipients))
    except pyrage.EncryptError as error:
        raise ends.failure or NodeError(f"The archive cannot be sealed: {error}.") from error


class _Ends:
    """What age reads from and writes to. It reports our own exceptions as text: `failure` keeps the first."""

    def __init__(self, *, source: Iterator[bytes], target: Target, stop: threading.Event) -> None:
        self.failure: BaseException | None = None
        self._source = source
        self._target = target
        self._stop = stop
        self._rest = b""

    def read(self, size: int) -> bytes:
        with self._kept():
            if self._stop.is_set():
                raise Interrupted
            while not self._rest:
                piece = next(self._source, None)
                if piece is None:
                    return b""
                self._rest = piece
            piece, self._rest = self._rest[:size], self._rest[size:]
            return piece

    def write(self, data: bytes) -> int:
        with self._kept():
            view = memoryview(data)
            while view:
                view = view[self._target.write(view) :]
            return len(data)

    def flush(self) -> None:
        with self._kept():
            self._target.flush()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.failure = self.failure or error
            raise


def _tarred(manifest: Manifest, files: Mapping[str, Path | bytes]) -> Iterator[bytes]:
    text = manifest.encoded()
    yield from _member(NAME, Member(size=len(text), sha256=hashlib.sha256(text).hexdigest()), text)
    for name, member in manifest.members.items():
        yield from _member(name, member, files[name])
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(name: str, member: Member, content: Path | bytes) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = member.size, 0o600
    yield info.tobuf(tarfile.GNU_FORMAT)
    digest = hashlib.sha256()
    for piece in [content] if isinstance(content, bytes) else pieces(content):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != member.sha256:
        raise NodeError(f"The disk gave {name} back with other bytes than were written: make the backup again.")
    yield bytes(-member.size % tarfile.BLOCKSIZE)


def pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(functools.partial(file.read, _CHUNK), b"")


def described(content: Path | bytes) -> Member:
    """Size and digest of what goes into an archive."""
    digest, size = hashlib.sha256(), 0
    for piece in [content] if isinstance(content, bytes) else pieces(content):
        digest.update(piece)
        size += len(piece)
    return Member(size=size, sha256=digest.hexdigest())


def unseal(path: Path, identities: Sequence[Identity], *, sink: Sink, stop: threading.Event) -> Manifest:
    """Read an archive to its end, check every digest, and hand each member's bytes to the file that `sink` answers for
    its name (None: to nobody). Returns the manifest.

    What a sink was given is to be believed only after the return. Raises NodeError (ARCHIVE_UNREADABLE, OTHER_VERSION),
    OSError of a sink, Interrupted.
    """
    reader, writer = os.pipe()
    opening = _Opening(path, identities, writer)
    try:
        with os.fdopen(reader, "rb") as plain:
            opening.start()
            manifest, failure = None, None
            try:
                manifest = _read(plain, sink, stop)
            except (tarfile.TarError, EOFError) as error:
                failure = error
            # To the end: age looks at its last piece when somebody asks for it, and says whether it was there.
            while plain.read(_CHUNK):
                pass
    finally:
        opening.join()
    if opening.failure is not None:
        raise opening.failure
    if manifest is None:
        raise _unreadable(path, "is not a backup, or is damaged") from failure
    return manifest


class _Opening(threading.Thread):
    """Decrypts into a pipe: age gives what it opened, tar asks for what it wants."""

    def __init__(self, path: Path, identities: Sequence[Identity], writer: int) -> None:
        super().__init__(name="opening an archive")
        self.failure: Exception | None = None
        self._path = path
        self._identities = identities
        self._writer = writer

    def run(self) -> None:
        try:
            with os.fdopen(self._writer, "wb") as plain, self._path.open("rb") as sealed:
                pyrage.decrypt_io(sealed, plain, list(self._identities))
        except BrokenPipeError:
            # The reader has had enough, and says why.
            return
        except pyrage.DecryptError as error:
            if "No matching keys" in str(error):
                words = "was sealed to other recipients: no identity in --identity opens it"
            else:
                words = "is not an age file, or only its beginning"
            self.failure = _unreadable(self._path, words)
        except OSError as error:
            self.failure = error if error.errno else _unreadable(self._path, "is damaged or cut short")


def _read(plain: IO[bytes], sink: Sink, stop: threading.Event) -> Manifest:
    with tarfile.open(fileobj=plain, mode="r|") as archive:
        first = archive.next()
        if first is None or first.name != NAME or not first.isreg() or first.size > MOST_BYTES:
            raise tarfile.ReadError("there is no manifest")
        content = archive.extractfile(first)
        manifest = Manifest.decoded(b"" if content is None else content.read())
        missing = dict(manifest.members)
        while (info := archive.next()) is not None:
            member, content = missing.pop(info.name, None), archive.extractfile(info) if info.isreg() else None
            if member is None or content is None:
                raise tarfile.ReadError("a member is none of the manifest's")
            _copy(content, member, sink(info.name), stop)
    if missing:
        raise tarfile.ReadError("members are missing")
    return manifest


def _copy(content: IO[bytes], member: Member, into: IO[bytes] | None, stop: threading.Event) -> None:
    digest = hashlib.sha256()
    try:
        while piece := content.read(_CHUNK):
            if stop.is_set():
                raise Interrupted
            digest.update(piece)
            if into is not None:
                into.write(piece)
        if into is not None:
            into.flush()
            os.fsync(into.fileno())
    finally:
        if into is not None:
            into.close()
    if digest.hexdigest() != member.sha256:
        raise tarfile.ReadError("a member is not what the manifest says")


def _unreadable(path: Path, words: str) -> NodeError:
    return NodeError(f"{path} {words}; nothing was changed.", code=Exit.ARCHIVE_UNREADABLE)
