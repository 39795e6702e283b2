"""The act: what is asked, what is answered, and the orders that wait between the two."""

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from popsigner_server.domain.digests import HashAlgorithm
from popsigner_server.domain.principals import Caller
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.errors import SignerError


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """One version of a key as signing needs it: its id, the vault's name for it, its public key in hexadecimal, and its
    namespace, by which a caller may be limited."""

    id: UUID
    vault_name: str
    version: int
    public_key: str
    # The same for every version of a key, for ever: no part of what makes two of these equal.
    namespace_id: UUID = field(compare=False)


class Ask(NamedTuple):
    """One thing to sign. `key` is an id or `namespace/name`; `version` 0 means the current one.

    A tuple, like Signature: one is made for each item of a batch, in half of a dataclass's time.
    """

    key: str
    data: bytes
    prehashed: bool
    hash: HashAlgorithm
    format: SignatureFormat
    sign_mode: str | None
    request_id: str | None
    version: int


class Signature(NamedTuple):
    """A released signature, in the format asked for, and the key version that made it."""

    value: bytes
    key: SigningKey
    format: SignatureFormat


Outcome = Signature | SignerError


@dataclass(slots=True, kw_only=True, eq=False)
class Order:
    """Items of one call that wait for a trip together, as columns (an entry an item; `digests` 32 bytes an item).

    `size` is the length of their data in bytes, which the call keeps in memory until it is answered. `deadline` is in
    the event loop's time. `done` receives for each item its signature or its error.
    """

    caller: Caller
    keys: list[SigningKey]
    digests: bytes
    hashes: list[int]
    formats: list[int]
    modes: list[str | None] | None
    requests: list[str | None] | None
    size: int
    deadline: float | None
    # The caller's span, for the spans of the trip and the commit to link to.
    link: object | None = None
    done: asyncio.Future[list[bytes | SignerError]]

    def __len__(self) -> int:
        return len(self.keys)
