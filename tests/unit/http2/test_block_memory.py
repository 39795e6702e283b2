"""What a connection remembers of header blocks, which is little whatever its peer sends."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hpack import Encoder

from popsigner_http2.headers import HeaderBlocks
from tests.unit.http2.blocks import START, USUAL

EMPTIED = b"\x20"


def weight(thing: object) -> int:
    """Bytes of a thing and of what is in it, each once."""
    found: dict[int, object] = {}
    left = [thing]
    while left:
        each = left.pop()
        if id(each) not in found:
            found[id(each)] = each
            if isinstance(each, dict):
                left += [*each, *each.values()]
            elif isinstance(each, tuple | list):
                left += each
    return sum(map(sys.getsizeof, found.values()))


def written(*fields: tuple[bytes, bytes]) -> bytes:
    """A request with these fields too, as a peer without a table writes it."""
    encoder = Encoder()
    encoder.header_table_size = 0
    encoder.encode([])
    return encoder.encode(START) + encoder.encode(fields)


def large(number: int) -> tuple[bytes, bytes]:
    """A field, as large as one that is remembered can be: these letters take five bits each."""
    return b"a%03d" % (number % 1_000) + b"a" * 190, b"0" * 200


FLOODS: dict[str, Callable[[int], bytes]] = {
    "other fields each time": lambda number: written(large(number), large(number + 500)),
    "as many fields as fit": lambda number: written() + bytes((0x90 + number % 40,)) * 900,
    "as many fields as are remembered": lambda number: written() + bytes((0x90 + number % 40,)) * 29,
    "as long as is remembered": lambda number: written(*map(large, (number, number + 300, number + 600))),
    "all of that in turn": lambda number: FLOODS["as many fields as are remembered" if number % 16 else "longer"](
        number
    ),
    "longer": lambda number: written(*[large(number * 9 + each) for each in range(9)]),
    "long values": lambda number: written((b"a", b"%03d" % number + bytes([0xF0]) * 250)),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_no_peer_makes_a_connection_remember_much(flood: str) -> None:
    ours = HeaderBlocks()
    ours.fields(EMPTIED)
    most = 0
    for number in range(100):
        ours.request(FLOODS[flood](number))
        assert len(ours._known) <= 64
        assert len(ours._requests) <= 16
        most = max(most, weight([ours._known, ours._requests]))
    print("MOST", flood, most)
    assert most < 150_000, f"{most} bytes"


def test_what_came_before_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, encoder = HeaderBlocks(), Encoder()
    encoder.header_table_size = 0
    usual = [START + USUAL[1:5] + [(b"grpc-timeout", b"%dm" % number)] for number in range(3)]
    blocks = [encoder.encode(fields) for fields in usual]
    ours.fields(blocks[0])
    first = ours.fields(encoder.encode(usual[0]))
    decoded: list[bytes] = []
    decode = ours._decoder.decode

    def count(block: bytes, *, raw: bool) -> Any:
        decoded.append(block)
        return decode(block, raw=raw)

    monkeypatch.setattr(ours._decoder, "decode", count)
    assert ours.fields(blocks[1])[:-1] == first[:-1]
    assert len(decoded) == 1
    asked = ours.request(blocks[2])
    assert len(decoded) == 2
    assert ours.request(blocks[2]) is asked
    assert len(decoded) == 2
