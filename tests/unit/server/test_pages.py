"""Cursors: opaque, bound to their list, and never a way in."""

from uuid import UUID

import pytest

from popsigner_server import errors
from popsigner_server.storage import pages


def test_a_cursor_comes_back_as_it_was() -> None:
    assert pages.read_id("keys", pages.write("keys", UUID(int=7))) == UUID(int=7)
    assert pages.read_number("audit", pages.write("audit", 42)) == 42


@pytest.mark.parametrize(
    "cursor", ["x", "%%%", "a" * 500, "é", pages.write("audit", 3), pages.write("keys", "' OR 1=1"), "a2V5czo="]
)
def test_a_cursor_that_this_list_never_gave_out_is_refused(cursor: str) -> None:
    with pytest.raises(errors.InvalidCursor):
        pages.read_id("keys", cursor)


@pytest.mark.parametrize("position", ["-1", "1e9", "9" * 40, "٣", ""])
def test_a_number_that_is_none_is_refused(position: str) -> None:
    with pytest.raises(errors.InvalidCursor):
        pages.read_number("audit", pages.write("audit", position))
