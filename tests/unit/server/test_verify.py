"""Verify: what is large is hashed beside the event loop, and the answer is the same."""

import threading
from typing import Any, cast
from uuid import UUID

import coincurve
import pytest

from popsigner_server.domain.digests import HashAlgorithm, digest_of
from popsigner_server.domain.principals import ActorKind, Caller, Principal, Role
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.keys.cache import KeyCache
from popsigner_server.signing.signer import HASH_INLINE, MAX_DATA
from popsigner_server.transport.handlers import verify as module
from popsigner_server.transport.interceptors.base import Call

ORGANIZATION = UUID(int=1)
KEY = coincurve.PrivateKey(b"\x01" * 32)
CODES = {HashAlgorithm.SHA256: sign_pb2.SHA256, HashAlgorithm.KECCAK256: sign_pb2.KECCAK256}


class Context:
    """A gRPC call without metadata."""

    def invocation_metadata(self) -> None:
        return None


def call() -> Call:
    made = Call(cast(Any, Context()))
    principal = Principal(
        organization_id=ORGANIZATION,
        actor_id=ORGANIZATION,
        actor_kind=ActorKind.API_KEY,
        scopes=frozenset(),
        role=Role.UNSPECIFIED,
        expires_at=None,
        plan="free",
    )
    made.caller = Caller(principal=principal, ip_address=None, user_agent=None)
    return made


@pytest.mark.parametrize("hash_algorithm", list(HashAlgorithm))
@pytest.mark.parametrize(
    ("size", "beside"), [(0, False), (HASH_INLINE, False), (HASH_INLINE + 1, True), (MAX_DATA, True)]
)
async def test_what_is_large_is_hashed_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, hash_algorithm: HashAlgorithm, size: int, beside: bool
) -> None:
    """1 MiB of Keccak takes 10 ms: a hundred calls a second of one organization would be a standstill for everybody."""
    threads: list[int] = []

    def watched(data: bytes, **how: Any) -> bytes:
        threads.append(threading.get_ident())
        return digest_of(data, **how)

    monkeypatch.setattr(module, "digest_of", watched)
    data = b"\x5a" * size
    digest = digest_of(data, hash=hash_algorithm, prehashed=False)
    answers = []
    for signed in (digest, bytes(32)):
        request = sign_pb2.VerifyRequest(
            data=data,
            hash=CODES[hash_algorithm],
            public_key=KEY.public_key.format().hex(),
            signature=KEY.sign_recoverable(signed, hasher=None)[:64],
        )
        answers.append((await module.verify(cast(KeyCache, None))(call(), request)).valid)
    assert answers == [True, False]
    assert [thread != threading.get_ident() for thread in threads] == [beside, beside]
