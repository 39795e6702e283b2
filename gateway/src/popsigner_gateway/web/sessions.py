"""The session of a browser: both tokens in one encrypted cookie, renewed when the access token is over."""

import asyncio
import dataclasses
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request

from popsigner_gateway.gen.popsigner.internal.v1 import login_pb2 as login
from popsigner_gateway.web.cookies import SESSION, Jar
from popsigner_gateway.web.faults import Fault
from popsigner_gateway.web.server import ENDED, TIMEOUT, Caller, Server

# Seconds before its end from which an access token is renewed: what it is used for next takes a moment.
_EARLY = 30
# Seconds that a renewal's result is remembered. A browser that loads two pages at once sends the same refresh token
# twice; traded twice it would look stolen and end the session.
_REMEMBERED = 10.0
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserSession:
    """Times in seconds since the epoch. expires_at: the end of the session, however it is used."""

    session_id: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    access_expires_at: float
    expires_at: float

    @classmethod
    def of(cls, tokens: login.Tokens, now: float) -> "BrowserSession":
        return cls(
            session_id=tokens.session_id,
            access_token=tokens.access_token,
            refresh_token=tokens.refresh_token,
            access_expires_at=now + tokens.expires_in,
            expires_at=float(tokens.session_expires_at.seconds),
        )


@dataclass(slots=True)
class _Renewal:
    task: "asyncio.Task[BrowserSession]"
    forgotten_at: float


class Sessions:
    """Reads, renews and ends them. clock: seconds since the epoch."""

    def __init__(self, jar: Jar, server: Server, clock: Callable[[], float]) -> None:
        self._jar = jar
        self._server = server
        self._clock = clock
        self._renewals: OrderedDict[bytes, _Renewal] = OrderedDict()

    def held(self, request: Request) -> BrowserSession | None:
        """What the cookie says, be it over or not."""
        content = self._jar.read(request, SESSION)
        try:
            return BrowserSession(**json.loads(content)) if content is not None else None
        except TypeError:
            # Another version of this application wrote it, with other members.
            return None

    async def current(self, request: Request, caller: Caller) -> BrowserSession | None:
        """The live session with an access token that can be used, or None. Raises Fault where the server is away."""
        held = self.held(request)
        if held is None:
            return None
        now = self._clock()
        if now < held.expires_at and now < held.access_expires_at - _EARLY:
            return held
        try:
            renewed = await self._renewed(held, caller)
        except Fault as fault:
            if fault.reason not in ENDED:
                raise
            self.forget(request)
            return None
        self.keep(request, renewed)
        return renewed

    async def _renewed(self, held: BrowserSession, caller: Caller) -> BrowserSession:
        now = self._clock()
        while self._renewals:
            oldest = next(iter(self._renewals.values()))
            if now < oldest.forgotten_at and len(self._renewals) < _MOST_REMEMBERED:
                break
            self._renewals.popitem(last=False)
        name = hashlib.sha256(held.refresh_token.encode()).digest()
        renewal = self._renewals.get(name)
        if renewal is None:
            task = asyncio.create_task(self._renew(held, caller))
            renewal = self._renewals[name] = _Renewal(task, now + TIMEOUT + _REMEMBERED)
            task.add_done_callback(lambda done: self._forget_failed(name, done))
        # The trade goes on when this caller leaves: another one may wait for it, and what was traded is gone.
        return await asyncio.shield(renewal.task)

    async def _renew(self, held: BrowserSession, caller: Caller) -> BrowserSession:
        return BrowserSession.of(await self._server.refresh(held.refresh_token, caller), self._clock())

    def _forget_failed(self, name: bytes, done: "asyncio.Task[BrowserSession]") -> None:
        if done.cancelled() or done.exception() is not None:
            self._renewals.pop(name, None)

    def keep(self, request: Request, session: BrowserSession) -> None:
        content = json.dumps(dataclasses.asdict(session)).encode()
        self._jar.put(request, SESSION, content, seconds=int(session.expires_at - self._clock()))

    def forget(self, request: Request) -> None:
        self._jar.clear(request, SESSION)
