"""gRPC's own part of a stream: messages behind their prefix, the frames of answers (gRPC over HTTP/2)."""

import struct
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from popsigner_http2.frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, FRAME_BYTES, HEADERS, frame

# Whether the message is compressed, and its length.
PREFIX: Final = struct.Struct(">BL")
_TYPE: Final = b"application/grpc"
_SAID: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def is_grpc(content_type: bytes) -> bool:
    """Whether a request says that it is gRPC: `application/grpc`, with `+` and a format or not. gRPC-Web is not."""
    name, more = content_type[: len(_TYPE)], content_type[len(_TYPE) :]
    return name == _TYPE and more[:1] in (b"", b"+", b";")


def prefixed(content: bytes) -> bytes:
    """A message as it goes into DATA frames, not compressed."""
    return PREFIX.pack(0, len(content)) + content


def literal(name: bytes, value: bytes) -> bytes:
    """A field without indexing and Huffman's code (RFC 7541, section 6.2.2). name: below 127 bytes."""
    return bytes((0, len(name))) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, section 5.1)."""
    if size < 0x7F:
        return bytes((size,))
    size -= 0x7F
    digits = bytearray((0x7F,))
    while size > 0x7F:
        digits.append(size & 0x7F | 0x80)
        size >>= 7
    digits.append(size)
    return bytes(digits)


# There is no dynamic table here. The first block after the peer allows less of one than it did has to say so
# (RFC 7541, section 4.2), and in any other it is one byte.
_NO_TABLE: Final = b"\x20"
# :status 200 from the static table.
_BEGIN: Final = _NO_TABLE + b"\x88" + literal(b"content-type", _TYPE)
_WELL: Final = _NO_TABLE + literal(b"grpc-status", b"0")


def beginning(stream: int) -> bytes:
    """The HEADERS frame in front of an answer's messages."""
    return frame(HEADERS, END_HEADERS, stream, _BEGIN)


def ending(stream: int) -> bytes:
    """The trailers of a call that went well."""
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, _WELL)


def small(stream: int, content: bytes) -> bytes:
    """A whole answer in three frames. content: as `prefixed`, at most what windows and the frame's size allow."""
    return b"".join((beginning(stream), frame(DATA, 0, stream, content), ending(stream)))


def refusal(
    stream: int, status: int, sentence: str, trailing: Iterable[tuple[bytes, bytes]] = (), *, begun: bool = False
) -> bytes:
    """The end of a call that failed. begun: whether its answer had begun; else its headers are trailers, too.
    trailing: further fields (lower-case names)."""
    fields = [literal(b"grpc-status", b"%d" % status)]
    if sentence:
        # A field's value begins and ends without a blank (RFC 9113, section 8.2.1).
        safe = _SAID if sentence == sentence.strip() else ""
        fields.append(literal(b"grpc-message", quote(sentence, safe=safe).encode()))
    fields += [literal(name, value) for name, value in trailing]
    return _blocks(stream, (_NO_TABLE if begun else _BEGIN) + b"".join(fields))


def not_grpc(stream: int) -> bytes:
    """The answer to a request that is not gRPC's: status 415 alone."""
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, _NO_TABLE + literal(b":status", b"415"))


def _blocks(stream: int, block: bytes) -> bytes:
    """The last header block of a stream, in as many frames as it takes."""
    if len(block) <= FRAME_BYTES:
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
    parts = [block[start : start + FRAME_BYTES] for start in range(0, len(block), FRAME_BYTES)]
    said = [frame(HEADERS, END_STREAM, stream, parts[0])]
    said += [frame(CONTINUATION, 0, stream, part) for part in parts[1:-1]]
    said.append(frame(CONTINUATION, END_HEADERS, stream, parts[-1]))
    return b"".join(said)
