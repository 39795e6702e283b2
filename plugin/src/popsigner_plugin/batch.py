"""The packed batch: columns in, columns out (packed.proto says what they hold)."""

import asyncio
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from google.protobuf.message import DecodeError

from popsigner_plugin.cache import KeyCache
from popsigner_plugin.curve import DIGEST_BYTES, Format, SigningKey, raw_columns, sign_columns, write_columns
from popsigner_plugin.errors import BadInput
from popsigner_plugin.gen.popsigner.engine.v1.packed_pb2 import (
    DISABLED,
    NONE,
    UNKNOWN_KEY,
    VERSION_UNAVAILABLE,
    KeyVersion,
    PackedSignRequest,
    PackedSignResponse,
    Refusal,
)
from popsigner_plugin.keys import Key

MAX_ITEMS: Final = 16_384
# From this on a batch is signed in two threads or more; below it that costs as much as it saves (docs/engine.md has the
# measurement).
_SPLIT: Final = 64
_ITEMS_A_THREAD: Final = 48
# Items that the event loop's thread signs itself at most, while all other requests wait. Of a batch of twice as many it
# takes one half: it need not be woken, and saves a third of the time that two other threads take.
_HERE: Final = 64
_FORMATS: Final = frozenset(Format)


class BatchSigner:
    """Signs batches with the cache's keys, large ones in several threads. Writes nothing to storage."""

    def __init__(self, cache: KeyCache) -> None:
        self._cache = cache
        self._threads = max(1, len(os.sched_getaffinity(0)))
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="sign")

    async def sign(self, packed: bytes) -> bytes:
        """PackedSignRequest -> PackedSignResponse. Raises BadInput for columns that do not fit together."""
        request = _checked(packed)
        signers, versions, refusals = await self._signers(list(request.keys))
        signatures = await self._sign_columns(request, signers)
        return PackedSignResponse(
            signatures=signatures, versions=versions, refusals=refusals if any(refusals) else ()
        ).SerializeToString()

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _signers(
        self, wanted: list[KeyVersion]
    ) -> tuple[list[SigningKey | None], list[int], "list[Refusal.ValueType]"]:
        while True:
            generation = self._cache.generation
            keys = [self._cache.held(key.name) for key in wanted]
            if None in keys:
                keys = await asyncio.gather(*(self._cache.get(key.name) for key in wanted))
            # Something was dropped while a cold key was read: what was found first may be no longer true.
            if generation == self._cache.generation:
                break
        chosen = [_choose(key, want.version) for key, want in zip(keys, wanted, strict=True)]
        return [c[0] for c in chosen], [c[1] for c in chosen], [c[2] for c in chosen]

    async def _sign_columns(self, request: PackedSignRequest, signers: list[SigningKey | None]) -> list[bytes]:
        key_index, digests, formats = list(request.key_index), request.digests, list(request.formats)
        count = len(key_index)
        if self._threads < 2 or count < _SPLIT:
            return sign_columns(signers, key_index, digests, formats)
        # How many slices this thread signs.
        here = 1 if count <= 2 * _HERE else 0
        slices = 2 if here else min(self._threads, count // _ITEMS_A_THREAD)
        bounds = [count * part // slices for part in range(slices + 1)]
        columns = [
            (signers, key_index[low:high], digests[low * DIGEST_BYTES : high * DIGEST_BYTES])
            for low, high in itertools.pairwise(bounds)
        ]
        run = asyncio.get_running_loop().run_in_executor
        parts = [run(self._executor, raw_columns, *each) for each in columns[here:]]
        own = [raw_columns(*each) for each in columns[:here]]
        signed = zip(itertools.pairwise(bounds), [*own, *await asyncio.gather(*parts)], strict=True)
        return [
            signature
            for (low, high), part in signed
            for signature in write_columns(signers, key_index[low:high], part, formats[low:high])
        ]


def _checked(packed: bytes) -> PackedSignRequest:
    try:
        request = PackedSignRequest.FromString(packed)
    except DecodeError:
        raise BadInput("`packed` is not a PackedSignRequest message.") from None
    count = len(request.key_index)
    if not 1 <= count <= MAX_ITEMS:
        raise BadInput(f"A batch has 1 to {MAX_ITEMS} items, this one has {count}.")
    if len(request.digests) != count * DIGEST_BYTES:
        raise BadInput(f"{count} items need {count * DIGEST_BYTES} bytes of digests, not {len(request.digests)}.")
    if max(request.key_index) >= len(request.keys):
        raise BadInput(f"An item names key {max(request.key_index)}, the batch has {len(request.keys)} keys.")
    if request.formats and (len(request.formats) != count or not _FORMATS.issuperset(request.formats)):
        raise BadInput("`formats` must be empty or hold one known format for each item.")
    return request


def _choose(key: Key | None, number: int) -> tuple[SigningKey | None, int, "Refusal.ValueType"]:
    if key is None:
        return None, 0, UNKNOWN_KEY
    if not key.enabled:
        return None, 0, DISABLED
    version = key.signing_version(number)
    if version is None:
        return None, 0, VERSION_UNAVAILABLE
    return version.signer, version.number, NONE
