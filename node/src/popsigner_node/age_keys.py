"""Who can open a backup: recipients and identities of age's X25519 kind (C2SP age v1), as `age-keygen` writes them."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import pyrage  # type: ignore[import-untyped]  # it publishes no types

Recipient: TypeAlias = Any
"""pyrage.x25519.Recipient"""
Identity: TypeAlias = Any
"""pyrage.x25519.Identity"""


def recipients(lines: Iterable[str]) -> list[Recipient]:
    """`age1…` each. Raises ValueError, which quotes no line: somebody may have named the file of the identities."""
    try:
        return [pyrage.x25519.Recipient.from_str(line) for line in _meant(lines)]
    except pyrage.RecipientError:
        raise ValueError("a recipient is not one of age's X25519 kind (age1...)") from None


def identities(lines: Iterable[str]) -> list[Identity]:
    """`AGE-SECRET-KEY-1…` each. Raises ValueError, which quotes nothing."""
    try:
        return [pyrage.x25519.Identity.from_str(line) for line in _meant(lines)]
    except pyrage.IdentityError:
        raise ValueError("a line is no age identity (AGE-SECRET-KEY-1...)") from None


def _meant(lines: Iterable[str]) -> list[str]:
    """The lines that are neither empty nor comments."""
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
