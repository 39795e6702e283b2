"""From a presented API key to its principal, at the price of Argon2id once a key and process while the key is in use.

Good keys are remembered under a keyed hash of the whole presented text, so that the memory holds no secret and a hit
needs no compare of secrets. A wrong secret is refused by its check (hashing.check_of), against a record that is
remembered for seconds: a flood of them costs a SHA-256 each, no Argon2id and nearly no query. What the memory says is a
hint: the release gate reads the API key again in the transaction that releases a signature.

A key in use is looked up again each minute, beside its calls. Whether a secret has a certain hash never changes, so
that alone is remembered for longer, and what is stored is compared with the hash that it was verified against.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

import structlog

from popsigner_server import errors
from popsigner_server.domain.memory import Fading
from popsigner_server.domain.principals import Caller, Principal
from popsigner_server.errors import SignerError
from popsigner_server.identity import KeyRecord, PresentedKey, StoredSecret, parse_api_key
from popsigner_server.identity.hashing import check_of, verify_secret
from popsigner_server.identity.uses import Uses
from popsigner_server.storage import UNAVAILABLE

# Seconds that an answer is remembered, and what is stored of a key.
REMEMBERED = 60.0
# Seconds after which a remembered key that is used is looked up again beside its calls, and until the next attempt
# where that failed: else whoever came first after a minute would wait for the database.
RENEWED = 45.0
RENEWED_AGAIN = 5.0
RECORD_REMEMBERED = 5.0
# Seconds that the outcome of an Argon2id verification is remembered after its last use: a thousand keys in use would
# cost most of a core, and after a lost notice, when all else is forgotten, their callers would wait for one another.
PROVEN = 600.0
CACHE_SIZE = 16_384
# Wrong keys have a memory of their own: a flood of them must not push the good ones out.
WRONG_CACHE_SIZE = 4_096
RECORDS = 4_096
# Seconds between two looks past a remembered record, over all keys: see Verifier.principal.
SECOND_LOOK = 0.05
# Argon2id verifications at once, and waiting for their turn; each holds 19 MiB while it runs.
THREADS = 2
WAITING = 64
# A renewal begins only while there are fewer than so many: whoever waits goes first, and waits for few of them.
RENEWALS = 2 * THREADS

log = structlog.get_logger(__name__)


class KeyRecords(Protocol):
    """Where the stored API keys are."""

    async def load(self, api_key_id: UUID) -> KeyRecord | None:
        """The key; None for an unknown id."""
        ...

    async def keep_check(self, api_key_id: UUID, secret: StoredSecret, check: bytes) -> None:
        """Store the check of a secret that had none."""
        ...

    async def note_use(self, caller: Caller) -> float:
        """Write that the key was used; the seconds until it may be noted again."""
        ...


@dataclass(slots=True, kw_only=True)
class _Good:
    """A verified key. `replaced`: its `expires_at` is the end of a rotation's overlap, not the key's own. `renew_at`:
    when it is to be verified again, if it is used."""

    principal: Principal
    replaced: bool
    renew_at: float

    def now(self) -> Principal:
        """Raises ApiKeyExpired, ApiKeyRevoked."""
        ends = self.principal.expires_at
        if ends is not None and ends <= datetime.now(UTC):
            raise _replaced() if self.replaced else errors.ApiKeyExpired()
        return self.principal


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wrong:
    """A refusal. Not the error itself: once raised it holds the frames of whoever it was raised to, and their calls."""

    kind: type[SignerError]
    detail: str


@dataclass(frozen=True, slots=True)
class _Read:
    """A record as it was read; None for an id that nobody has."""

    record: KeyRecord | None


class Verifier:
    """Verifies presented API keys, and notes their uses."""

    def __init__(
        self,
        records: KeyRecords,
        *,
        environment: str,
        clock: Callable[[], float],
        verified: Callable[[float], None],
        note_lost: Callable[[], None],
    ) -> None:
        self._records = records
        self._environment = environment
        self._clock = clock
        self._verified = verified
        self._pepper = secrets.token_bytes(32)
        self._good: Fading[bytes, UUID, _Good] = Fading(CACHE_SIZE, seconds=REMEMBERED, clock=clock)
        self._wrong: Fading[bytes, UUID, _Wrong] = Fading(WRONG_CACHE_SIZE, seconds=REMEMBERED, clock=clock)
        # By the presented key, the stored hash that it was verified against. Of a fact nothing has to be forgotten.
        self._proven: Fading[bytes, UUID, str] = Fading(CACHE_SIZE, seconds=PROVEN, clock=clock)
        self._records_read: Fading[UUID, UUID, _Read] = Fading(RECORDS, seconds=RECORD_REMEMBERED, clock=clock)
        # So that callers at once share one query.
        self._reading: dict[UUID, asyncio.Task[KeyRecord | None]] = {}
        self._under_way: dict[bytes, tuple[UUID, asyncio.Task[Principal]]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._uses = Uses(records.note_use, clock=clock, lost=note_lost)
        # Counts what was forgotten, so that an answer that was read before cannot be remembered after it.
        self._generation = 0
        self._second_look = 0.0
        self.hits = 0
        self.misses = 0

    async def principal(self, presented: str) -> Principal:
        """The principal of a presented key. Raises CredentialsInvalid, ApiKeyRevoked, ApiKeyExpired,
        AuthenticationBusy.

        A remembered record that does not know the secret may be older than a rotation, whose notice is still on its
        way. So it is read once more, but only so often: a flood makes 20 queries a second of this, and its target's
        next rotation waits for the notice, for milliseconds.
        """
        place = hashlib.blake2b(presented.encode("utf-8", "replace"), key=self._pepper, digest_size=32).digest()
        good = self._good.peek(place)
        if good is not None:
            self.hits += 1
            if self._clock() >= good.renew_at:
                self._renew(place, presented, good)
            return good.now()
        wrong = self._wrong.peek(place)
        if wrong is not None:
            self.hits += 1
            raise wrong.kind(wrong.detail)
        self.misses += 1
        key = parse_api_key(presented)
        if key.environment != self._environment:
            raise errors.CredentialsInvalid(f"This POP takes psk_{self._environment}_… keys only.")
        if self._is_known_wrong(key):
            now = self._clock()
            if now < self._second_look:
                raise errors.CredentialsInvalid
            self._second_look = now + SECOND_LOOK
        # Callers that come with the same key at once wait for one verification.
        under_way = self._under_way.get(place)
        if under_way is not None:
            return await asyncio.shield(under_way[1])
        if len(self._under_way) >= WAITING:
            raise errors.AuthenticationBusy(retry_after=1.0)
        return await asyncio.shield(self._begin(place, key))

    def note(self, caller: Caller) -> None:
        """Note that this caller's API key was used; nothing for a person. Does not wait, and cannot fail."""
        self._uses.note(caller)

    def _renew(self, place: bytes, presented: str, good: _Good) -> None:
        """Verify it beside the calls, which go on with what is remembered until that is over or found wrong."""
        if place in self._under_way or len(self._under_way) >= RENEWALS:
            return
        good.renew_at = self._clock() + RENEWED_AGAIN
        self._begin(place, parse_api_key(presented))

    def _begin(self, place: bytes, key: PresentedKey) -> asyncio.Task[Principal]:
        task = asyncio.create_task(self._verify(place, key))
        self._under_way[place] = key.id, task
        task.add_done_callback(lambda done: self._ended(place, done))
        return task

    def _ended(self, place: bytes, task: asyncio.Task[Principal]) -> None:
        # A notice may have made room for another one.
        if self._under_way.get(place, (None, None))[1] is task:
            del self._under_way[place]
        if not task.cancelled():
            # Read it, so that a failure whose callers have all gone is not reported as lost.
            task.exception()

    def _is_known_wrong(self, key: PresentedKey) -> bool:
        """Whether a remembered record says that the secret is wrong, without waiting."""
        read = self._records_read.peek(key.id)
        return read is not None and not _candidates(read.record, check_of(key.secret))

    async def _verify(self, place: bytes, key: PresentedKey) -> Principal:
        generation = self._generation
        try:
            good = await self._genuine(place, key)
        except SignerError as error:
            if generation == self._generation:
                self._good.drop(place)
                self._wrong.put(place, key.id, _Wrong(kind=type(error), detail=error.detail))
            raise
        if generation == self._generation:
            self._good.put(place, key.id, good, also=(good.principal.organization_id,))
        return good.principal

    async def _genuine(self, place: bytes, key: PresentedKey) -> _Good:
        check = check_of(key.secret)
        read, reading = self._records_read.peek(key.id), self._reading.get(key.id)
        record = read.record if read is not None else await (reading or self._load(key.id))
        secret = await self._secret(record, place, key, check)
        if secret is None and (read or reading):
            # The second look.
            anew = await self._load(key.id)
            if anew != record:
                record, secret = anew, await self._secret(anew, place, key, check)
        if record is None or secret is None:
            raise errors.CredentialsInvalid
        if secret.check is None:
            await self._keep_check(key.id, secret, check)
        if record.revoked_at is not None:
            raise errors.ApiKeyRevoked
        good = self._good_of(record.principal, secret)
        good.now()
        return good

    async def _secret(
        self, record: KeyRecord | None, place: bytes, key: PresentedKey, check: bytes
    ) -> StoredSecret | None:
        """Which of the stored secrets it is. Where its check fits, Argon2id decides; that is bounded."""
        for secret in _candidates(record, check):
            if self._proven.peek(place) == secret.hash or await self._verifies(secret.hash, key.secret):
                self._proven.put(place, key.id, secret.hash)
                return secret
        return None

    async def _verifies(self, key_hash: str, secret: str) -> bool:
        began = self._clock()
        genuine = await asyncio.get_running_loop().run_in_executor(self._threads, verify_secret, key_hash, secret)
        self._verified(self._clock() - began)
        return genuine

    def _good_of(self, principal: Principal, secret: StoredSecret) -> _Good:
        ends, over_at = principal.expires_at, secret.over_at
        replaced = over_at is not None and (ends is None or over_at < ends)
        return _Good(
            principal=replace(principal, generation=secret.generation, expires_at=over_at if replaced else ends),
            replaced=replaced,
            renew_at=self._clock() + RENEWED,
        )

    async def _keep_check(self, api_key_id: UUID, secret: StoredSecret, check: bytes) -> None:
        try:
            await self._records.keep_check(api_key_id, secret, check)
        except UNAVAILABLE as error:
            # The next verification will try again.
            log.warning("the check of an API key could not be stored", error=type(error).__name__)
        else:
            self._records_read.drop(api_key_id)

    def _load(self, api_key_id: UUID) -> asyncio.Task[KeyRecord | None]:
        task = self._reading[api_key_id] = asyncio.create_task(self._records.load(api_key_id))
        task.add_done_callback(lambda done: self._has_read(api_key_id, done))
        return task

    def _has_read(self, api_key_id: UUID, task: asyncio.Task[KeyRecord | None]) -> None:
        # A notice, or a second look, may have put another one in its place: then this may be what was before.
        if self._reading.get(api_key_id) is not task:
            return
        del self._reading[api_key_id]
        if not task.cancelled() and task.exception() is None:
            self._records_read.put(api_key_id, api_key_id, _Read(task.result()))

    def forget(self, api_key_id: UUID) -> None:
        """Drop what is remembered of one API key: it was changed, rotated or revoked."""
        self._generation += 1
        self._reading.pop(api_key_id, None)
        # Whoever comes from now on must not be told what was read before.
        for place in [place for place, (key_id, _) in self._under_way.items() if key_id == api_key_id]:
            del self._under_way[place]
        for memory in (self._good, self._wrong, self._records_read):
            memory.forget(api_key_id)

    def forget_organization(self, organization_id: UUID) -> None:
        """Drop what is remembered of an organization's API keys: its plan changed, and the principal carries it. Whose
        a record is shows when it was read, so the records go all; that is a query for each key in use."""
        self._generation += 1
        self._good.forget(organization_id)
        for memory in (self._reading, self._under_way, self._records_read):
            memory.clear()

    def forget_all(self) -> None:
        """Drop everything: notices may have been missed."""
        self._generation += 1
        for memory in (self._reading, self._under_way, self._good, self._wrong, self._records_read):
            memory.clear()

    async def close(self) -> None:
        """Write the last uses, and end the threads."""
        await self._uses.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _candidates(record: KeyRecord | None, check: bytes) -> list[StoredSecret]:
    """The secrets that it may be: all without a check, and of the others those whose check is the same, each compared
    in constant time."""
    stored = () if record is None else record.secrets
    return [secret for secret in stored if secret.check is None or hmac.compare_digest(secret.check, check)]


def _replaced() -> SignerError:
    return errors.ApiKeyRevoked("This secret of the API key was replaced, and its time is over; use the new one.")
