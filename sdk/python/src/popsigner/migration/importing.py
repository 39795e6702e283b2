"""The way in: one private key after the other, each repeatable.

Nothing is kept on this machine on the way. What the POP has under the name is compared by its public key, so that a
repetition after any interruption, of this program or of the POP, ends where the first attempt would have ended.
"""

from collections.abc import Mapping
from typing import Final

from .. import possession
from ..client import Client
from ..errors import (
    InvalidField,
    KeyDeleted,
    KeyNameTaken,
    KeyNotExportable,
    KeyNotFound,
    KeyPresent,
    NamespaceNotFound,
)
from ..gen.popsigner.v1 import Key, KeyState, KeyVersion
from ..keyfiles import PublicFacts, Secret
from .results import KEY_NAME, Outcome, Result, VerificationFailed

# It is in the audit row of the signature by which an import is verified.
SIGN_MODE: Final = "MIGRATION"


class Importer:
    """Brings private keys into one namespace. `verify`: a signature of the POP has to verify against the source."""

    def __init__(self, client: Client, *, namespace: str, exportable: bool = False, verify: bool = True) -> None:
        """Raises NamespaceNotFound, and what a call can fail with."""
        self._client = client
        self._namespace = namespace
        self._exportable = exportable
        self._verify = verify
        self._prefix = _address_prefix(client, namespace)
        self._present: Mapping[str, str] | None = None

    def plan(self, result: Result, secret: Secret) -> None:
        """Write into `result` what `bring_in` would do, and send nothing secret. Raises what would be refused."""
        name = self._described(result, secret.facts)
        if self._held(name, secret.facts) is not None:
            result.outcome = Outcome.PRESENT
            return
        if other := self._elsewhere(result.public_key):
            raise KeyPresent(f"this private key is in the POP already, as {other}")
        result.outcome = Outcome.PLANNED

    def bring_in(self, result: Result, secret: Secret) -> None:
        """Import one private key under `result.key`, unless it is there, and verify it.

        Raises KeyNameTaken (by another private key), KeyPresent (under another name), KeyDeleted, KeyNotExportable,
        VerificationFailed, and what the calls raise; `result` says how far it came.
        """
        name = self._described(result, secret.facts)
        held = self._held(name, secret.facts)
        if held is None:
            held = self._imported(result, name, secret)
        else:
            result.outcome = Outcome.PRESENT
        key, version = held
        if (version.address, version.eth_address) != (result.address, result.eth_address):
            raise VerificationFailed(f"the POP names other addresses of {result.key} than those of this private key")
        result.version = version.version
        if self._verify:
            self._verified(result, secret.facts)
        if self._exportable and not key.exportable:
            raise KeyNotExportable(f"{result.key} was there already, and not exportable, which cannot be given later")

    def recalled(self, result: Result) -> bool:
        """Whether an imported key has this name in the POP, for a source that cannot be read any more."""
        try:
            key = self._client.keys.get(result.key)
        except KeyNotFound:
            return False
        if not key.imported:
            return False
        result.version, result.public_key = key.version, key.public_key
        result.address, result.eth_address = key.address, key.eth_address
        result.outcome = Outcome.PRESENT
        return True

    def _described(self, result: Result, facts: PublicFacts) -> str:
        result.public_key = facts.public_key.hex()
        result.address = facts.address(self._prefix)
        result.eth_address = facts.eth_address
        name = result.key.partition("/")[2]
        if not KEY_NAME.fullmatch(name):
            raise InvalidField(
                "a key's name has 1 to 100 letters, digits, dots, hyphens and underscores, and begins with a letter or "
                "digit; choose one with --name"
            )
        return name

    def _held(self, name: str, facts: PublicFacts) -> tuple[Key, KeyVersion] | None:
        """The key under this name and its version that has this private key; None where there is no key."""
        shown = f"{self._namespace}/{name}"
        try:
            key = self._client.keys.get(shown)
        except KeyNotFound:
            return None
        found = next((each for each in self._versions(key) if each.public_key == facts.public_key.hex()), None)
        if found is None:
            raise KeyNameTaken(f"{shown} is another key in the POP; choose another name with --name")
        if key.state is KeyState.DELETED:
            raise KeyDeleted(f"{shown} is this key, and deleted in the POP; `popsigner keys restore` brings it back")
        return key, found

    def _versions(self, key: Key) -> tuple[KeyVersion, ...]:
        if key.version > 1:
            return self._client.keys.versions(key)
        return (
            KeyVersion(
                version=key.version, public_key=key.public_key, address=key.address, eth_address=key.eth_address
            ),
        )

    def _imported(self, result: Result, name: str, secret: Secret) -> tuple[Key, KeyVersion]:
        try:
            key = self._client.keys.import_key(
                secret.scalar, name=name, namespace=self._namespace, exportable=self._exportable
            )
        except KeyNameTaken:
            # Another run of this command was quicker, or the POP finished what an attempt before had begun.
            held = self._held(name, secret.facts)
            if held is None:
                raise
            result.outcome = Outcome.PRESENT
            return held
        except KeyPresent as error:
            if other := self._elsewhere(result.public_key):
                error.message = f"this private key is in the POP already, as {other}"
            raise
        result.outcome = Outcome.IMPORTED
        return key, self._versions(key)[0]

    def _verified(self, result: Result, facts: PublicFacts) -> None:
        message = possession.challenge()
        signed = self._client.sign(result.key, message, key_version=result.version, sign_mode=SIGN_MODE)
        if not possession.verifies(facts.public_key, message, signed.signature):
            raise VerificationFailed(f"what the POP signed with {result.key} does not verify against the source")
        result.verified = True

    def _elsewhere(self, public_key: str) -> str:
        """The name of the organization's key that has this public key as its newest one, empty where there is none."""
        if self._present is None:
            self._present = {key.public_key: f"{key.namespace}/{key.name}" for key in self._client.keys.list()}
        return self._present.get(public_key, "")


def _address_prefix(client: Client, namespace: str) -> str:
    for each in client.namespaces.list():
        if each.name == namespace:
            return each.address_prefix
    raise NamespaceNotFound(f"there is no namespace {namespace}")
