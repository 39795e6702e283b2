"""Everything that the POP keeps about a person, as one ZIP archive of JSON files (GDPR article 20).

It is written as it is read: a page of rows and what the archive has not given out yet are all that is in memory, and
nothing is on disk.
"""

import io
import json
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select, tuple_
from sqlalchemy.engine import RowMapping

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.principals import ActorKind, Person, Role
from popsigner_server.storage.engine import Database
from popsigner_server.storage.tables import (
    audit_logs,
    identity_providers,
    invitations,
    org_members,
    organizations,
    sessions,
    users,
)

# Bytes of a piece, at most.
PIECE = 64 << 10
# Rows of a page.
PAGE = 1000

README = """This archive holds what this POPSigner keeps about you. Times are UTC.

profile.json       who you are, as your identity provider told it at your last log-in
memberships.json   the organizations that you belong to
sessions.json      your log-ins: when, from where, with what
invitations.json   the invitations to your e-mail address
audit.json         what you did, in all organizations; those keep the record under their own duties. `metadata` is there
                   for the organizations that you belong to.

Secrets are not in it: the POP keeps hashes of them.
"""

_KINDS = {
    "api_key": Prefix.API_KEY,
    "identity_provider": Prefix.IDENTITY_PROVIDER,
    "invitation": Prefix.INVITATION,
    "key": Prefix.KEY,
    "namespace": Prefix.NAMESPACE,
    "organization": Prefix.ORGANIZATION,
    "session": Prefix.SESSION,
    "user": Prefix.USER,
}


class _Outbox(io.RawIOBase):
    """What the archive has written and nobody has taken yet."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._waiting += data
        return len(data)

    def pieces(self, *, least: int = PIECE) -> Iterator[bytes]:
        """Take what has come together, in pieces of at most PIECE; the last of fewer than `least` stays."""
        while self._waiting and len(self._waiting) >= least:
            piece = bytes(self._waiting[:PIECE])
            del self._waiting[:PIECE]
            yield piece


class Exports:
    """Writes archives."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._under_way: set[UUID] = set()

    async def archive(self, person: Person) -> AsyncGenerator[bytes, None]:
        """The archive in pieces of at most PIECE bytes. Raises RateLimited while the person's last one is being read:
        each holds a page of rows for as long as its reader takes, and of readers that never end there may be many."""
        if person.user_id in self._under_way:
            raise errors.RateLimited(
                "Your archive is being written already; read it to its end first.", retry_after=5.0
            )
        self._under_way.add(person.user_id)
        try:
            async with aclosing(self._written(person)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._under_way.discard(person.user_id)

    async def _written(self, person: Person) -> AsyncGenerator[bytes, None]:
        outbox = _Outbox()
        with zipfile.ZipFile(outbox, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("README.txt", README)
            lists = {
                "profile.json": self._profile(person.user_id),
                "memberships.json": self._memberships(person.user_id),
                "sessions.json": self._sessions(person.user_id),
                "invitations.json": self._invitations(person),
                "audit.json": self._audit(person.user_id),
            }
            for name, pages in lists.items():
                # A trail may be longer than the 2 GiB of a plain entry.
                with archive.open(name, "w", force_zip64=True) as entry:
                    before = "["
                    async for page in pages:
                        for row in page:
                            entry.write(f"{before}\n{json.dumps(row, ensure_ascii=False)}".encode())
                            before = ","
                        for piece in outbox.pieces():
                            yield piece
                    entry.write(b"\n]\n" if before == "," else b"[]\n")
        for piece in outbox.pieces(least=1):
            yield piece

    async def _profile(self, user_id: UUID) -> AsyncIterator[Iterable[object]]:
        provider = identity_providers.c
        query = (
            select(users, provider.name.label("provider"), provider.kind, provider.issuer)
            .join(identity_providers, users.c.provider_id == provider.id)
            .where(users.c.id == user_id)
        )
        yield [
            {
                "id": show(Prefix.USER, row["id"]),
                "email": row["email"],
                "name": row["name"],
                "identity_provider": row["provider"],
                "identity_provider_kind": row["kind"],
                "identity_provider_issuer": row["issuer"],
                "subject": row["subject"],
                "created_at": _time(row["created_at"]),
                "last_login_at": _time(row["last_login_at"]),
            }
            for row in await self._read(query)
        ]

    async def _memberships(self, user_id: UUID) -> AsyncIterator[Iterable[object]]:
        query = (
            select(organizations.c.id, organizations.c.name, organizations.c.slug, org_members.c.role)
            .add_columns(org_members.c.created_at)
            .join(org_members, org_members.c.org_id == organizations.c.id)
            .where(org_members.c.user_id == user_id)
            .order_by(org_members.c.created_at)
        )
        yield [
            {
                "organization_id": show(Prefix.ORGANIZATION, row["id"]),
                "organization": row["name"],
                "slug": row["slug"],
                "role": Role(row["role"]).name,
                "joined_at": _time(row["created_at"]),
            }
            for row in await self._read(query)
        ]

    async def _sessions(self, user_id: UUID) -> AsyncIterator[Iterable[object]]:
        async for page in self._pages(select(sessions).where(sessions.c.user_id == user_id), sessions.c.id):
            yield [
                {
                    "id": show(Prefix.SESSION, row["id"]),
                    "origin": row["origin"],
                    "ip_address": _text(row["ip_address"]),
                    "user_agent": row["user_agent"],
                    "created_at": _time(row["created_at"]),
                    "last_used_at": _time(row["last_used_at"]),
                    "expires_at": _time(row["expires_at"]),
                    "ended_at": _time(row["ended_at"]),
                    "end_reason": row["end_reason"],
                }
                for row in page
            ]

    async def _invitations(self, person: Person) -> AsyncIterator[Iterable[object]]:
        query = (
            select(invitations, organizations.c.name.label("organization"))
            .join(organizations, invitations.c.org_id == organizations.c.id)
            .join(users, (users.c.email == invitations.c.email) | (users.c.id == invitations.c.accepted_by))
            .where(users.c.id == person.user_id)
        )
        if person.provider_org is not None:
            # Its word for an address counts within that organization alone.
            query = query.where(invitations.c.org_id == person.provider_org)
        async for page in self._pages(query, invitations.c.id):
            yield [
                {
                    "id": show(Prefix.INVITATION, row["id"]),
                    "organization": row["organization"],
                    "email": row["email"],
                    "role": Role(row["role"]).name,
                    "created_at": _time(row["created_at"]),
                    "expires_at": _time(row["expires_at"]),
                    "accepted_at": _time(row["accepted_at"]),
                    "revoked_at": _time(row["revoked_at"]),
                }
                for row in page
            ]

    async def _audit(self, user_id: UUID) -> AsyncIterator[Iterable[object]]:
        log = audit_logs.c
        belongs = select(org_members.c.org_id).where(org_members.c.user_id == user_id)
        mine = {row["org_id"] for row in await self._read(belongs)}
        query = select(audit_logs).where(log.actor_type == ActorKind.USER.value, log.actor_id == user_id)
        place = tuple_(log.org_id, log.seq)
        following = query
        while True:
            async with self._database.jobs() as connection:
                rows = (await connection.execute(following.order_by(*place).limit(PAGE))).mappings().all()
            yield [_entry(row, row["metadata"] if row["org_id"] in mine else None) for row in rows]
            if len(rows) < PAGE:
                return
            following = query.where(place > tuple_(rows[-1]["org_id"], rows[-1]["seq"]))

    async def _read(self, query: Select[Any]) -> list[RowMapping]:
        async with self._database.identity() as connection:
            return list((await connection.execute(query)).mappings())

    async def _pages(self, query: Select[Any], key: Any) -> AsyncIterator[Iterable[RowMapping]]:
        following = query
        while True:
            rows = await self._read(following.order_by(key).limit(PAGE))
            yield rows
            if len(rows) < PAGE:
                return
            following = query.where(key > rows[-1]["id"])


def _entry(row: RowMapping, metadata: Mapping[str, str] | None) -> dict[str, object]:
    kind, resource = row["resource_type"], row["resource_id"]
    return {
        "id": show(Prefix.LOG, row["id"]),
        "organization_id": show(Prefix.ORGANIZATION, row["org_id"]),
        "sequence": row["seq"],
        "time": _time(row["created_at"]),
        "event": row["event"],
        "resource": show(_KINDS[kind], resource) if kind in _KINDS and resource else None,
        "ip_address": _text(row["ip_address"]),
        "user_agent": row["user_agent"],
        "metadata": metadata or {},
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _text(value: object) -> str | None:
    return None if value is None else str(value)
