"""Device log-ins (RFC 8628): a program shows a code, and its person approves it in a browser.

A code that is typed has 8 of 20 letters, 34.6 bits, lives 15 minutes, and is decided once. So few wait at a time that
a guess hits one of them with a chance below 1 in 2 500 000.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from ipaddress import IPv6Address, ip_address

from sqlalchemy import ColumnElement, cast, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import INET, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from popsigner_server import errors
from popsigner_server.identity.people import Visit
from popsigner_server.identity.session_rows import DEVICE, Begun, Origin, begin_session, check_live
from popsigner_server.identity.sessions import Issued, Sessions
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import device_logins

# No vowels: no words; and no Y and digits: nothing that looks like something else.
ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
LENGTH = 8
LIFE = timedelta(minutes=15)
INTERVAL = 5
# A poll may come a little early: the network is not even.
EARLY = 1.0
LONGEST_INTERVAL = 60
# Log-ins that wait, of one address (for IPv6 of one network of 64 bits, RFC 4291 2.5.4: every host has one, and all its
# addresses) and in all.
WAITING_OF_ADDRESS = 20
HOST_BITS = 64
WAITING = 10_000
MAX_CLIENT_NAME = 100
LOCK = 0x504F5044
SWEPT = 10_000

_device = device_logins.c
_OPEN = (_device.expires_at > func.clock_timestamp(), _device.answered_at.is_(None))


class Outcome(Enum):
    """How it stands with a device log-in (RFC 8628 3.5)."""

    PENDING = auto()
    SLOW_DOWN = auto()
    DENIED = auto()
    EXPIRED = auto()
    APPROVED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What the device shows and polls with."""

    device_code: str = field(repr=False)
    user_code: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A device log-in that its person may decide."""

    client_name: str
    origin: Origin
    created_at: datetime


class Devices:
    """Begins, decides and answers device log-ins."""

    def __init__(self, database: Database, sessions: Sessions) -> None:
        self._database = database
        self._sessions = sessions

    async def start(self, client_name: str, origin: Origin) -> Started:
        """Raises InvalidField, and RateLimited where too many wait."""
        name = client_name.strip() or "A device"
        if len(name) > MAX_CLIENT_NAME or not name.isprintable():
            raise errors.InvalidField("client_name", f"must be at most {MAX_CLIENT_NAME} printable characters.")
        device_code = secrets.token_hex(32)
        async with self._database.identity() as connection:
            # One at a time, so that the bounds are exact.
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            await _refuse_crowd(connection, origin)
            while True:
                user_code = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
                query = (
                    insert(device_logins)
                    .values(
                        device_hash=_hash(device_code),
                        user_code=user_code,
                        client_name=name,
                        ip_address=origin.ip_address,
                        user_agent=origin.user_agent,
                        expires_at=func.now() + LIFE,
                        poll_interval=INTERVAL,
                    )
                    .on_conflict_do_nothing(index_elements=["user_code"])
                    .returning(_device.user_code)
                )
                if (await connection.execute(query)).first() is not None:
                    break
        half = LENGTH // 2
        return Started(device_code=device_code, user_code=f"{user_code[:half]}-{user_code[half:]}")

    async def get(self, user_code: str) -> Waiting:
        """The device log-in that waits under a code, as it was typed. Raises DeviceNotFound."""
        query = select(_device.client_name, _device.ip_address, _device.user_agent, _device.created_at).where(
            *_undecided(user_code)
        )
        async with self._database.identity() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            raise errors.DeviceNotFound
        client_name, address, agent, created_at = row
        origin = Origin(ip_address=None if address is None else str(address), user_agent=agent)
        return Waiting(client_name=client_name, origin=origin, created_at=created_at)

    async def decide(self, user_code: str, visit: Visit, *, approve: bool) -> None:
        """Approve or deny it in the name of a person who is logged in. What that gives lasts 30 days, so the session is
        read here, and held: `visit` may be a cache's. Raises DeviceNotFound, SessionEnded."""
        query = (
            update(device_logins)
            .where(*_undecided(user_code))
            .values(decided_at=func.now(), approved=approve, user_id=visit.user_id)
        )
        async with self._database.identity() as connection:
            await check_live(connection, visit.user_id, visit.session_id, hold=True)
            if (await connection.execute(query)).rowcount != 1:
                raise errors.DeviceNotFound

    async def poll(self, device_code: str, origin: Origin) -> tuple[Outcome, Issued | None]:
        """How it stands, and the tokens for APPROVED: they are given out once."""
        async with self._database.identity() as connection:
            outcome, begun = await _answer(connection, device_code, origin)
        return outcome, None if begun is None else await self._sessions.welcome(begun, origin)


async def sweep_devices(database: Database) -> None:
    """Forget the log-ins that are over. Safe from several processes at once."""
    some = (
        select(_device.device_hash)
        .where(_device.expires_at < func.now())
        .limit(SWEPT)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    async with database.jobs() as connection:
        await connection.execute(delete(device_logins).where(_device.device_hash.in_(some)))


async def _answer(connection: AsyncConnection, device_code: str, origin: Origin) -> tuple[Outcome, Begun | None]:
    mine = _device.device_hash == _hash(device_code)
    since = func.extract("epoch", func.clock_timestamp() - _device.polled_at)
    query = select(_device.approved, _device.user_id, (since < _device.poll_interval - EARLY).label("early")).where(
        mine, *_OPEN
    )
    row = (await connection.execute(query.with_for_update())).first()
    if row is None:
        return Outcome.EXPIRED, None
    if row.early:
        # RFC 8628 3.5: for this and all that follow.
        slower = func.least(_device.poll_interval + INTERVAL, LONGEST_INTERVAL)
        await connection.execute(
            update(device_logins).where(mine).values(polled_at=func.clock_timestamp(), poll_interval=slower)
        )
        return Outcome.SLOW_DOWN, None
    polled = update(device_logins).where(mine).values(polled_at=func.clock_timestamp())
    if row.approved is None:
        await connection.execute(polled)
        return Outcome.PENDING, None
    await connection.execute(polled.values(answered_at=func.clock_timestamp()))
    if not row.approved:
        return Outcome.DENIED, None
    try:
        return Outcome.APPROVED, await begin_session(connection, row.user_id, kind=DEVICE, origin=origin)
    except errors.SessionEnded:
        # Whoever approved it is gone, or their provider is.
        return Outcome.DENIED, None


def _undecided(user_code: str) -> tuple[ColumnElement[bool], ...]:
    """The row of a code as it was typed: RFC 8628 6.1 asks for patience with case and punctuation."""
    typed = "".join(character for character in user_code.upper() if character.isalnum())[: LENGTH + 1]
    return (_device.user_code == typed, _device.decided_at.is_(None), *_OPEN)


async def _refuse_crowd(connection: AsyncConnection, origin: Origin) -> None:
    """Raises RateLimited."""
    waiting = select(func.count()).select_from(device_logins).where(_device.decided_at.is_(None), *_OPEN)
    here = waiting.where(_beside(origin.ip_address))
    for query, most in ((here, WAITING_OF_ADDRESS), (waiting, WAITING)):
        if (await connection.execute(query)).scalar_one() >= most:
            raise errors.RateLimited("Too many devices wait for their log-in; try again in a minute.", retry_after=60.0)


def _beside(address: str | None) -> ColumnElement[bool]:
    """Those of the same host, as far as that can be told."""
    if address is None:
        return _device.ip_address.is_(None)
    place = ip_address(address)
    if not isinstance(place, IPv6Address) or place.ipv4_mapped is not None:
        return _device.ip_address == address
    return _device.ip_address.op("<<=", is_comparison=True)(cast(f"{place}/{HOST_BITS}", INET))


def _hash(device_code: str) -> bytes:
    """256 random bits need no salt and no slow hash."""
    return hashlib.sha256(device_code.encode()).digest()
