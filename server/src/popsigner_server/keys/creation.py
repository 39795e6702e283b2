"""Keys whose private part the vault makes."""

import asyncio
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from popsigner_server import errors
from popsigner_server.domain.keys import Key
from popsigner_server.domain.principals import Caller
from popsigner_server.keys import Wish
from popsigner_server.keys.reservations import VAULT_WITHIN, Reservation, Reservations
from popsigner_server.vault import Placed, Vault


class Creation:
    """Makes keys, all of a call or none."""

    def __init__(self, reservations: Reservations, vault: Vault) -> None:
        self._reservations = reservations
        self._vault = vault

    async def create(self, caller: Caller, wishes: Sequence[Wish]) -> list[Key]:
        """Create all or none. Raises VaultUnavailable, and what Reservations.reserve and complete do.

        A caller that cancels does not interrupt a creation under way: it ends one way or the other.
        """
        return await self._reservations.to_its_end(
            caller.principal.organization_id, partial(self._create, caller, wishes)
        )

    async def _create(self, caller: Caller, wishes: Sequence[Wish]) -> list[Key]:
        reserved = await self._reservations.reserve(caller, wishes)
        try:
            return await self._reservations.complete(caller, await self._make_all(reserved))
        except BaseException:
            await self._reservations.abandon([reservation.key_id for reservation in reserved])
            raise

    async def _make_all(self, reserved: Sequence[Reservation]) -> dict[UUID, tuple[Wish, Placed]]:
        """The private keys, in the vault. On a failure the others are waited for all the same, so that nothing is under
        way when the rows are abandoned."""
        made = await asyncio.gather(*map(self._make, reserved), return_exceptions=True)
        placed = {}
        for reservation, key in zip(reserved, made, strict=True):
            if isinstance(key, BaseException):
                raise key
            placed[reservation.key_id] = (reservation.wish, key)
        return placed

    async def _make(self, reservation: Reservation) -> Placed:
        try:
            async with asyncio.timeout(VAULT_WITHIN):
                public_key = await self._vault.create(
                    reservation.key_id.hex,
                    exportable=reservation.wish.exportable,
                    recovery_recipient=reservation.recovery_recipient,
                )
        except TimeoutError as error:
            raise errors.VaultUnavailable from error
        return Placed(
            public_key=public_key,
            exportable=reservation.wish.exportable,
            recovery_recipient=reservation.recovery_recipient,
        )
