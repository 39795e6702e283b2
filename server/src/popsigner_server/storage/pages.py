"""Cursors of keyset pagination: opaque to the caller, bound to the list that gave them out, stable under inserts."""

import base64
import binascii
from datetime import UTC, datetime, timedelta
from uuid import UUID

from popsigner_server import errors

MAX_CURSOR = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def write(name: str, position: object) -> str:
    """The cursor after `position` (a UUID or a number) of the list `name`."""
    return base64.urlsafe_b64encode(f"{name}:{position}".encode()).decode().rstrip("=")


def _read(name: str, cursor: str) -> str:
    if len(cursor) > MAX_CURSOR:
        raise errors.InvalidCursor
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise errors.InvalidCursor from error
    kind, _, position = text.partition(":")
    if kind != name:
        raise errors.InvalidCursor
    return position


def read_id(name: str, cursor: str) -> UUID:
    """The id after which the page begins. Raises InvalidCursor."""
    try:
        return UUID(_read(name, cursor))
    except ValueError as error:
        raise errors.InvalidCursor from error


def read_number(name: str, cursor: str) -> int:
    """The number before or after which the page begins. Raises InvalidCursor."""
    position = _read(name, cursor)
    if not (position.isascii() and position.isdigit() and len(position) <= 18):
        raise errors.InvalidCursor
    return int(position)


def moment(at: datetime, row_id: UUID) -> str:
    """The position of a row in a list that is ordered by time, then id."""
    return f"{(at - _EPOCH) // timedelta(microseconds=1)}.{row_id}"


def read_moment(name: str, cursor: str) -> tuple[datetime, UUID]:
    """The position after which the page begins, as `moment` wrote it. Raises InvalidCursor."""
    microseconds, row_id = read_pair(name, cursor)
    return _EPOCH + timedelta(microseconds=microseconds), row_id


def read_pair(name: str, cursor: str) -> tuple[int, UUID]:
    """The number and the id of a position that was written as `number.id`. Raises InvalidCursor."""
    number, _, row_id = _read(name, cursor).partition(".")
    if not (number.isascii() and number.isdigit() and len(number) <= 17):
        raise errors.InvalidCursor
    try:
        return int(number), UUID(row_id)
    except ValueError as error:
        raise errors.InvalidCursor from error
