"""What is remembered of header blocks means what it meant to the library."""

from typing import Any

import pytest
from hpack import Encoder, HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from popsigner_http2 import headers
from popsigner_http2.frames import Code, ConnectionFault, StreamFault
from popsigner_http2.headers import HeaderBlocks
from tests.unit.http2.blocks import BY_HAND, NOISE, REQUESTS, START, USUAL, WRITTEN, Fields, Written, encoded, library

NO_TABLE, TABLE = b"\x20", b"\x3f\xe1\x1f"


def by_library(blocks: list[bytes]) -> list[Fields | str]:
    """What each block says to a decoder that remembers nothing, up to the first broken one."""
    decoder = library()
    found: list[Fields | str] = []
    for block in blocks:
        try:
            found.append([(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)])
        except (HPACKError, IndexError):
            return [*found, "broken"]
    return found


def by_ours(blocks: list[bytes]) -> list[Fields | str]:
    ours = HeaderBlocks()
    found: list[Fields | str] = []
    for block in blocks:
        try:
            found.append(ours.fields(block))
        except ConnectionFault as fault:
            return [*found, "broken" if fault.code == Code.COMPRESSION_ERROR else str(fault)]
    return found


@given(conversation=WRITTEN)
@settings(max_examples=60, deadline=None)
def test_blocks_of_an_encoder_say_what_they_say_to_the_library(conversation: list[Written]) -> None:
    blocks = encoded(conversation)
    expected = by_library(blocks)
    assert "broken" not in expected
    assert by_ours(blocks) == expected


@given(conversation=WRITTEN)
@settings(max_examples=60, deadline=None)
def test_a_peer_without_a_table_is_understood_and_its_blocks_repeated(conversation: list[Written]) -> None:
    blocks = encoded([Written(START, True, 0), *[each._replace(table=None) for each in conversation]])
    blocks += blocks[1:] + blocks[1:]
    expected = by_library(blocks)
    assert "broken" not in expected
    assert by_ours(blocks) == expected


@given(first=st.sampled_from([b"", NO_TABLE]), blocks=st.lists(BY_HAND | NOISE, max_size=6), again=st.booleans())
@settings(deadline=None)
def test_blocks_that_no_encoder_writes_say_or_break_what_they_do_for_the_library(
    first: bytes, blocks: list[bytes], again: bool
) -> None:
    blocks = [first, *blocks, *blocks * again]
    assert by_ours(blocks) == by_library(blocks)


# Where cutting a block into its fields could go wrong, and the parts would look like fields.
TRICKS = {
    "a name that is never indexed": b"\x10\x01a\x84\x82\x82\x82\x82",
    "a long index of one field's name": b"\x0f\x80\x00\x01\x00",
    "another": b"\x4f\x80\x00\x01\x84",
    "an index of two bytes": b"\x7f\x00\x84\x82\x82\x82\x82",
    "its value looks like a field": b"\x0f\x00\x01\x84\x0f\x00\x01\x84",
    "a string of 127 bytes": b"\x00\x7f\x00" + b"a" * 127 + b"\x00",
    "a value of 127 bytes": b"\x00\x01a\x7f\x00" + b"\x84" * 127,
    "a value of 126 bytes": b"\x00\x01a\x7e" + b"\x84" * 126,
    "a size among fields": b"\x84\x20",
    "a size that is written long": b"\x3f\x00\x84",
    "a size alone": b"\x20",
    "two sizes": b"\x3f\xe1\x1f\x20\x84",
    "a size too large": b"\x3f\xe2\x1f\x84",
    "index 0": b"\x80",
    "a name of nothing": b"\x00\x00\x00",
    "a name that ends early": b"\x00\x03ab",
    "a value that ends early": b"\x00\x01a\x03ab",
    "a length that ends early": b"\x00\x01a",
    "an index that ends early": b"\x0f",
    "the last of the table": b"\xbd\x7d\x01a\x0f\x2e\x01a",
    "one behind the table": b"\xbe",
    "a name behind the table": b"\x7e\x01a",
    "a name behind the table, not indexed": b"\x0f\x2f\x01a",
    "a padding of Huffman's that is none": b"\x00\x01a\x81\x00",
    "Huffman's end": b"\x00\x01a\x84\xff\xff\xff\xff",
}


@pytest.mark.parametrize("first", [b"", NO_TABLE, b"\x40\x01x\x01y", NO_TABLE + b"\x40\x01x\x01y"])
@pytest.mark.parametrize("name", TRICKS)
def test_a_block_is_cut_as_the_library_cuts_it(name: str, first: bytes) -> None:
    blocks = [first, TRICKS[name], TRICKS[name], TRICKS[name] + b"\x84", b"\xbe"]
    assert by_ours(blocks) == by_library(blocks)


@given(blocks=REQUESTS)
@settings(deadline=None)
def test_a_request_that_came_before_is_what_it_is_to_the_library_whatever_came_between(blocks: list[bytes]) -> None:
    _compare(blocks)


HEAD = b"\x83\x86\x84"
A_B, C_D = HEAD + b"\x40\x01a\x01b", HEAD + b"\x40\x01c\x01d"
LATEST, SECOND = HEAD + b"\xbe", HEAD + b"\xbf"
NAMED, LEARNING_NAMED = HEAD + b"\x0f\x2f\x01e", HEAD + b"\x7e\x01e"
REPEATED = {
    "without a table, then filling one": [NO_TABLE + A_B, A_B, TABLE + C_D, A_B, LATEST],
    "growing the table": [NO_TABLE + A_B, TABLE + A_B, NO_TABLE + A_B, TABLE + A_B, LATEST, SECOND],
    "emptying the table": [NO_TABLE + A_B, TABLE + C_D, NO_TABLE + A_B, TABLE + A_B, SECOND],
    "filling the table": [A_B, A_B, SECOND, SECOND],
    "a field of the table": [A_B, LATEST, C_D, LATEST, SECOND],
    "a name of the table": [A_B, NAMED, C_D, NAMED],
    "a name that is learned again": [A_B, LEARNING_NAMED, C_D, LEARNING_NAMED, LATEST],
    "a field of a table that is no more": [A_B, LATEST, NO_TABLE + HEAD, LATEST],
    "a name of a table that is no more": [A_B, NAMED, NO_TABLE + HEAD, NAMED],
}


@pytest.mark.parametrize("name", REPEATED)
def test_the_same_bytes_are_another_request_where_the_table_is_another(name: str) -> None:
    _compare(REPEATED[name])


def _compare(blocks: list[bytes]) -> None:
    """Hold each request against what the library, which remembers nothing, makes of it."""
    ours, decoder = HeaderBlocks(), library()

    def without_memory(block: bytes) -> headers.Request:
        try:
            fields = [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
        except HPACKError:
            raise ConnectionFault(Code.COMPRESSION_ERROR, "") from None
        return headers.request(fields)

    for at, block in enumerate(blocks):
        said = _outcome(ours.request, block)
        assert said == _outcome(without_memory, block), at
        if said is ConnectionFault:
            break


def _outcome(request: Any, block: bytes) -> Any:
    try:
        return request(block)
    except (StreamFault, ConnectionFault) as fault:
        return type(fault)


@pytest.mark.parametrize("gives_up", [True, False])
def test_a_peer_may_give_its_table_up_or_go_on_with_it(gives_up: bool) -> None:
    ours, encoder = HeaderBlocks(), Encoder()
    first, second = encoder.encode(START + USUAL), encoder.encode(START + USUAL)
    assert len(second) < len(first) // 4
    assert ours.fields(first) == ours.fields(second) == START + USUAL
    if gives_up:
        encoder.header_table_size = 0
    third, fourth = encoder.encode(START + USUAL), encoder.encode(START + USUAL)
    assert ours.fields(third) == ours.fields(fourth) == START + USUAL


def test_a_block_becomes_no_more_than_the_library_allows() -> None:
    # One byte each, a name of 18 and 32 that an entry counts: sixteen thousand of them would be eight hundred thousand.
    for first in (b"", NO_TABLE):
        ours = HeaderBlocks()
        ours.fields(first)
        most = 65_536 // 50
        assert len(ours.fields(b"\xb0" * most)) == most
        with pytest.raises(ConnectionFault):
            ours.fields(b"\xb0" * (most + 1))
