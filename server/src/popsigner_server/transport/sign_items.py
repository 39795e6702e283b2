"""Items of a batch or a stream message: read with the batch's defaults, signed, answered in their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from popsigner_server import errors
from popsigner_server.domain.digests import HashAlgorithm
from popsigner_server.domain.principals import Caller
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.errors import SignerError
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.signing import Ask, Outcome
from popsigner_server.signing.signer import MAX_ITEMS, Signer
from popsigner_server.transport import convert

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What items that do not say take from their batch."""

    prehashed: bool = False
    hash: HashAlgorithm = HashAlgorithm.SHA256
    format: SignatureFormat = SignatureFormat.COMPACT
    sign_mode: str = ""


async def sign_items(
    signer: Signer, caller: Caller, items: Sequence[sign_pb2.SignItem], defaults: Defaults, deadline: float | None
) -> list[Outcome]:
    """An outcome an item. Raises BatchEmpty, BatchTooLarge, QueueFull, and what fails the whole batch.

    A failure of the trip is not every item's error but the call's: a caller retries it as a whole.
    """
    if not items:
        raise errors.BatchEmpty
    if len(items) > MAX_ITEMS:
        raise errors.BatchTooLarge
    signer.check_room(caller, len(items))
    asks: list[Ask] = []
    unread: dict[int, SignerError] = {}
    for i, item in enumerate(items):
        try:
            asks.append(_ask(item, defaults))
        except SignerError as error:
            unread[i] = errors.untraced(error)
    outcomes = await signer.sign(caller, asks, deadline) if asks else []
    for i, refusal in unread.items():
        outcomes.insert(i, refusal)
    return outcomes


def answer_items(
    items: Sequence[sign_pb2.SignItem],
    outcomes: Sequence[Outcome],
    results: "RepeatedCompositeFieldContainer[sign_pb2.SignResult]",
) -> None:
    """Write a result an item into the answer's own field: making messages for it, which are copied there, takes ten
    times as long."""
    for item, outcome in zip(items, outcomes, strict=True):
        result = results.add()
        result.key_id = item.key_id
        convert.write_outcome(outcome, result)


def _ask(item: sign_pb2.SignItem, defaults: Defaults) -> Ask:
    hash_code, format_code = item.hash, item.format
    return Ask(
        item.key_id,
        item.data,
        item.prehashed if item.HasField("prehashed") else defaults.prehashed,
        (convert.hash_algorithm(hash_code) if hash_code else None) or defaults.hash,
        (convert.signature_format(format_code) if format_code else None) or defaults.format,
        item.sign_mode or defaults.sign_mode or None,
        item.request_id or None,
        item.key_version,
    )
