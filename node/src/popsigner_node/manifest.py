"""What a backup says of itself: the first member of its archive, JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from popsigner_node.errors import Exit, NodeError
from popsigner_node.founded import known_schemas
from popsigner_node.layout import VERSION

FORMAT = 1
NAME = "manifest.json"
MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file of the archive. size: bytes. sha256: hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where an organization's ledger stood. size: the newest row's number. rows: how many are kept."""

    size: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """format: FORMAT. popsigner: the version that made it. layout: the data directory's. schema: the database's
    revision. created_at: by the database's clock, ISO 8601.

    keys: how many there were in each state. versions: how many they had. catalogue: SHA-256 over all keys, their states
    and public keys. ledger: by organization. made_meanwhile: names in the vault of keys that were begun between the
    database's moment and the vault's, which the database does not know.
    """

    format: int
    popsigner: str
    layout: str
    schema: str
    created_at: str
    organizations: int
    keys: Mapping[str, int]
    versions: int
    catalogue: str
    ledger: Mapping[str, Head]
    made_meanwhile: tuple[str, ...]
    members: Mapping[str, Member]

    def encoded(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def decoded(cls, text: bytes) -> Self:
        """Raises NodeError: ARCHIVE_UNREADABLE, or OTHER_VERSION for what this release does not know."""
        try:
            content = json.loads(text)
            found = (content["format"], content["popsigner"], content["layout"], content["schema"])
        except (ValueError, KeyError, TypeError):
            raise _broken() from None
        if found[0] != FORMAT or found[2] != VERSION or found[3] not in known_schemas():
            raise NodeError(
                f"The backup was made by POPSigner {found[1]!s:.40} (format {found[0]!s:.20}, data directory"
                f" {found[2]!s:.20}, schema {found[3]!s:.20}), which this one does not know: restore it with that"
                " release, or a later one.",
                code=Exit.OTHER_VERSION,
            )
        try:
            return cls(
                **content
                | {
                    "made_meanwhile": tuple(map(str, content["made_meanwhile"])),
                    "ledger": {org: Head(**head) for org, head in content["ledger"].items()},
                    "members": {name: Member(**member) for name, member in content["members"].items()},
                }
            )
        except (KeyError, TypeError, AttributeError):
            raise _broken() from None


def _broken() -> NodeError:
    return NodeError(
        "The backup's manifest is not one: the archive was not made by POPSigner.", code=Exit.ARCHIVE_UNREADABLE
    )
