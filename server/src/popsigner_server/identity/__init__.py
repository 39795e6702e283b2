"""Who is asking: API keys, from the presented text to a principal."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from popsigner_server import errors
from popsigner_server.domain.ids import crockford, from_crockford
from popsigner_server.domain.principals import Principal

_SHAPE = re.compile(r"psk_(live|test)_([0-9A-HJKMNP-TV-Z]{26})_([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedKey:
    """An API key as it was sent: `psk_<environment>_<26 characters of its id>_<64 hexadecimal digits of its
    secret>`."""

    environment: str
    id: UUID
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The whole key."""
        return f"{prefix_of(self.environment, self.id)}_{self.secret}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecret:
    """What is stored of one secret of an API key.

    `check` is hashing.check_of it, None for a key of before. `over_at` is when a later rotation ends it, None for the
    newest secret.
    """

    hash: str = field(repr=False)
    check: bytes | None = field(repr=False)
    generation: int
    over_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A stored API key: who it is (with its newest secret), its secrets from the newest on, and when it was revoked."""

    principal: Principal
    secrets: tuple[StoredSecret, ...]
    revoked_at: datetime | None


def prefix_of(environment: str, api_key_id: UUID) -> str:
    """What may be shown of a key: everything before its secret."""
    return f"psk_{environment}_{crockford(api_key_id)}"


def parse_api_key(text: str) -> PresentedKey:
    """Take a presented key apart. Raises CredentialsInvalid for everything that no POP ever gave out."""
    shape = _SHAPE.fullmatch(text)
    if shape is None:
        raise errors.CredentialsInvalid(
            "The API key is malformed; a key is psk_live_… as it was shown at its creation."
        )
    try:
        return PresentedKey(environment=shape[1], id=from_crockford(shape[2]), secret=shape[3])
    except ValueError as error:
        raise errors.CredentialsInvalid from error
