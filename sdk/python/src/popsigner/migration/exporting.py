"""The way out: one version of a key after the other, each repeatable.

What is at its place already is read and compared, so that a repetition after an interruption asks the POP for nothing
that is there, and writes over nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .. import possession
from ..client import Client
from ..errors import InternalError
from ..gen.popsigner.v1 import Key, KeyVersion
from ..keyfiles import EntryExists, Secret
from ..wrapping import KeyPair
from .results import Outcome, Result, VerificationFailed
from .targets import Slot, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One version to export, and what came of it."""

    key: Key
    slot: Slot
    result: Result


def jobs(client: Client, target: Target, keys: Iterable[Key], *, all_versions: bool) -> list[Job]:
    """What is to be done for these keys: the newest version of each, or every one, oldest first.

    Raises FileUnusable where two of them have the same place, and what the calls raise.
    """
    found: dict[str, Job] = {}
    for key in keys:
        for told in _versions(client, key, all_versions=all_versions):
            slot = Slot(namespace=key.namespace, name=key.name, version=told.version, older=told.version != key.version)
            result = Result(
                place=target.place(slot),
                key=f"{key.namespace}/{key.name}",
                version=told.version,
                public_key=told.public_key,
                address=told.address,
                eth_address=told.eth_address,
            )
            other = found.setdefault(result.place, Job(key=key, slot=slot, result=result))
            if other.result is not result and other.key.id != key.id:
                raise EntryExists(
                    f"{other.result.key} and {result.key} both go to {result.place}; export them one by one"
                )
    return list(found.values())


class Exporter:
    """Brings keys out of the POP into a target. `verify`: the POP has to take a signature that was made outside it."""

    def __init__(self, client: Client, target: Target, *, verify: bool = True) -> None:
        self._client = client
        self._target = target
        self._verify = verify
        self._pair: KeyPair | None = None

    def bring_out(self, job: Job) -> None:
        """Export one version, unless it is there, and verify what was written.

        Raises EntryExists (another key is there), VerificationFailed, and what the calls raise; `job.result` says how
        far it came.
        """
        there = self._target.existing(job.slot)
        if there is None:
            self._export(job)
            job.result.outcome = Outcome.EXPORTED
        else:
            with there:
                if there.facts.public_key.hex() != job.result.public_key:
                    raise EntryExists(f"{job.result.place} holds another key, and nothing is overwritten")
            job.result.outcome = Outcome.PRESENT
        if self._verify:
            with self._target.read(job.slot) as secret:
                self._verified(job, secret)

    def _export(self, job: Job) -> None:
        # One for all: making it takes longer than an export.
        self._pair = self._pair or KeyPair()
        version = job.slot.version
        with self._client.keys.export_private(job.key, version=version, key_pair=self._pair) as secret:
            if secret.facts.public_key.hex() != job.result.public_key:
                raise InternalError(f"the POP exported another private key than that of {job.result.key}")
            self._target.write(job.slot, secret)

    def _verified(self, job: Job, secret: Secret) -> None:
        if secret.facts.public_key.hex() != job.result.public_key:
            raise VerificationFailed(f"{job.result.place} does not hold {job.result.key}")
        message = possession.challenge()
        signature = possession.sign(secret, message)
        if not self._client.verify(job.key, message, signature, key_version=job.slot.version):
            raise VerificationFailed(f"the POP does not take what {job.result.place} signs for {job.result.key}'s")
        job.result.verified = True


def _versions(client: Client, key: Key, *, all_versions: bool) -> Sequence[KeyVersion]:
    if all_versions and key.version > 1:
        return tuple(reversed(client.keys.versions(key)))
    newest = KeyVersion(
        version=key.version, public_key=key.public_key, address=key.address, eth_address=key.eth_address
    )
    return (newest,)
