"""One move of one key by a server process that kills itself at a named step.

The steps are where the process leaves its own memory: each request to the vault, and each change under the ledger's
lock. Nothing of it is in the product: the doors are wrapped here.
"""

import asyncio
import os
import signal
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID

from popsigner_server.app import furnish
from popsigner_server.domain.principals import ActorKind, Caller, Principal, Role, Scope
from popsigner_server.keys import Wish
from popsigner_server.ledger.changes import Change
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.rooms import Rooms
from popsigner_server.settings import Settings
from popsigner_server.vault import connection as door

# Long enough that the request is written, and too short for OpenBao to have answered it.
SENT = 0.001


class Steps:
    """Counts the steps, and ends the process at one of them."""

    def __init__(self, last: str) -> None:
        self.taken: list[str] = []
        self._last = last

    def reach(self, name: str) -> None:
        self.taken.append(name)
        if name == self._last:
            # Nothing that was buffered leaves, no lock is given back, no connection closed.
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_vault(self) -> None:
        """`<operation> unsent`, `sent`, `answered` of each request."""
        call = door.Connection.call

        async def watched(self_: door.Connection, method: str, path: str, data: dict[str, object] | None = None) -> Any:
            name = f"{method} {'/'.join(part for part in path.split('/') if len(part) != 32)}"
            self.reach(f"{name} unsent")
            if self._last == f"{name} sent":
                under_way = asyncio.create_task(call(self_, method, path, data))
                await asyncio.sleep(SENT)
                self.reach(f"{name} sent")
                return await under_way
            self.taken.append(f"{name} sent")
            answer = await call(self_, method, path, data)
            self.reach(f"{name} answered")
            return answer

        door.Connection.call = watched  # type: ignore[method-assign,assignment]

    def watch_ledger(self) -> None:
        """`change n uncommitted`, `committed` of each change."""
        change, count = PostgresLedger.change, 0

        @asynccontextmanager
        async def watched(
            self_: PostgresLedger, organization_id: UUID, *, closed: bool = False
        ) -> AsyncIterator[Change]:
            nonlocal count
            count += 1
            number = count
            async with change(self_, organization_id, closed=closed) as made:
                yield made
                self.reach(f"change {number} uncommitted")
            self.reach(f"change {number} committed")

        PostgresLedger.change = watched  # type: ignore[method-assign,assignment]


def caller_of(plan: dict[str, Any]) -> Caller:
    principal = Principal(
        organization_id=UUID(plan["organization"]),
        actor_id=UUID(plan["actor"]),
        actor_kind=ActorKind.API_KEY,
        plan="self-hosted",
        scopes=frozenset(Scope),
        role=Role.OWNER,
        expires_at=None,
    )
    return Caller(principal=principal, ip_address="192.0.2.1", user_agent="test")


async def bring_in(rooms: Rooms, plan: dict[str, Any]) -> None:
    wish = Wish(name=plan["name"], namespace="production", exportable=False, metadata={})
    await rooms.importing.bring_in(
        caller_of(plan), wish, ciphertext=b64decode(plan["ciphertext"]), wrapping_key=plan["wrapping_key"]
    )


async def rotate(rooms: Rooms, plan: dict[str, Any]) -> None:
    await rooms.rotation.rotate(caller_of(plan), f"production/{plan['name']}", expected=1)


async def delete(rooms: Rooms, plan: dict[str, Any]) -> None:
    await rooms.lifecycle.delete(caller_of(plan), f"production/{plan['name']}", force=True)


MOVES: dict[str, Callable[[Rooms, dict[str, Any]], Awaitable[None]]] = {
    "import": bring_in,
    "rotate": rotate,
    "delete": delete,
}


async def _move(plan: dict[str, Any]) -> list[str]:
    rooms = furnish(Settings(**plan["settings"]))
    steps = Steps(plan["step"])
    steps.watch_vault()
    steps.watch_ledger()
    await MOVES[plan["move"]](rooms, plan)
    await rooms.close()
    return steps.taken


def run(plan: dict[str, Any], told: "Connection[list[str], list[str]]") -> None:
    """The body of the process: dies by SIGKILL at `plan["step"]`, or tells the steps that it took."""
    told.send(asyncio.run(_move(plan)))
