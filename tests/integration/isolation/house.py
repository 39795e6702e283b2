"""The server's own rooms and handlers, as app.py furnishes them, without a wire: and either lock can be taken away."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.message import Message
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from popsigner_server import app, errors
from popsigner_server.domain.principals import Person
from popsigner_server.rooms import Rooms
from popsigner_server.rpcs import handlers_of
from popsigner_server.settings import Settings
from popsigner_server.storage.engine import Database
from popsigner_server.transport.interceptors.base import Call, Handler
from tests.integration.access.belongings import Belongings
from tests.integration.access.calls import RPCS
from tests.support.memory_vault import MemoryVault

# The first lock in a statement as it is sent: `keys.org_id = %(org_id_1)s::UUID`, and an organization's own id.
FIRST_LOCK = re.compile(r"\b(?:\w+\.org_id|org_id|organizations\.id) = %\(\w+\)s(?:::\w+)?")
# What finds the caller's own head and plan protects nobody: with neither lock no change would begin without it.
OWN = re.compile(r"(ledger_heads\.org_id|organizations\.id) = .*")


class Context:
    """What a handler sees of gRPC."""

    def __init__(self) -> None:
        self.written: list[Message] = []

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def done(self) -> bool:
        return False

    async def write(self, message: Message) -> None:
        self.written.append(message)


class House:
    """The handlers, and who calls them."""

    def __init__(self, rooms: Rooms, handlers: dict[str, Handler]) -> None:
        self.database = rooms.database
        self._handlers = {path.partition(".v1.")[2]: handler for path, handler in handlers.items()}

    @property
    def engine(self) -> AsyncEngine:
        return self.database._engine

    def has(self, rpc: str) -> bool:
        return rpc in self._handlers

    async def reason(self, caller: Belongings, rpc: str, request: Message) -> str:
        """Why the caller is refused this, or "let through"."""
        try:
            answers = await self.answers(caller, rpc, request)
        except errors.SignerError as error:
            return error.reason
        # The items of a batch or a stream have reasons of their own.
        items = [item for answer in answers for item in getattr(answer, "signatures", ())]
        refused = [item for item in items if item.HasField("error")]
        return "KEY_NOT_FOUND" if refused and "KEY_NOT_FOUND" in str(refused) else "let through"

    async def answers(self, caller: Belongings, rpc: str, request: Message) -> list[Message]:
        """What the handler answers. Raises SignerError."""
        context: Any = Context()
        call = Call(context)
        call.caller = caller.owner
        call.person = Person(
            user_id=caller.member.user_id,
            session_id=caller.session_id,
            email=caller.member.email,
            name=caller.member.name,
            provider_org=None,
            ip_address=None,
            user_agent=None,
        )

        async def messages() -> AsyncIterator[Message]:
            yield request

        answer = await self._handlers[rpc](call, messages() if RPCS[rpc].client_streaming else request)
        return [*context.written, *([answer] if answer is not None else [])]


@asynccontextmanager
async def furnished(database: str, folder: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """Over a real database, with a vault in memory."""
    secret = folder / "secret"
    secret.write_text("0" * 64)
    settings = Settings(
        database_url=database,
        bao_addr="http://127.0.0.1:1",
        bao_secret_id_file=secret,
        sealing_key_file=secret,
        gateway_secret_file=secret,
    )
    patch.setattr(app, "OpenBao", lambda _: MemoryVault())
    rooms = app.furnish(settings)
    try:
        yield House(rooms, handlers_of(rooms, settings.environment))
    finally:
        await rooms.close()


@contextmanager
def without_the_first_lock(house: House, *, own: bool = True) -> Iterator[list[str]]:
    """Every statement forgets its organization, also for the caller's own head and plan (`own`). The statements that
    did."""
    stripped: list[str] = []

    def forget(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: bool) -> tuple[str, Any]:
        def replaced(found: re.Match[str]) -> str:
            return found[0] if not own and OWN.fullmatch(found[0]) else "true"

        forgotten = FIRST_LOCK.sub(replaced, statement)
        if forgotten != statement:
            stripped.append(forgotten)
        return forgotten, parameters

    event.listen(house.engine.sync_engine, "before_cursor_execute", forget, retval=True)
    try:
        yield stripped
    finally:
        event.remove(house.engine.sync_engine, "before_cursor_execute", forget)


@contextmanager
def without_the_second_lock(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tenant's transactions see every row."""

    def everything(self: Database, organization_id: UUID) -> Any:
        return self._as("popsigner_jobs", organization_id.hex)

    with patch.context() as patched:
        patched.setattr(Database, "tenant", everything)
        yield
