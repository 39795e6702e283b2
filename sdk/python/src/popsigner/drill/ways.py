"""The two ways out of the POP: an export, sealed to a key pair of the moment, and the recovery copies with their
identity. Both end in the drill's folder."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from ..client import Client
from ..errors import InternalError, NotFound, PreconditionFailed
from ..gen.popsigner.v1 import Key, Recovery
from ..keyfiles.errors import EntryMissing, KeyFileError, PublicKeyMismatch
from ..keyfiles.secret import Secret
from ..recovery.bundle import Entry, entries_of
from ..recovery.opening import open_version
from ..wrapping import KeyPair
from .place import Place
from .report import FAILED, KeyReport

# Calls under way at once: the POP has other things to do.
AT_ONCE: Final = 8
EXPORT: Final = "export"
RECOVERY: Final = "recovery"
Progress = Callable[[str, int, int], None]

# What one key's failure may be; everything else ends the drill, which then says nothing about any key.
_OF_ONE_KEY: Final = (InternalError, KeyFileError, NotFound, PreconditionFailed)
_REGISTER: Final = "register a recipient with `popsigner recovery set`, and wait until its copies are made"
_NOT_YET: Final = "it has no recovery copy yet; `popsigner recovery show` says what waits"


@dataclass(slots=True)
class Subject:
    """A key under test: what is reported of it, and where its copies lie, by version."""

    key: Key
    report: KeyReport
    copies: dict[int, Path] = field(default_factory=dict)

    @property
    def out(self) -> bool:
        """Whether every version is in the folder."""
        return len(self.copies) == len(self.report.versions)


def each(
    what: str,
    subjects: Sequence[Subject],
    work: Callable[[Subject], None],
    progress: Progress,
    *,
    before: int = 0,
    whole: int | None = None,
) -> None:
    """Do the work for all of them, some at a time; `before` of the `whole` are done. What concerns one key goes into
    its report; anything else is raised when the work that is under way has ended."""

    def one(subject: Subject) -> None:
        try:
            work(subject)
        except _OF_ONE_KEY as error:
            subject.report.problems.append(error.message)
            subject.report.result = FAILED

    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(one, subject) for subject in subjects]
        try:
            for done, future in enumerate(as_completed(futures), start=before + 1):
                future.result()
                progress(what, done, len(subjects) if whole is None else whole)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@dataclass(frozen=True, slots=True)
class Ways:
    """Both ways, from one POP into one folder. `identity` is that of the recovery recipient, where there is one."""

    client: Client
    place: Place
    identity: bytes | bytearray | None = field(repr=False)
    progress: Progress

    def export(self, subjects: Sequence[Subject]) -> None:
        """By ExportKey. The key pair is nowhere but in this process."""
        key_pair = KeyPair()

        def work(subject: Subject) -> None:
            versions = tuple(told.version for told in subject.report.versions)
            answer = self.client.keys.export(subject.key, recipient=key_pair.recipient, versions=versions)
            with ExitStack() as held:
                opened = key_pair.open(answer)
                for secret in opened.values():
                    held.enter_context(secret)
                for version, secret in opened.items():
                    self._keep(subject, version, secret)
            subject.report.way = EXPORT

        each("exporting", subjects, work, self.progress)

    def recover(self, subjects: Sequence[Subject], recovery: Recovery) -> None:
        """By the recovery copies, page by page. Afterwards each of these keys is out, or has failed and says why."""
        advice = _NOT_YET
        if not recovery.recipient:
            advice = _REGISTER
        elif self.identity is None:
            advice = "give the identity of the recovery recipient with --identity"
        elif subjects:
            self._recover(subjects, self.identity)
        for subject in subjects:
            if subject.out:
                continue
            if subject.report.way != RECOVERY:
                subject.report.problems.append(advice if subject.key.exportable else f"it is not exportable: {advice}")
            subject.report.result, subject.report.way = FAILED, ""

    def _recover(self, subjects: Sequence[Subject], identity: bytes | bytearray) -> None:
        wanted = {subject.report.versions[0].public_key: subject for subject in subjects}
        before = 0
        for page in self.client.recovery.copies():
            found = {entry.versions[0].public_key.hex(): entry for entry in entries_of(page.copies)}
            present = [subject for public_key, subject in wanted.items() if public_key in found]
            work = partial(self._open, found, identity)
            each("recovering", present, work, self.progress, before=before, whole=len(subjects))
            before += len(present)
        if before < len(subjects):
            # No more copies come.
            self.progress("recovering", before, before)

    def _open(self, found: Mapping[str, Entry], identity: bytes | bytearray, subject: Subject) -> None:
        subject.copies.clear()
        subject.report.way = RECOVERY
        for sealed in found[subject.report.versions[0].public_key].versions:
            opened = open_version(sealed, identity)
            with opened.secret:
                if opened.key_id != subject.key.id:
                    raise PublicKeyMismatch("a recovery copy is another key's")
                self._keep(subject, opened.version, opened.secret)
        if not subject.out:
            raise EntryMissing("its recovery copies do not hold every version")
        # An export that failed before does not count any more.
        subject.report.problems.clear()
        subject.report.result = ""

    def _keep(self, subject: Subject, version: int, secret: Secret) -> None:
        """Write what came out into the folder, if it is of the key that the POP names."""
        told = {each.version: each.public_key for each in subject.report.versions}
        if version not in told:
            return  # The key was rotated since the drill began.
        if secret.facts.public_key.hex() != told[version]:
            raise PublicKeyMismatch(f"what came out is not the private key of version {version}")
        subject.copies[version] = self.place.keep(secret)
