"""Header blocks by hypothesis: as an encoder writes them, as nobody would, and as noise."""

from typing import NamedTuple

from hpack import Decoder, Encoder
from hpack.hpack import encode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable
from hypothesis import strategies as st

Fields = list[tuple[bytes, bytes]]

START: Fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/popsigner.v1.SignService/Sign")]
USUAL: Fields = [
    (b":authority", b"pop.example:443"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
    (b"user-agent", b"grpc-python/1.80.0 grpc-c/50.0.0 (linux; chttp2)"),
    (b"authorization", b"Bearer psk_0123456789abcdef"),
    (b"grpc-timeout", b"9999m"),
    (b"grpc-timeout", b"9998m"),
    (b"x-request-id", b"8c8b7a0e-6a93-4a35-a41f-1d9f24e5b0a7"),
    (b"cookie", b""),
    (b"long", bytes(range(33, 127)) * 3),
]
_NAMES = st.from_regex(rb"[a-z0-9-]{1,12}", fullmatch=True)
_VALUES = st.binary(max_size=20) | st.binary(min_size=120, max_size=135)
FIELDS = st.lists(st.sampled_from(START + USUAL) | st.tuples(_NAMES, _VALUES), max_size=12)


class Written(NamedTuple):
    """One block on its way: what it says, or None for one of those before once more; how its encoder is set."""

    fields: Fields | None
    huffman: bool
    table: int | None


WRITTEN = st.lists(
    st.builds(
        Written,
        st.none() | FIELDS | FIELDS.map(lambda fields: START + [each for each in fields if each[0][:1] != b":"]),
        st.booleans(),
        st.sampled_from([None, None, None, 0, 0, 60, 200, 4_096]),
    ),
    max_size=12,
)


def encoded(conversation: list[Written]) -> list[bytes]:
    """The blocks as hpack's encoder writes them, one after the other."""
    encoder = Encoder()
    said: list[Fields] = [START]
    blocks = []
    for at, (fields, huffman, table) in enumerate(conversation):
        if table is not None:
            encoder.header_table_size = table
        if fields is None:
            fields = said[at % len(said)]
        said.append(fields)
        blocks.append(encoder.encode(fields, huffman=huffman))
    return blocks


def _string(content: bytes, huffman: bool) -> bytes:
    if huffman:
        content = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(content)
    length = encode_integer(len(content), 7)
    length[0] |= 0x80 * huffman
    return bytes(length) + content


def _literal(first: int, bits: int, index: int, name: bytes, value: bytes, huffman: bool) -> bytes:
    start = encode_integer(index, bits)
    start[0] |= first
    return bytes(start) + (b"" if index else _string(name, huffman)) + _string(value, huffman)


_STATIC = HeaderTable.STATIC_TABLE_LENGTH
_PREFIX = st.sampled_from([(0x00, 4), (0x10, 4), (0x40, 6)])
_INDEXED = st.integers(1, 127 + 300).map(
    lambda index: bytes((encode_integer(index, 7)[0] | 0x80,)) + bytes(encode_integer(index, 7)[1:])
)
_LITERAL = st.builds(
    lambda prefix, index, name, value, huffman: _literal(prefix[0], prefix[1], index, name, value, huffman),
    _PREFIX,
    st.integers(0, _STATIC + 2),
    _NAMES,
    _VALUES,
    st.booleans(),
)
_RESIZE = st.sampled_from([0, 31, 60, 4_096, 4_097]).map(
    lambda size: bytes((encode_integer(size, 5)[0] | 0x20,)) + bytes(encode_integer(size, 5)[1:])
)
_KNOWN = st.sampled_from([b"\x83", b"\x86", b"\x84", b"\x8f", b"\xb0", b"\x44\x02/t", b"\x40\x01a\x01b", b"\xbe"])
_MANY = st.builds(lambda piece, times: piece * times, _KNOWN, st.integers(1, 1_500))
_PIECE = st.one_of(_KNOWN, _KNOWN, _LITERAL, _INDEXED, _MANY, st.binary(max_size=3))
NOISE = st.binary(max_size=60)
BY_HAND = st.builds(
    lambda sizes, pieces: b"".join(sizes + pieces), st.lists(_RESIZE, max_size=2), st.lists(_PIECE, max_size=8)
)


# Requests that read and write a table, or do not, and change its size; some of them twice.
_ONE = st.builds(
    lambda size, method, rest: size + method + b"\x86\x84" + b"".join(rest),
    st.sampled_from([b"", b"", b"", b"\x20", b"\x3f\xe1\x1f", b"\x3f\x02", b"\x20\x3f\xe1\x1f"]),
    st.sampled_from([b"\x83", b"\x83", b"\x83", b"\x83\x83"]),
    st.lists(
        st.sampled_from(
            [
                b"\x40\x01a\x01b",
                b"\x00\x01a\x01c",
                b"\xbe",
                b"\xbf",
                b"\x7e\x01d",
                b"\x0f\x2f\x01e",
                b"\x90",
                b"\x50\x01f",
            ]
        ),
        max_size=3,
    ),
)
REQUESTS = st.lists(_ONE, min_size=1, max_size=6).flatmap(
    lambda blocks: st.lists(st.sampled_from(blocks), min_size=1, max_size=12)
)


def library() -> Decoder:
    """A decoder that remembers nothing, with the same bound of what a block may become."""
    return Decoder(max_header_list_size=65_536)
