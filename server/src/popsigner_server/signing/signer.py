"""From what is asked to what is released: which key, which digest, then the batcher."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol
from uuid import UUID

from popsigner_server import errors
from popsigner_server.domain.digests import HashAlgorithm, digest_of
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import Bounds, Caller
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.errors import SignerError
from popsigner_server.signing import Ask, Order, Outcome, Signature, SigningKey
from popsigner_server.telemetry import Tracer

MAX_DATA = 1 << 20
MAX_ITEMS = 256
MAX_SIGN_MODE = 64
MAX_REQUEST_ID = 64
# Hashing more than this is moved off the event loop; below it the move costs more than the hash.
HASH_INLINE = 128 << 10
# Code of a prehashed digest in the audit row.
PREHASHED = 0
SHA256, COMPACT = HashAlgorithm.SHA256, SignatureFormat.COMPACT
# An enum's `value` is a call; nearly all items have these two.
_SHA256, _COMPACT = SHA256.value, COMPACT.value


class KeySource(Protocol):
    """Where the signer finds keys: a cache first, the database behind it. Neither gives one beyond the bounds."""

    def cached(
        self, organization_id: UUID, reference: str, version: int, bounds: Bounds
    ) -> tuple[SigningKey, KeyState] | None: ...

    async def find(
        self, organization_id: UUID, reference: str, version: int, bounds: Bounds
    ) -> tuple[SigningKey, KeyState]:
        """Raises KeyNotFound, KeyVersionUnavailable."""
        ...


class Submitter(Protocol):
    """The batcher, as the signer sees it."""

    def check_room(self, organization: UUID, items: int) -> None: ...

    def hashing(self, organization: UUID, size: int) -> AbstractContextManager[None]: ...

    async def submit(self, order: Order) -> list[bytes | SignerError]: ...


class Signer:
    """Signs lists of asks; each has its own outcome."""

    def __init__(self, keys: KeySource, batcher: Submitter, tracer: Tracer) -> None:
        self._keys = keys
        self._batcher = batcher
        self._tracer = tracer

    def check_room(self, caller: Caller, items: int) -> None:
        """Raise QueueFull or Draining where so many items would be refused, before they are read, looked up and hashed:
        that costs many times what this does, and a flood would get it for nothing."""
        self._batcher.check_room(caller.principal.organization_id, items)

    async def sign(self, caller: Caller, asks: Sequence[Ask], deadline: float | None) -> list[Outcome]:
        """For each ask its released signature, or why there is none.

        `deadline` is in the event loop's time. Raises BatchEmpty, BatchTooLarge, and what fails the whole batch:
        QueueFull, DeadlinePassed, VaultUnavailable, LedgerUnavailable, Draining.
        """
        if not asks:
            raise errors.BatchEmpty
        if len(asks) > MAX_ITEMS:
            raise errors.BatchTooLarge
        good: list[Ask] = []
        keys: list[SigningKey] = []
        bad: dict[int, SignerError] = {}
        requests: set[str] = set()
        # A batch has few keys: each is looked up once, also one that does not exist.
        found: dict[tuple[str, int], SigningKey | SignerError] = {}
        for i, ask in enumerate(asks):
            try:
                _check(ask, requests)
            except SignerError as error:
                bad[i] = errors.untraced(error)
                continue
            key = found.get((ask.key, ask.version))
            if key is None:
                key = found[ask.key, ask.version] = await self._found(caller, ask)
            if isinstance(key, SignerError):
                bad[i] = key
            else:
                good.append(ask)
                keys.append(key)
        outcomes = await self._release(caller, good, keys, deadline) if good else []
        for i, refusal in bad.items():
            outcomes.insert(i, refusal)
        return outcomes

    async def _release(
        self, caller: Caller, asks: list[Ask], keys: list[SigningKey], deadline: float | None
    ) -> list[Outcome]:
        outcomes = await self._submit(caller, asks, keys, deadline)
        # Who leaves the version open asks for the one that signs. The cache may have been older than a rotation that
        # was followed by a new minimum: those are looked up anew, and once more is enough.
        stale = [
            i
            for i, outcome in enumerate(outcomes)
            if type(outcome) is errors.KeyVersionUnavailable and not asks[i].version
        ]
        fresh: dict[int, SigningKey] = {}
        for i in stale:
            found = await self._look_up(caller, asks[i])
            if isinstance(found, SignerError):
                outcomes[i] = found
            else:
                fresh[i] = found
        if fresh:
            # The others are signed and released: what fails from here on fails these items alone.
            try:
                late = await self._submit(caller, [asks[i] for i in fresh], list(fresh.values()), deadline)
            except SignerError as error:
                late = [errors.untraced(error)] * len(fresh)
            for i, outcome in zip(fresh, late, strict=True):
                outcomes[i] = outcome
        return outcomes

    async def _submit(
        self, caller: Caller, asks: list[Ask], keys: list[SigningKey], deadline: float | None
    ) -> list[Outcome]:
        order = await self._order(caller, asks, keys, deadline)
        order.link = self._tracer.link()
        return [
            Signature(value, key, ask.format) if isinstance(value, bytes) else value
            for ask, key, value in zip(asks, keys, await self._batcher.submit(order), strict=True)
        ]

    async def _order(self, caller: Caller, asks: list[Ask], keys: list[SigningKey], deadline: float | None) -> Order:
        size = sum([len(ask.data) for ask in asks])
        if size > HASH_INLINE:
            with self._batcher.hashing(caller.principal.organization_id, size):
                digests = await asyncio.to_thread(_digests, asks)
        else:
            digests = _digests(asks)
        modes = [ask.sign_mode for ask in asks]
        requests = [ask.request_id for ask in asks]
        return Order(
            caller=caller,
            keys=keys,
            digests=digests,
            hashes=[PREHASHED if ask.prehashed else _SHA256 if ask.hash is SHA256 else ask.hash.value for ask in asks],
            formats=[_COMPACT if ask.format is COMPACT else ask.format.value for ask in asks],
            modes=modes if any(modes) else None,
            requests=requests if any(requests) else None,
            size=size,
            deadline=deadline,
            done=asyncio.get_running_loop().create_future(),
        )

    async def _found(self, caller: Caller, ask: Ask) -> SigningKey | SignerError:
        principal = caller.principal
        found = self._keys.cached(principal.organization_id, ask.key, ask.version, principal.bounds)
        if found is not None and found[1] is KeyState.ENABLED:
            return found[0]
        # A refusal is never taken from the cache: it may be older than the change that lifted it.
        return await self._look_up(caller, ask)

    async def _look_up(self, caller: Caller, ask: Ask) -> SigningKey | SignerError:
        principal = caller.principal
        try:
            key, state = await self._keys.find(principal.organization_id, ask.key, ask.version, principal.bounds)
        except SignerError as error:
            return error
        if state is KeyState.ENABLED:
            return key
        return errors.KeyDeleted() if state is KeyState.DELETED else errors.KeyDisabled()


def _check(ask: Ask, requests: set[str]) -> None:
    if len(ask.data) > MAX_DATA:
        raise errors.DataTooLarge
    if ask.prehashed and len(ask.data) != 32:
        raise errors.DigestLength
    if ask.sign_mode is not None and (len(ask.sign_mode) > MAX_SIGN_MODE or not ask.sign_mode.isprintable()):
        raise errors.InvalidField("sign_mode", f"must be at most {MAX_SIGN_MODE} printable characters.")
    if ask.request_id is not None:
        if len(ask.request_id) > MAX_REQUEST_ID or not ask.request_id.isprintable():
            raise errors.InvalidField("request_id", f"must be at most {MAX_REQUEST_ID} printable characters.")
        if ask.request_id in requests:
            raise errors.InvalidField("request_id", "occurs twice in this batch; give each item its own.")
        requests.add(ask.request_id)


def _digests(asks: list[Ask]) -> bytes:
    return b"".join([digest_of(ask.data, hash=ask.hash, prehashed=ask.prehashed) for ask in asks])
