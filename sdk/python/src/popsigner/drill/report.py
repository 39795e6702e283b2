"""What a drill found, as one JSON document, and how an auditor checks it without any POP.

Everything but `attestation` is signed, in canonical JSON (RFC 8785): a key of the organization signs its SHA-256 in the
POP, which leaves a row in the audit trail with the same digest. Each version's own signature was made outside the POP.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ..keyfiles.errors import NotThisFormat, UnsupportedParameters
from ..keyfiles.secret import PublicFacts
from ..possession import verifies

FORMAT: Final = "popsigner-exit-drill"
VERSION: Final = 1
# `result` of a key.
PASSED: Final = "passed"
FAILED: Final = "failed"
# On its way to destruction by its owner's order, so nothing that the owner would take along.
DELETED: Final = "deleted"
_PUBLIC_KEY: Final = re.compile(r"0[23][0-9a-f]{64}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")


@dataclass(slots=True, kw_only=True)
class VersionReport:
    """One version: its public key (33 bytes, hexadecimal), its addresses as the POP names them, and the signature (64
    bytes, hexadecimal, compact) that was made outside; empty where there is none."""

    version: int
    public_key: str
    address: str
    eth_address: str
    signature: str = ""


@dataclass(slots=True, kw_only=True)
class KeyReport:
    """One key. `way` is how it came out, `export` or `recovery`, empty for one that did not; `problems` are sentences
    that say why, and what to do."""

    id: str
    namespace: str
    name: str
    state: str
    exportable: bool
    address_prefix: str
    way: str = ""
    result: str = ""
    problems: list[str] = field(default_factory=list)
    versions: list[VersionReport] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Attestation:
    """Which key of the POP signed the report: its id, version, public key, and the signature (64 bytes, compact) over
    the SHA-256 of the report's canonical JSON; `request_id` is in the audit row."""

    key_id: str
    key_version: int
    public_key: str
    signature: str
    request_id: str


@dataclass(slots=True, kw_only=True)
class Report:
    """A whole drill. Times are RFC 3339 in UTC, by the clock of the machine that ran it; `nonce` is in every
    challenge."""

    organization_id: str
    organization_name: str
    pop: str
    tool: str
    recipient: str
    nonce: str
    started_at: str
    finished_at: str = ""
    keys: list[KeyReport] = field(default_factory=list)
    attestation: Attestation | None = None

    @property
    def passed(self) -> bool:
        """Whether every key that is not deleted came out."""
        return all(key.result != FAILED for key in self.keys)

    @property
    def totals(self) -> dict[str, int]:
        """How many, of what."""
        out = [key for key in self.keys if key.result == PASSED]
        return {
            "deleted": sum(key.result == DELETED for key in self.keys),
            "exported": sum(key.way == "export" for key in out),
            "failed": sum(key.result == FAILED for key in self.keys),
            "keys": len(self.keys),
            "recovered": sum(key.way == "recovery" for key in out),
            "versions": sum(len(key.versions) for key in out),
        }

    def body(self) -> dict[str, Any]:
        """What is signed."""
        return {
            "finished_at": self.finished_at,
            "format": FORMAT,
            "keys": [asdict(key) for key in self.keys],
            "nonce": self.nonce,
            "organization": {"id": self.organization_id, "name": self.organization_name},
            "passed": self.passed,
            "pop": self.pop,
            "recipient": self.recipient,
            "started_at": self.started_at,
            "tool": self.tool,
            "totals": self.totals,
            "version": VERSION,
        }

    def document(self) -> dict[str, Any]:
        """The whole report."""
        return self.body() | {"attestation": asdict(self.attestation) if self.attestation else None}


def canonical(body: dict[str, Any]) -> bytes:
    """The body's canonical JSON (RFC 8785; it holds no numbers but small whole ones)."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def challenge(*, organization: str, key_id: str, version: int, nonce: str) -> bytes:
    """What one version signs outside the POP. It is no transaction of any chain, and belongs to one drill alone."""
    return f"popsigner exit drill\n{organization}\n{key_id} version {version}\n{nonce}\n".encode()


def check(content: bytes) -> tuple[dict[str, Any], list[str]]:
    """Check a report's file offline: every signature, every address, what it says of itself. The report, and a sentence
    for each thing that does not hold; none where all does.

    Whose key signed it is for the reader to compare, with an address that they know. Raises NotThisFormat,
    UnsupportedParameters.
    """
    try:
        document = json.loads(content)
        body = {name: value for name, value in document.items() if name != "attestation"}
    except (ValueError, RecursionError, AttributeError):
        document, body = {}, {}
    if body.get("format") != FORMAT:
        raise NotThisFormat(f'this is not the report of an exit drill: it has no "format":"{FORMAT}"')
    if body.get("version") != VERSION:
        raise UnsupportedParameters(f"the report's version is not {VERSION}; a newer popsigner may check it")
    try:
        problems = _attestation_problems(body, document["attestation"]) + _body_problems(body)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise NotThisFormat("the report is not whole: something is missing in it, or is of another kind") from None
    return document, problems


def _attestation_problems(body: dict[str, Any], given: Any) -> list[str]:
    if given is None:
        return ["the report is not signed"]
    attestation = Attestation(**given)
    public_key, signature = bytes.fromhex(attestation.public_key), bytes.fromhex(attestation.signature)
    if not verifies(public_key, canonical(body), signature):
        return ["the report's signature does not hold: it was changed, or another key signed it"]
    named = (attestation.key_id, attestation.key_version, attestation.public_key)
    if named not in [
        (key["id"], each["version"], each["public_key"]) for key in body["keys"] for each in key["versions"]
    ]:
        return ["the key that signed the report is none of its keys"]
    return []


def _body_problems(body: dict[str, Any]) -> list[str]:
    problems = []
    keys = [_key(each) for each in body["keys"]]
    for key in keys:
        problems += [f"{key.namespace}/{key.name}: {problem}" for problem in _key_problems(body, key)]
    told = Report(
        organization_id=body["organization"]["id"],
        organization_name=body["organization"]["name"],
        pop=body["pop"],
        tool=body["tool"],
        recipient=body["recipient"],
        nonce=body["nonce"],
        started_at=body["started_at"],
        finished_at=body["finished_at"],
        keys=keys,
    )
    if told.totals != body["totals"] or told.passed is not body["passed"]:
        problems.append("the totals are not those of the keys")
    if not told.passed:
        problems.append(f"the drill failed for {told.totals['failed']} of {told.totals['keys']} keys")
    return problems


def _key(given: dict[str, Any]) -> KeyReport:
    return KeyReport(**given | {"versions": [VersionReport(**each) for each in given["versions"]]})


def _key_problems(body: dict[str, Any], key: KeyReport) -> list[str]:
    if key.result in (FAILED, DELETED):
        return []
    if key.result != PASSED or not key.versions:
        return ["it has no result"]
    return [
        f"version {each.version}: {problem}" for each in key.versions for problem in _version_problems(body, key, each)
    ]


def _version_problems(body: dict[str, Any], key: KeyReport, given: VersionReport) -> list[str]:
    if not _PUBLIC_KEY.fullmatch(given.public_key) or not _SIGNATURE.fullmatch(given.signature):
        return ["there is no public key or no signature"]
    public_key = bytes.fromhex(given.public_key)
    signed = challenge(
        organization=body["organization"]["id"], key_id=key.id, version=given.version, nonce=body["nonce"]
    )
    problems = []
    if not verifies(public_key, signed, bytes.fromhex(given.signature)):
        problems.append("the signature is not one of this key over the drill's challenge")
    facts = PublicFacts(public_key)
    if (facts.address(key.address_prefix), facts.eth_address) != (given.address, given.eth_address):
        problems.append("the addresses are not those of the public key")
    return problems
