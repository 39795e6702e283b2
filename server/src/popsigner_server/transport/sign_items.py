"""Items of a batch or a stream message: read with the batch's defaults, signed, answered in their order."""

from collections.abc import Sequence
from dataclasses import dataclass

from popsigner_server import errors
from popsigner_server.domain.digests import HashAlgorithm
from popsigner_server.domain.principals import Caller
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.errors import SignerError
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.signing import Ask, Outcome
from popsigner_server.signing.signer import MAX_ITEMS, Signer
from popsigner_server.transport import convert


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What items that do not say take from their batch."""

    prehashed: bool = False
    hash: HashAlgorithm = HashAlgorithm.SHA256
    format: SignatureFormat = SignatureFormat.COMPACT
    sign_mode: str = ""


async def sign_items(
    signer: Signer, caller: Caller, items: Sequence[sign_pb2.SignItem], defaults: Defaults, deadline: float | None
) -> list[sign_pb2.SignResult]:
    """A result an item. Raises BatchEmpty, BatchTooLarge, and what fails the whole batch.

    A failure of the trip is not every item's error but the call's: a caller retries it as a whole.
    """
    if not items:
        raise errors.BatchEmpty
    if len(items) > MAX_ITEMS:
        raise errors.BatchTooLarge
    outcomes: list[Outcome | None] = [None] * len(items)
    asks: list[Ask] = []
    asked: list[int] = []
    for i, item in enumerate(items):
        try:
            asks.append(_ask(item, defaults))
            asked.append(i)
        except SignerError as error:
            outcomes[i] = error
    if asks:
        for i, outcome in zip(asked, await signer.sign(caller, asks, deadline), strict=True):
            outcomes[i] = outcome
    return [
        convert.result_to_proto(item.key_id, outcome)
        for item, outcome in zip(items, outcomes, strict=True)
        if outcome is not None
    ]


def _ask(item: sign_pb2.SignItem, defaults: Defaults) -> Ask:
    return Ask(
        key=item.key_id,
        data=item.data,
        prehashed=item.prehashed if item.HasField("prehashed") else defaults.prehashed,
        hash=convert.hash_algorithm(item.hash) or defaults.hash,
        format=convert.signature_format(item.format) or defaults.format,
        sign_mode=item.sign_mode or defaults.sign_mode or None,
        request_id=item.request_id or None,
        version=item.key_version,
    )
