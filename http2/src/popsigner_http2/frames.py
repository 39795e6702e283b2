"""HTTP/2 frames as bytes (RFC 9113, sections 4 and 6): what a gRPC server reads and writes of them."""

import struct
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
# What both sides start with (RFC 9113, section 6.5.2).
FRAME_BYTES: Final = 16_384
WINDOW_BYTES: Final = 65_535
WINDOW_LIMIT: Final = 2**31 - 1

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

# The length's 24 bits as one byte and two, then type, flags, and the stream's id below a bit that says nothing.
HEAD: Final = struct.Struct(">BHBBL")
NUMBER: Final = struct.Struct(">L")
_SETTING: Final = struct.Struct(">HL")
_GOAWAY: Final = struct.Struct(">LL")


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):
    """The peer broke the protocol in a way after which nothing on the connection can be trusted."""

    def __init__(self, code: Code, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class StreamFault(Exception):
    """The peer broke the protocol within one stream; the others go on."""

    def __init__(self, code: Code, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame. payload: at most what the peer takes, 16 384 bytes where it did not say."""
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in values.items()))


def settings_of(payload: bytes) -> list[tuple[int, int]]:
    """The settings in a frame, in their order. Raises ConnectionFault."""
    if len(payload) % _SETTING.size:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS of a broken length")
    return list(_SETTING.iter_unpack(payload))


def goaway(last_stream: int, code: Code) -> bytes:
    """A GOAWAY frame. last_stream: the highest that was or may be answered."""
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last_stream, code))


def number(payload: bytes, kind: str) -> int:
    """The one 32-bit number of a WINDOW_UPDATE or RST_STREAM. Raises ConnectionFault."""
    if len(payload) != NUMBER.size:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"{kind} of a broken length")
    return int(NUMBER.unpack(payload)[0])


def unpadded(payload: bytes, flags: int) -> bytes:
    """What a DATA or HEADERS frame carries besides padding and priority. Raises ConnectionFault."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a padded frame without the padding's length")
        start, end = 1, end - payload[0]
    if flags & PRIORITISED:
        start += 5
    if start > end:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "padding that is longer than its frame")
    return payload[start:end]
