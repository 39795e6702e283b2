"""A batch that is signed in slices, here and in other threads, is what one thread makes of it: nonces are RFC 6979, so
that signatures are the same."""

import os
import random
from typing import Any

import pytest

from popsigner_plugin.batch import BatchSigner
from popsigner_plugin.cache import KeyCache
from popsigner_plugin.curve import DIGEST_BYTES, Format, SigningKey, sign_columns
from popsigner_plugin.gen.popsigner.engine.v1.packed_pb2 import PackedSignRequest
from popsigner_plugin.keys import Key


async def nothing(name: str) -> Key | None:
    raise AssertionError("the keys are given")


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 127, 128, 129, 143, 256, 1_001])
async def test_every_item_has_its_own_signature_in_its_place(threads: int, count: int) -> None:
    signer = BatchSigner(KeyCache(nothing))
    signer._threads = threads
    keys = [SigningKey.generated(), None, SigningKey.generated()]
    formats: Any = [random.choice(list(Format)) for _ in range(count)]
    request = PackedSignRequest(
        key_index=[random.randrange(3) for _ in range(count)],
        digests=os.urandom(count * DIGEST_BYTES),
        formats=formats if count % 2 else [],
    )
    signed = await signer._sign_columns(request, keys)
    assert signed == sign_columns(keys, list(request.key_index), request.digests, list(request.formats))
    signer.close()
