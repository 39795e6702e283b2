"""What came of each key."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from .. import errors
from ..errors import PopsignerError

# Names as the POP gives them; as names of files they lead nowhere else.
KEY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAMESPACE_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")

# What would befall every other key as well: who asks may not, or the POP is not there.
OF_ALL_KEYS: Final = (
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.Cancelled,
    errors.NotAuthenticated,
    errors.NotPermitted,
    errors.ResourceExhausted,
)


class VerificationFailed(PopsignerError):
    """A key is not what it is taken for: a signature does not verify, a public key or an address differs."""


class SourceKept(PopsignerError):
    """The deletion of a source was not confirmed."""


class Outcome(StrEnum):
    """How far it came."""

    PLANNED = "would be imported"
    IMPORTED = "imported"
    EXPORTED = "exported"
    RECOVERED = "recovered"
    OPENED = "opens"
    PRESENT = "already there"
    FAILED = "failed"
    NOT_TRIED = "not tried"


@dataclass(slots=True, kw_only=True)
class Result:
    """One key. `place` is where it was read or written; `key` its `namespace/name` in the POP; `error` is why it
    failed, also where that was only the verification of what had come through."""

    place: str
    key: str
    version: int = 0
    outcome: Outcome = Outcome.NOT_TRIED
    public_key: str = ""
    address: str = ""
    eth_address: str = ""
    verified: bool = False
    source_deleted: bool = False
    error: PopsignerError | None = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Keep the error of the block, so that the others go on. What concerns every key is kept, and raised again."""
        try:
            yield
        except PopsignerError as error:
            self.error = error
            if self.outcome is Outcome.NOT_TRIED:
                self.outcome = Outcome.FAILED
            if isinstance(error, OF_ALL_KEYS):
                raise
