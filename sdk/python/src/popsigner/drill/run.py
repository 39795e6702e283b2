"""The drill itself: all keys out, as a leaver would; then a signature with each from what came out; then a report."""

import datetime
import hashlib
from importlib.metadata import version as installed_version
from typing import Final

from ..client import Client
from ..errors import NotFound, RoleMissing, ScopeMissing
from ..gen.popsigner.v1 import Key, KeyState, Recovery, Role, WhoamiResponse
from ..keyfiles import age
from ..keyfiles.errors import PublicKeyMismatch, WrongPassphrase
from ..keyfiles.secret import PublicFacts
from ..possession import sign
from .place import Place
from .report import DELETED, PASSED, Attestation, KeyReport, Report, VersionReport, canonical, challenge
from .ways import Progress, Subject, Ways, each

SCOPES: Final = ("api:keys:read", "api:keys:sign", "api:keys:export")
SIGN_MODE: Final = "EXIT_DRILL"


class Drill:
    """One drill over every key of the client's organization. It holds the report in memory, and little more.

    `identity` is the content of the identity file of the organization's recovery recipient; without one only exportable
    keys come out. `sign_with` (id or `namespace/name`) is the key that signs the report, by default the oldest that is
    enabled. `progress` hears what is being done, how much of it is done, and of how much.
    """

    def __init__(
        self,
        client: Client,
        place: Place,
        *,
        identity: bytes | bytearray | None = None,
        sign_with: str = "",
        progress: Progress = lambda _what, _done, _whole: None,
    ) -> None:
        self._client = client
        self._place = place
        self._identity = identity
        self._sign_with = sign_with
        self._progress = progress

    def run(self) -> Report:
        """What came out; what failed for one key is in the report.

        Raises RoleMissing, ScopeMissing (who asks may not export), WrongPassphrase (the identity is another
        recipient's), KeyNotFound (`sign_with`), and what makes it useless to go on asking the POP.
        """
        me = self._client.whoami()
        check_rights(me)
        if self._sign_with:
            # Not only at the end of a long drill.
            self._client.keys.get(self._sign_with)
        recovery = self._client.recovery.get()
        self._check_identity(recovery)
        report = Report(
            organization_id=me.organization.id if me.organization else "",
            organization_name=me.organization.name if me.organization else "",
            pop=self._client.endpoint.shown,
            tool=f"popsigner {installed_version('popsigner')}",
            recipient=recovery.recipient,
            nonce=self._place.run,
            started_at=_now(),
        )
        subjects = self._subjects()
        report.keys = [subject.report for subject in subjects]
        # Neither the deleted ones, nor those whose versions could not be read.
        live = [subject for subject in subjects if not subject.report.result]
        ways = Ways(self._client, self._place, self._identity, self._progress)
        ways.export([subject for subject in live if subject.key.exportable])
        ways.recover([subject for subject in live if not subject.out], recovery)
        self._prove([subject for subject in live if subject.out], report)
        report.finished_at = _now()
        return report

    def attest(self, report: Report) -> None:
        """Have a key of the POP sign the report. Raises NotFound where no key can, and what a signature fails with."""
        named = self._sign_with
        can = [
            key
            for key in report.keys
            if (named in (key.id, f"{key.namespace}/{key.name}") if named else key.state == KeyState.ENABLED.name)
        ]
        if not can:
            raise NotFound("no key of the organization is enabled, so that none can sign the report")
        key, version = can[0], can[0].versions[-1].version
        signed = self._client.sign(
            key.id,
            hashlib.sha256(canonical(report.body())).digest(),
            prehashed=True,
            sign_mode=SIGN_MODE,
            request_id=f"exit-drill-{report.nonce}",
            key_version=version,
        )
        report.attestation = Attestation(
            key_id=key.id,
            key_version=version,
            public_key=signed.public_key,
            signature=signed.signature.hex(),
            request_id=signed.request_id,
        )

    def _check_identity(self, recovery: Recovery) -> None:
        if self._identity is None or not recovery.recipient:
            return
        if recovery.recipient not in age.recipients(self._identity):
            raise WrongPassphrase(f"the identity is not that of {recovery.recipient}, the organization's recipient")

    def _subjects(self) -> list[Subject]:
        prefixes = {namespace.name: namespace.address_prefix for namespace in self._client.namespaces.list()}
        subjects = [_subject(key, prefixes[key.namespace]) for key in self._client.keys.list()]
        rotated = [subject for subject in subjects if subject.key.version > 1]
        each("reading versions", rotated, self._read_versions, self._progress)
        return subjects

    def _read_versions(self, subject: Subject) -> None:
        subject.report.versions = [
            VersionReport(
                version=told.version, public_key=told.public_key, address=told.address, eth_address=told.eth_address
            )
            for told in reversed(self._client.keys.versions(subject.key))
        ]

    def _prove(self, subjects: list[Subject], report: Report) -> None:
        """Sign with every version from what is in the folder, and compare it with what the POP names."""

        def work(subject: Subject) -> None:
            for told in subject.report.versions:
                data = challenge(
                    organization=report.organization_id,
                    key_id=subject.key.id,
                    version=told.version,
                    nonce=report.nonce,
                )
                with self._place.take(subject.copies[told.version]) as secret:
                    _compare(secret.facts, told, subject.report.address_prefix)
                    signature = sign(secret, data)
                if not self._client.verify(subject.key, data, signature, key_version=told.version):
                    raise PublicKeyMismatch(
                        f"the POP does not take the signature of version {told.version} for its key's"
                    )
                told.signature = signature.hex()
            subject.report.result = PASSED

        each("signing outside the POP", subjects, work, self._progress)


def check_rights(me: WhoamiResponse) -> None:
    """Raises RoleMissing, ScopeMissing with the sentence for who asks. An API key that is limited to some keys has no
    role, so none passes that would see half of them."""
    if (me.role or Role.ROLE_UNSPECIFIED) < Role.ADMIN:
        raise RoleMissing("an exit drill exports every key, so it needs the role ADMIN or OWNER, which you do not have")
    if missing := [scope for scope in SCOPES if scope not in me.scopes]:
        raise ScopeMissing(f"an exit drill also needs {', '.join(missing)}, which this API key does not have")


def _subject(key: Key, address_prefix: str) -> Subject:
    report = KeyReport(
        id=key.id,
        namespace=key.namespace,
        name=key.name,
        state=key.state.name or "",
        exportable=key.exportable,
        address_prefix=address_prefix,
        result=DELETED if key.state is KeyState.DELETED else "",
        versions=[
            VersionReport(
                version=key.version, public_key=key.public_key, address=key.address, eth_address=key.eth_address
            )
        ],
    )
    return Subject(key, report)


def _compare(facts: PublicFacts, told: VersionReport, address_prefix: str) -> None:
    found = (facts.public_key.hex(), facts.address(address_prefix), facts.eth_address)
    if found != (told.public_key, told.address, told.eth_address):
        raise PublicKeyMismatch(f"version {told.version} has another public key or address than the POP names")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
