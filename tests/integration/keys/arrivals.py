"""Imports over a desk, whole and in pieces; what is sent is what the vault in memory takes for a ciphertext."""

from datetime import datetime
from uuid import UUID

import coincurve
from sqlalchemy import insert, select, update

from popsigner_server.domain.keys import Key
from popsigner_server.keys import Wish
from popsigner_server.keys.reservations import Reservation
from popsigner_server.storage.tables import keys, recovery_recipients
from tests.integration.keys.desk import Desk


def new() -> bytes:
    secret: bytes = coincurve.PrivateKey().secret
    return secret


def wish(name: str = "subject", *, exportable: bool = False, **metadata: str) -> Wish:
    return Wish(name=name, namespace="production", exportable=exportable, metadata=metadata)


def outcomes(ends: list[Key | BaseException]) -> tuple[list[Key], set[type[BaseException]]]:
    return [end for end in ends if isinstance(end, Key)], {type(end) for end in ends if not isinstance(end, Key)}


async def interrupted(desk: Desk, secret: bytes | None, *, exportable: bool = False) -> Reservation:
    """An import whose server ended after it had reserved the name, and after the vault where there is a secret."""
    (reserved,) = await desk.reservations.reserve(desk.mine.caller, [wish(exportable=exportable)], imported=True)
    if secret is not None:
        await desk.vault.bring_in(
            reserved.key_id.hex,
            ciphertext=b"memory:" + secret,
            wrapping_key="",
            exportable=reserved.wish.exportable,
            recovery_recipient=reserved.recovery_recipient,
        )
    return reserved


async def created_at(desk: Desk, key_id: UUID) -> datetime:
    async with desk.engine.connect() as connection:
        moment: datetime = (await connection.execute(select(keys.c.created_at).where(keys.c.id == key_id))).scalar_one()
    return moment


async def register(desk: Desk, recipient: str | None) -> None:
    async with desk.engine.begin() as connection:
        changed = update(recovery_recipients).where(recovery_recipients.c.org_id == desk.mine.id)
        if (await connection.execute(changed.values(recipient=recipient))).rowcount == 0:
            await connection.execute(insert(recovery_recipients).values(org_id=desk.mine.id, recipient=recipient))
