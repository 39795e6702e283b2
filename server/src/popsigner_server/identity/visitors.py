"""From a presented access token to the live session behind it.

A token alone proves that a session began; that it still lives is looked up, and remembered for a minute. Notices drop
what is remembered of a person whose sessions or memberships change; for signing the release gate reads both again.
Like that of API keys (verification.py) the cache is keyed by a keyed hash, so that it holds no token.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from popsigner_server import errors
from popsigner_server.domain.memory import Fading
from popsigner_server.errors import SignerError
from popsigner_server.identity.people import Visit
from popsigner_server.identity.tokens import NOT_VALID, Claims, UnknownKey

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Good:
    """A live session, and when its token is over."""

    visit: Visit
    over_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wrong:
    """A refusal. Not the error itself: once raised it holds the frames of whoever it was raised to, and with them the
    token and the whole request. 4 096 of those, which anybody may send, would fill the memory."""

    kind: type[SignerError]
    detail: str


class Visitors:
    """Turns access tokens into visits."""

    def __init__(
        self, tokens: Readers, records: Records, *, clock: Callable[[], datetime], timer: Callable[[], float]
    ) -> None:
        """clock: the time of day, with its zone; it says when a token is over. timer: seconds, for what is remembered:
        a time of day that is set back must not make an answer live longer."""
        self._tokens = tokens
        self._records = records
        self._clock = clock
        self._pepper = secrets.token_bytes(32)
        # By the person and their organizations, whose changes make it stale.
        self._good: Fading[bytes, UUID, _Good] = Fading(CACHE_SIZE, seconds=REMEMBERED, clock=timer)
        self._wrong: Fading[bytes, None, _Wrong] = Fading(WRONG_CACHE_SIZE, seconds=REMEMBERED, clock=timer)
        self._under_way: dict[bytes, asyncio.Task[Visit]] = {}
        self._generation = 0

    async def visit(self, presented: str) -> Visit:
        """The session of a presented token. Raises CredentialsInvalid, TokenExpired, SessionEnded,
        AuthenticationBusy."""
        place = hashlib.blake2b(presented.encode("utf-8", "replace"), key=self._pepper, digest_size=32).digest()
        good = self._good.peek(place)
        if good is not None:
            if good.over_at <= self._clock().timestamp():
                raise errors.TokenExpired
            return good.visit
        wrong = self._wrong.peek(place)
        if wrong is not None:
            raise wrong.kind(wrong.detail)
        # Callers that come with the same token at once wait for one look.
        task = self._under_way.get(place)
        if task is None:
            task = self._under_way[place] = asyncio.create_task(self._look_up(place, presented))
            task.add_done_callback(lambda done: self._ended(place, done))
        return await asyncio.shield(task)

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
            self._wrong.put(place, None, _Wrong(kind=type(error), detail=error.detail))
            raise
        if generation == self._generation:
            good = _Good(visit=visit, over_at=claims.expires_at)
            self._good.put(place, visit.user_id, good, also=visit.organizations)
        return visit

    def forget_user(self, user_id: UUID) -> None:
        """Drop what is remembered of one person: their sessions or memberships changed."""
        self._forget(user_id)

    def forget_organization(self, organization_id: UUID) -> None:
        """Drop what is remembered of an organization's people: its plan, name or end changed."""
        self._forget(organization_id)

    def forget_all(self) -> None:
        """Drop everything: notices may have been missed."""
        self._begin_anew()
        self._good.clear()
        self._wrong.clear()

    def _forget(self, subject: UUID) -> None:
        self._begin_anew()
        self._good.forget(subject)

    def _begin_anew(self) -> None:
        """Looks that are under way may have read what was before: who comes from now on does not wait for them."""
        self._generation += 1
        self._under_way.clear()
