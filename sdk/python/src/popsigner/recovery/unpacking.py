"""From a bundle to key files: every private key that opens, written where `migrate export` would write it."""

from collections.abc import Iterator

from ..keyfiles.errors import DamagedFile, EntryExists, EntryMissing, PublicKeyMismatch
from ..migration.results import Outcome, Result
from ..migration.targets import Slot, Target
from .bundle import Bundle
from .opening import OpenedKey, OpenedVersion, opened

# Where a key goes whose label does not open; its name is then its id.
UNNAMED = "unnamed"


def unpack(
    bundle: Bundle, identity: bytes | bytearray, target: Target | None, chosen: frozenset[str] = frozenset()
) -> Iterator[Result]:
    """What came of each version in turn; without a `target` nothing is written. `chosen` names keys by
    `namespace/name`, id or public key (66 hexadecimal characters); empty means all of them.

    A repetition finds what is written already, and writes over nothing. The private keys are wiped. Raises what
    `opening.check_identity` does.
    """
    found: set[str] = set()
    for key in opened(bundle, identity):
        try:
            names = _names(key) & chosen
            if names or not chosen:
                found |= names
                yield from _unpacked(key, target)
        finally:
            for version in key.versions:
                version.secret.wipe()
    for name in sorted(chosen - found):
        yield _failed(name, EntryMissing("the bundle has no such key, or it does not open"))
    if not chosen:
        for sentence in bundle.damage:
            yield _failed("", DamagedFile(f"the bundle is damaged: {sentence}"))
        for public_key in bundle.uncovered:
            yield _failed("", EntryMissing(f"the bundle has no copy for the public key {public_key.hex()}"))


def _names(key: OpenedKey) -> set[str]:
    return {_shown(key), key.key_id, *(sealed.public_key.hex() for sealed in key.entry.versions)}


def _shown(key: OpenedKey) -> str:
    return f"{key.label.namespace}/{key.label.name}" if key.label else f"{UNNAMED}/{key.key_id}"


def _unpacked(key: OpenedKey, target: Target | None) -> Iterator[Result]:
    newest = max(len(key.entry.versions), *(version.version for version in key.versions), 0)
    for version in key.versions:
        facts = version.secret.facts
        result = Result(
            place="",
            key=_shown(key),
            version=version.version,
            public_key=facts.public_key.hex(),
            address=facts.address(key.label.address_prefix) if key.label else "",
            eth_address=facts.eth_address,
        )
        with result.attempt():
            _write(key, version, newest, target, result)
        yield result
    for problem in key.problems:
        yield _failed(_shown(key) if key.key_id else "", DamagedFile(problem))


def _write(key: OpenedKey, version: OpenedVersion, newest: int, target: Target | None, result: Result) -> None:
    if target is None:
        result.outcome = Outcome.OPENED
        return
    namespace, name = (key.label.namespace, key.label.name) if key.label else (UNNAMED, key.key_id)
    slot = Slot(namespace=namespace, name=name, version=version.version, older=version.version != newest)
    result.place = target.place(slot)
    there = target.existing(slot)
    if there is None:
        target.write(slot, version.secret)
        result.outcome = Outcome.RECOVERED
    else:
        with there:
            if there.facts.public_key.hex() != result.public_key:
                raise EntryExists(f"{result.place} holds another key, and nothing is overwritten")
        result.outcome = Outcome.PRESENT
    with target.read(slot) as written:
        if written.facts.public_key.hex() != result.public_key:
            raise PublicKeyMismatch(f"{result.place} does not hold what was written")
    result.verified = True


def _failed(key: str, error: DamagedFile | EntryMissing) -> Result:
    return Result(place="", key=key, outcome=Outcome.FAILED, error=error)
