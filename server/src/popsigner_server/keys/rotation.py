"""A key's next version: a new private key, and so a new address.

Two steps, of which only the second is a change: the vault makes version n + 1 and keeps it, then the row names it
together with the audit row. Between the two the vault has one version more than the row knows. That one signs nothing:
the catalogue does not find it, and the release gate refuses every version above the row's. The next rotation asks the
vault for the same n + 1 and gets it as it stands, so that a crash between any two steps is finished by the same command
again, and a rotation that was refused under the lock (the key was deleted or disabled meanwhile) leaves nothing that
has to be cleared: a destruction overwrites every version that the vault has.
"""

from sqlalchemy import insert, update

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.keys import Key, KeyVersion, Move
from popsigner_server.domain.principals import Caller
from popsigner_server.keys.cache import KeyCache
from popsigner_server.keys.catalogue import Catalogue, locked, to_key, versions_of
from popsigner_server.keys.lifecycle import allow
from popsigner_server.ledger.changes import Change, Ledger
from popsigner_server.storage.notices import KEY_CHANGED, announce
from popsigner_server.storage.tables import key_versions, keys
from popsigner_server.vault import Vault


class Rotation:
    """Gives keys new versions."""

    def __init__(self, ledger: Ledger, vault: Vault, catalogue: Catalogue, cache: KeyCache) -> None:
        self._ledger = ledger
        self._vault = vault
        self._catalogue = catalogue
        self._cache = cache

    async def rotate(self, caller: Caller, reference: str, *, expected: int) -> tuple[Key, KeyVersion]:
        """The key with its new version, and the version before it.

        With `expected`, the version that the caller knows as the newest, a repetition makes no second one. Callers that
        rotate at the same moment share one new version.

        Raises KeyNotFound, KeyDisabled, KeyDeleted, KeyVersionChanged, KeyVersionsExhausted, VaultUnavailable.
        """
        principal = caller.principal
        found = await self._catalogue.get(principal.organization_id, reference, bounds=principal.bounds)
        allow(Move.ROTATE, found.state)
        wanted = (expected or found.version) + 1
        public_key = b""
        if wanted == found.version + 1:
            public_key = await self._vault.rotate(found.id.hex, to_version=wanted)
        elif wanted != found.version:
            raise errors.KeyVersionChanged(found.version)
        # By its id: between the two somebody may have given its name to another.
        answer = await self._name(caller, show(Prefix.KEY, found.id), wanted, public_key, exactly=expected != 0)
        # Other processes hear the notice; whoever was answered here signs with the new version here at once.
        self._cache.forget(found.id)
        return answer

    async def _name(
        self, caller: Caller, reference: str, wanted: int, public_key: bytes, *, exactly: bool
    ) -> tuple[Key, KeyVersion]:
        """Make `wanted` the version that signs, unless somebody has."""
        async with self._ledger.change(caller.principal.organization_id) as change:
            row = dict(await locked(change, caller, reference))
            key = to_key(row)
            allow(Move.ROTATE, key.state)
            if key.version > wanted and exactly:
                raise errors.KeyVersionChanged(key.version)
            if key.version < wanted:
                await _advance(change, key, wanted, public_key)
                before = key
                row |= {"current_version": wanted, "public_key": public_key}
                key = to_key(row)
                told = {
                    "version": f"{before.version} -> {key.version}",
                    "address": f"{before.address} -> {key.address}",
                }
                change.record("key.rotated", caller=caller, resource_type="key", resource_id=key.id, metadata=told)
                await announce(change.connection, KEY_CHANGED, key.id)
            versions = await versions_of(change.connection, row)
        return key, next(version for version in versions if version.version == key.version - 1)


async def _advance(change: Change, key: Key, version: int, public_key: bytes) -> None:
    await change.connection.execute(
        insert(key_versions).values(key_id=key.id, version=version, org_id=key.organization_id, public_key=public_key)
    )
    await change.connection.execute(
        update(keys)
        .where(keys.c.id == key.id, keys.c.org_id == key.organization_id)
        .values(current_version=version, public_key=public_key)
    )
