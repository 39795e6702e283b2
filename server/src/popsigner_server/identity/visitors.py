"""From a presented access token to the live session behind it.

A token alone proves that a session began; that it still lives is looked up, and remembered for a minute. Notices drop
what is remembered of a person whose sessions or memberships change; for signing the release gate reads both again.
Like that of API keys (verification.py) the cache is keyed by a keyed hash, so that it holds no token.
"""

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Protocol, TypeVar
from uuid import UUID

from popsigner_server import errors
from popsigner_server.errors import SignerError
from popsigner_server.identity.people import Visit
from popsigner_server.identity.tokens import NOT_VALID, Claims, UnknownKey

T = TypeVar("T")

# Seconds that an answer is remembered.
REMEMBERED = 60.0
CACHE_SIZE = 16_384
# Wrong tokens have a cache of their own: a flood of them must not push the good ones out.
WRONG_CACHE_SIZE = 4_096


class Readers(Protocol):
    """Reads what a token says. Raises CredentialsInvalid, TokenExpired, UnknownKey, AuthenticationBusy."""

    async def verify(self, text: str) -> Claims: ...


class Records(Protocol):
    """Where the sessions are."""

    async def visit(self, *, user_id: UUID, session_id: UUID) -> Visit | None:
        """The session as it is at this moment; None where it has ended or is not that person's."""
        ...


class Visitors:
    """Turns access tokens into visits. `clock` is the time of day, with its zone."""

    def __init__(self, tokens: Readers, records: Records, *, clock: Callable[[], datetime]) -> None:
        self._tokens = tokens
        self._records = records
        self._clock = clock
        self._pepper = secrets.token_bytes(32)
        # With the moment until which it is remembered, and that at which the token is over.
        self._good: OrderedDict[bytes, tuple[Visit, float, float]] = OrderedDict()
        self._wrong: OrderedDict[bytes, tuple[SignerError, float]] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Task[Visit]] = {}
        self._generation = 0

    async def visit(self, presented: str) -> Visit:
        """The session of a presented token. Raises CredentialsInvalid, TokenExpired, SessionEnded,
        AuthenticationBusy."""
        place = hashlib.blake2b(presented.encode("utf-8", "replace"), key=self._pepper, digest_size=32).digest()
        now = self._clock().timestamp()
        found = self._good.get(place)
        if found is not None and found[1] > now:
            if found[2] <= now:
                raise errors.TokenExpired
            return found[0]
        wrong = self._wrong.get(place)
        if wrong is not None and wrong[1] > now:
            # One object for every caller: without this each raise would add its frames to the last one's.
            raise wrong[0].with_traceback(None)
        # Callers that come with the same token at once wait for one look.
        task = self._under_way.get(place)
        if task is None:
            task = self._under_way[place] = asyncio.create_task(self._look_up(place, presented))
            task.add_done_callback(lambda done: self._ended(place, done))
        return await asyncio.shield(task)

    async def visit_now(self, presented: str) -> Visit:
        """The same, read anew: for what must not rest on an answer of a minute ago."""
        try:
            claims = await self._tokens.verify(presented)
        except UnknownKey as error:
            raise errors.CredentialsInvalid(NOT_VALID) from error
        visit = await self._records.visit(user_id=claims.user_id, session_id=claims.session_id)
        if visit is None:
            raise errors.SessionEnded
        return visit

    def _ended(self, place: bytes, task: asyncio.Task[Visit]) -> None:
        # A notice may have put another look in its place.
        if self._under_way.get(place) is task:
            del self._under_way[place]
        if not task.cancelled():
            # Read it, so that a failure whose callers have all gone is not reported as lost.
            task.exception()

    async def _look_up(self, place: bytes, presented: str) -> Visit:
        generation = self._generation
        try:
            claims = await self._tokens.verify(presented)
            visit = await self._records.visit(user_id=claims.user_id, session_id=claims.session_id)
            if visit is None:
                raise errors.SessionEnded
        except UnknownKey as error:
            # Not remembered: its key may be made in the next moment.
            raise errors.CredentialsInvalid(NOT_VALID) from error
        except errors.AuthenticationBusy:
            raise
        except SignerError as error:
            self._remember(self._wrong, place, (error, self._soon()), WRONG_CACHE_SIZE)
            raise
        if generation == self._generation:
            self._remember(self._good, place, (visit, self._soon(), claims.expires_at), CACHE_SIZE)
        return visit

    def _soon(self) -> float:
        return self._clock().timestamp() + REMEMBERED

    @staticmethod
    def _remember(cache: OrderedDict[bytes, T], place: bytes, value: T, size: int) -> None:
        cache[place] = value
        while len(cache) > size:
            cache.popitem(last=False)

    def forget_user(self, user_id: UUID) -> None:
        """Drop what is remembered of one person: their sessions or memberships changed."""
        self._forget(lambda visit: visit.user_id == user_id)

    def forget_organization(self, organization_id: UUID) -> None:
        """Drop what is remembered of an organization's people: its plan, name or end changed."""
        self._forget(lambda visit: organization_id in visit.organizations)

    def forget_all(self) -> None:
        """Drop everything: notices may have been missed."""
        self._begin_anew()
        self._good.clear()
        self._wrong.clear()

    def _forget(self, concerned: Callable[[Visit], bool]) -> None:
        self._begin_anew()
        for place in [place for place, (visit, _, _) in self._good.items() if concerned(visit)]:
            del self._good[place]

    def _begin_anew(self) -> None:
        """Looks that are under way may have read what was before: who comes from now on does not wait for them."""
        self._generation += 1
        self._under_way.clear()
