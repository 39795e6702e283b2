"""The key that private keys are wrapped to, as the vault gives it out."""

import asyncio
from collections.abc import Callable

from popsigner_server.vault import Vault, WrappingKey

# Seconds for which an answer serves. The vault accepts a key for a day after its successor has come, so a caller who
# gets one that is this old has done nothing wrong.
FRESH = 5.0


class WrappingKeys:
    """Asks the vault once for all who ask within some seconds: anybody may ask as often as they like, and OpenBao
    serves signatures too. `clock`: seconds, never going back."""

    def __init__(self, vault: Vault, *, clock: Callable[[], float]) -> None:
        self._vault = vault
        self._clock = clock
        self._held: tuple[WrappingKey, float] | None = None
        self._asking: asyncio.Task[WrappingKey] | None = None

    async def current(self) -> WrappingKey:
        """The one to wrap to. Raises VaultUnavailable, to all who wait for the same answer."""
        if self._held is not None and self._clock() < self._held[1]:
            return self._held[0]
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
            # Whoever asked may have gone: then nobody else looks at how it ended.
            self._asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        # Of those who wait each ends its own waiting, and nobody else's.
        return await asyncio.shield(self._asking)

    def forget(self) -> None:
        """Ask anew: the vault has refused a wrapping key, which may be the one that is held here."""
        self._held = None

    async def _ask(self) -> WrappingKey:
        try:
            key = await self._vault.wrapping_key()
            self._held = (key, self._clock() + FRESH)
            return key
        finally:
            self._asking = None
