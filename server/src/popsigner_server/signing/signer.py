"""From what is asked to what is released: which key, which digest, then the batcher."""

import asyncio
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from popsigner_server import errors
from popsigner_server.domain.digests import digest_of
from popsigner_server.domain.keys import KeyState
from popsigner_server.domain.principals import Bounds, Caller
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

    async def submit(self, order: Order) -> list[bytes | SignerError]: ...


class Signer:
    """Signs lists of asks; each has its own outcome."""

    def __init__(self, keys: KeySource, batcher: Submitter, tracer: Tracer) -> None:
        self._keys = keys
        self._batcher = batcher
        self._tracer = tracer

    async def sign(self, caller: Caller, asks: Sequence[Ask], deadline: float | None) -> list[Outcome]:
        """For each ask its released signature, or why there is none.

        `deadline` is in the event loop's time. Raises BatchEmpty, BatchTooLarge, and what fails the whole batch:
        QueueFull, DeadlinePassed, VaultUnavailable, LedgerUnavailable, Draining.
        """
        if not asks:
            raise errors.BatchEmpty
        if len(asks) > MAX_ITEMS:
            raise errors.BatchTooLarge
        organization, bounds = caller.principal.organization_id, caller.principal.bounds
        outcomes: list[Outcome | None] = [None] * len(asks)
        keys: list[SigningKey | None] = [None] * len(asks)
        requests: set[str] = set()
        for i, ask in enumerate(asks):
            try:
                _check(ask, requests)
                keys[i] = await self._key(organization, ask, bounds)
            except SignerError as error:
                outcomes[i] = error
        good = [i for i, key in enumerate(keys) if key is not None]
        if good:
            chosen = [asks[i] for i in good]
            released = await self._release(caller, chosen, [key for key in keys if key is not None], deadline)
            for i, outcome in zip(good, released, strict=True):
                outcomes[i] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    async def _release(
        self, caller: Caller, asks: list[Ask], keys: list[SigningKey], deadline: float | None
    ) -> list[Outcome]:
        outcomes = await self._submit(caller, asks, keys, deadline)
        # Who leaves the version open asks for the one that signs. The cache may have been older than a rotation that
        # was followed by a new minimum: those are looked up anew, and once more is enough.
        stale = {
            i: ask
            for i, (ask, outcome) in enumerate(zip(asks, outcomes, strict=True))
            if isinstance(outcome, errors.KeyVersionUnavailable) and not ask.version
        }
        fresh: dict[int, SigningKey] = {}
        for i, ask in stale.items():
            try:
                fresh[i] = await self._look_up(caller.principal.organization_id, ask, caller.principal.bounds)
            except SignerError as error:
                outcomes[i] = error
        if fresh:
            # The others are signed and released: what fails from here on fails these items alone.
            try:
                late = await self._submit(caller, [asks[i] for i in fresh], list(fresh.values()), deadline)
            except SignerError as error:
                late = [error] * len(fresh)
            for i, outcome in zip(fresh, late, strict=True):
                outcomes[i] = outcome
        return outcomes

    async def _submit(
        self, caller: Caller, asks: list[Ask], keys: list[SigningKey], deadline: float | None
    ) -> list[Outcome]:
        order = await _order(caller, asks, keys, deadline)
        order.link = self._tracer.link()
        return [
            Signature(value=value, key=key, format=ask.format) if isinstance(value, bytes) else value
            for ask, key, value in zip(asks, keys, await self._batcher.submit(order), strict=True)
        ]

    async def _key(self, organization: UUID, ask: Ask, bounds: Bounds) -> SigningKey:
        found = self._keys.cached(organization, ask.key, ask.version, bounds)
        if found is not None and found[1] is KeyState.ENABLED:
            return found[0]
        # A refusal is never taken from the cache: it may be older than the change that lifted it.
        return await self._look_up(organization, ask, bounds)

    async def _look_up(self, organization: UUID, ask: Ask, bounds: Bounds) -> SigningKey:
        key, state = await self._keys.find(organization, ask.key, ask.version, bounds)
        if state is KeyState.ENABLED:
            return key
        raise errors.KeyDeleted if state is KeyState.DELETED else errors.KeyDisabled


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


async def _order(caller: Caller, asks: list[Ask], keys: list[SigningKey], deadline: float | None) -> Order:
    if sum([len(ask.data) for ask in asks]) > HASH_INLINE:
        digests = await asyncio.to_thread(_digests, asks)
    else:
        digests = _digests(asks)
    modes = [ask.sign_mode for ask in asks]
    requests = [ask.request_id for ask in asks]
    return Order(
        caller=caller,
        keys=keys,
        digests=digests,
        hashes=[PREHASHED if ask.prehashed else ask.hash.value for ask in asks],
        formats=[ask.format.value for ask in asks],
        modes=modes if any(modes) else None,
        requests=requests if any(requests) else None,
        deadline=deadline,
        done=asyncio.get_running_loop().create_future(),
    )


def _digests(asks: list[Ask]) -> bytes:
    return b"".join([digest_of(ask.data, hash=ask.hash, prehashed=ask.prehashed) for ask in asks])
