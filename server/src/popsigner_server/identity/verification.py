"""From a presented API key to its principal, at the price of Argon2id once a key, process and minute.

The cache is keyed by a keyed hash of the whole presented text, so that it holds no secret and a hit needs no compare of
secrets. Wrong keys are remembered too. What the cache says is a hint: the release gate reads the API key again in the
transaction that releases a signature.
"""

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Protocol, TypeVar
from uuid import UUID

from popsigner_server import errors
from popsigner_server.domain.principals import Principal
from popsigner_server.errors import SignerError
from popsigner_server.identity import PresentedKey, parse_api_key
from popsigner_server.identity.hashing import verify_secret

T = TypeVar("T")

# Seconds that an answer is remembered.
REMEMBERED = 60.0
CACHE_SIZE = 16_384
# Wrong keys have a cache of their own: a flood of them must not push the good ones out.
WRONG_CACHE_SIZE = 4_096
# Argon2id verifications at once, and waiting for their turn; each holds 19 MiB while it runs.
THREADS = 2
WAITING = 64


class KeyRecords(Protocol):
    """Where the stored API keys are."""

    async def load(self, api_key_id: UUID) -> tuple[Principal, str, datetime | None] | None:
        """The principal, its hash and when it was revoked; None for an unknown id."""
        ...

    async def note_use(self, api_key_id: UUID) -> None:
        """Remember that the key was used."""
        ...


class Verifier:
    """Verifies presented API keys."""

    def __init__(
        self,
        records: KeyRecords,
        *,
        environment: str,
        clock: Callable[[], float],
        verified: Callable[[float], None],
    ) -> None:
        self._records = records
        self._environment = environment
        self._clock = clock
        self._verified = verified
        self._pepper = secrets.token_bytes(32)
        self._good: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._wrong: OrderedDict[bytes, tuple[SignerError, float]] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Task[Principal]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._generation = 0
        self.hits = 0
        self.misses = 0

    async def principal(self, presented: str) -> Principal:
        """The principal of a presented key. Raises CredentialsInvalid, ApiKeyRevoked, ApiKeyExpired,
        AuthenticationBusy."""
        place = hashlib.blake2b(presented.encode("utf-8", "replace"), key=self._pepper, digest_size=32).digest()
        now = self._clock()
        found = self._good.get(place)
        if found is not None and found[1] > now:
            self.hits += 1
            return _unexpired(found[0])
        wrong = self._wrong.get(place)
        if wrong is not None and wrong[1] > now:
            self.hits += 1
            # One object for every caller: without this each raise would add its frames to the last one's, for a minute.
            raise wrong[0].with_traceback(None)
        self.misses += 1
        key = parse_api_key(presented)
        if key.environment != self._environment:
            raise errors.CredentialsInvalid(f"This POP takes psk_{self._environment}_… keys only.")
        # Callers that come with the same key at once wait for one verification.
        task = self._under_way.get(place)
        if task is None:
            if len(self._under_way) >= WAITING:
                raise errors.AuthenticationBusy(retry_after=1.0)
            task = self._under_way[place] = asyncio.create_task(self._verify(place, key))
            task.add_done_callback(lambda done: self._ended(place, done))
        return await asyncio.shield(task)

    def _ended(self, place: bytes, task: asyncio.Task[Principal]) -> None:
        self._under_way.pop(place, None)
        if not task.cancelled():
            # Read it, so that a failure whose callers have all gone is not reported as lost.
            task.exception()

    async def _verify(self, place: bytes, key: PresentedKey) -> Principal:
        generation = self._generation
        stored = await self._records.load(key.id)
        try:
            if stored is None:
                raise errors.CredentialsInvalid
            principal, key_hash, revoked_at = stored
            loop = asyncio.get_running_loop()
            began = self._clock()
            genuine = await loop.run_in_executor(self._threads, verify_secret, key_hash, key.secret)
            self._verified(self._clock() - began)
            if not genuine:
                raise errors.CredentialsInvalid
            if revoked_at is not None:
                raise errors.ApiKeyRevoked
            _unexpired(principal)
        except SignerError as error:
            self._remember(self._wrong, place, error, WRONG_CACHE_SIZE)
            raise
        await self._records.note_use(key.id)
        if generation == self._generation:
            self._remember(self._good, place, principal, CACHE_SIZE)
        return principal

    def _remember(self, cache: OrderedDict[bytes, tuple[T, float]], place: bytes, value: T, size: int) -> None:
        cache[place] = (value, self._clock() + REMEMBERED)
        while len(cache) > size:
            cache.popitem(last=False)

    def forget(self, api_key_id: UUID) -> None:
        """Drop what is remembered of one API key: it was changed or revoked."""
        self._generation += 1
        for place in [place for place, (principal, _) in self._good.items() if principal.actor_id == api_key_id]:
            del self._good[place]

    def forget_all(self) -> None:
        """Drop everything: notices may have been missed."""
        self._generation += 1
        self._good.clear()
        self._wrong.clear()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _unexpired(principal: Principal) -> Principal:
    if principal.expires_at is not None and principal.expires_at <= datetime.now(UTC):
        raise errors.ApiKeyExpired
    return principal
