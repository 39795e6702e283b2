"""Keys whose private part was made elsewhere: it arrives wrapped, and the engine alone unwraps it.

An import is a creation (reservations.py) with one more rule: whoever does not know whether it happened repeats it, and
the same private key under the same name finishes the job. So an import takes over the row of an earlier one that has
not ended, and goes on under the same name in the vault, where the engine is the judge of sameness: another private key
under that name is refused. Of A, who reserved, and B, who took over:

- Both bring in the same private key: the vault keeps one. Whoever completes first has the key, with what they wished
  for; the other finds the row ENABLED, and the name taken.
- They bring in different ones: the vault takes the first, and refuses the other.
- A is refused by the vault: its row is B's now (`since`), and stays. Before B came it would have been abandoned.
- B is refused by the vault: the row is A's again, at A's time, and the sweeper's when A never returns.
- A is killed, or does not hear from the vault: the row stays, for B, or for the sweeper, which then also destroys what
  the vault may have.
- The sweeper abandons first: B finds no row that holds the name, and reserves one of its own; A's completion fails. The
  vault has the private key under A's id until the sweeper has destroyed it, and B is told so (KeyPresent) until then.
- The vault hears from B only after A has completed and the key has been destroyed: B finds that out under the head, and
  destroys what it has brought in.
"""

import asyncio
from contextlib import suppress
from functools import partial

from popsigner_server import errors
from popsigner_server.domain.keys import Key
from popsigner_server.domain.principals import Caller
from popsigner_server.keys import Wish
from popsigner_server.keys.reservations import VAULT_WITHIN, Reservation, Reservations
from popsigner_server.keys.wrapping import WrappingKeys
from popsigner_server.vault import Placed, Vault

# What the vault has put nothing in for. After any other failure it may hold the private key.
REFUSALS = (
    errors.WrappedKeyInvalid,
    errors.PrivateKeyInvalid,
    errors.WrappingKeyUnknown,
    errors.KeyPresent,
    errors.KeyNameTaken,
)


class Importing:
    """Brings private keys in."""

    def __init__(self, reservations: Reservations, vault: Vault, wrapping_keys: WrappingKeys) -> None:
        self._reservations = reservations
        self._vault = vault
        self._wrapping_keys = wrapping_keys

    async def bring_in(self, caller: Caller, wish: Wish, *, ciphertext: bytes, wrapping_key: str) -> Key:
        """The key of a wrapped private key; `wrapping_key` is an id, empty to try all that are accepted.

        Raises WrappedKeyInvalid, PrivateKeyInvalid, WrappingKeyUnknown, KeyPresent, VaultUnavailable (the same call
        again finishes it), and what Reservations.reserve and complete do. A caller that cancels does not interrupt it.
        """
        return await self._reservations.to_its_end(
            caller.principal.organization_id, partial(self._bring_in, caller, wish, ciphertext, wrapping_key)
        )

    async def _bring_in(self, caller: Caller, wish: Wish, ciphertext: bytes, wrapping_key: str) -> Key:
        (reserved,) = await self._reservations.reserve(caller, [wish], imported=True)
        try:
            placed = await self._place(reserved, ciphertext, wrapping_key)
        except REFUSALS as refusal:
            await self._reservations.withdraw(reserved)
            if isinstance(refusal, errors.WrappingKeyUnknown):
                self._wrapping_keys.forget()
            if isinstance(refusal, errors.KeyNameTaken):
                # The vault knows the key by its id, which says nothing to the caller.
                raise errors.KeyNameTaken(f"{wish.namespace}/{wish.name}") from None
            raise
        try:
            (key,) = await self._reservations.complete(caller, {reserved.key_id: (wish, placed)})
        except errors.DeadlinePassed:
            # No row leads to it any more.
            with suppress(errors.VaultUnavailable):
                await self._vault.destroy(reserved.key_id.hex)
            raise
        return key

    async def _place(self, reserved: Reservation, ciphertext: bytes, wrapping_key: str) -> Placed:
        try:
            async with asyncio.timeout(VAULT_WITHIN):
                return await self._vault.bring_in(
                    reserved.key_id.hex,
                    ciphertext=ciphertext,
                    wrapping_key=wrapping_key,
                    exportable=reserved.wish.exportable,
                    recovery_recipient=reserved.recovery_recipient,
                )
        except TimeoutError as error:
            raise errors.VaultUnavailable from error
