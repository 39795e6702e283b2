"""Private keys on their way out: sealed by the engine to the caller's public key.

The order is that of a signature: first the vault, then the ledger's row, then the answer. What the vault has sealed is
dropped unless its audit row is committed, and under the head everything that entitles to it is judged again: so no row
of an export follows the row of a change that forbids it, whatever caches say. A crash leaves at most a row of an export
that nobody received.

Versions are those of the database: the vault may have one more, of a rotation that did not end.
"""

import hashlib
from collections.abc import Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix, show
from popsigner_server.domain.keys import Key, Move
from popsigner_server.domain.principals import Caller, Role, Scope
from popsigner_server.domain.recipients import check_recipient
from popsigner_server.keys.catalogue import Catalogue, locked, to_key, versions_of
from popsigner_server.keys.lifecycle import allow
from popsigner_server.ledger.changes import Change, Ledger
from popsigner_server.vault import Sealed, Vault

# Characters; an RSA key of 8192 bits takes 1 450 in PEM.
MAX_RECIPIENT = 4096
RSA_BITS = range(3072, 8193)
RSA_EXPONENT = 65_537


class Export:
    """Hands out sealed private keys."""

    def __init__(self, ledger: Ledger, vault: Vault, catalogue: Catalogue) -> None:
        self._ledger = ledger
        self._vault = vault
        self._catalogue = catalogue

    async def export(self, caller: Caller, reference: str, *, recipient: str, versions: Sequence[int]) -> Sealed:
        """Versions of an exportable key (none: the newest), sealed to an RSA public key in PEM or an age recipient.

        Raises InvalidField (`recipient`), KeyNotFound, KeyDeleted, KeyNotExportable, KeyVersionUnavailable,
        VaultUnavailable, and what `still_may` does.
        """
        reader, fingerprint = checked_recipient(recipient)
        principal = caller.principal
        key = await self._catalogue.get(principal.organization_id, reference, bounds=principal.bounds)
        numbers = sorted(set(versions)) or [key.version]
        _judge(key, numbers)
        sealed = await self._vault.export(key.id.hex, recipient=reader, versions=numbers)
        async with self._ledger.change(principal.organization_id) as change:
            # By its id: between the two somebody may have given its name to another.
            row = await locked(change, caller, show(Prefix.KEY, key.id), scope=Scope.KEYS_EXPORT, least=Role.ADMIN)
            key = to_key(row)
            _judge(key, numbers)
            known = {version.version: version.public_key for version in await versions_of(change.connection, row)}
            _compare(sealed, {number: known[number] for number in numbers})
            _tell(change, caller, key, sealed, fingerprint)
        return sealed


def checked_recipient(text: str) -> tuple[str, str]:
    """Who can open the answer, in one spelling, and their fingerprint: SHA-256 of an RSA key's SubjectPublicKeyInfo
    (DER), or of the characters of an age recipient; 64 hexadecimal digits. Raises InvalidField."""
    if not text.lstrip().startswith("-----BEGIN"):
        try:
            check_recipient(text)
        except ValueError as error:
            raise errors.InvalidField("recipient", f"{error} An RSA public key in PEM is the other form.") from error
        return text, hashlib.sha256(text.encode()).hexdigest()
    try:
        key = load_pem_public_key(text.encode()) if len(text) <= MAX_RECIPIENT else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey):
        raise errors.InvalidField("recipient", "must be an RSA public key (PEM), or an age X25519 recipient.")
    if key.key_size not in RSA_BITS or key.public_numbers().e < RSA_EXPONENT:
        raise errors.InvalidField(
            "recipient", f"must have {RSA_BITS[0]} to {RSA_BITS[-1]} bits, and an exponent of at least {RSA_EXPONENT}."
        )
    # What is sealed to is what was looked at here: nothing before or behind it in the text has a say.
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return pem, hashlib.sha256(der).hexdigest()


def _judge(key: Key, numbers: Sequence[int]) -> None:
    """That the key's state, its owner's wish and its versions allow it. Raises KeyDeleted, KeyNotExportable,
    KeyVersionUnavailable."""
    allow(Move.EXPORT, key.state)
    if not key.exportable:
        raise errors.KeyNotExportable
    if not all(1 <= number <= key.version for number in numbers):
        raise errors.KeyVersionUnavailable


def _compare(sealed: Sealed, known: dict[int, bytes]) -> None:
    """That the vault has sealed what was asked for, and what the database names. Raises VaultUnavailable."""
    if {version.version: version.public_key for version in sealed.versions} != known:
        raise errors.VaultUnavailable(
            "OpenBao has other private keys under this key than the database names, as after a restore of one of them"
            " alone; the POP's operator must restore both from the same backup."
        )


def _tell(change: Change, caller: Caller, key: Key, sealed: Sealed, fingerprint: str) -> None:
    told = {
        "name": f"{key.namespace}/{key.name}",
        "versions": ", ".join(str(version.version) for version in sealed.versions),
        "wrapping": sealed.wrapping,
        "recipient": f"SHA-256 {fingerprint}",
    }
    change.record("key.exported", caller=caller, resource_type="key", resource_id=key.id, metadata=told)
