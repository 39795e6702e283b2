"""Which header blocks make a request, and what is read of it."""

import pytest
from hpack import Encoder

from popsigner_http2.frames import Code, StreamFault
from popsigner_http2.headers import HeaderBlocks, Request, request
from tests.unit.http2.blocks import START, Fields

TYPE = (b"content-type", b"application/grpc")

MALFORMED: dict[str, Fields] = {
    "nothing": [],
    "no method": [*START[1:], TYPE],
    "no scheme": [START[0], START[2], TYPE],
    "no path": [*START[:2], TYPE],
    "two methods": [*START, START[0], TYPE],
    "a path of nothing": [*START[:2], (b":path", b""), TYPE],
    "a te that HTTP/2 does not have": [*START, (b"te", b"gzip"), TYPE],
    "two other paths": [*START, (b":path", b"/other"), TYPE],
    "two authorities": [*START, (b":authority", b"a"), (b":authority", b"a")],
    "a response's status": [*START, (b":status", b"200"), TYPE],
    "a pseudo-header that is unknown": [*START, (b":protocol", b"websocket"), TYPE],
    "a pseudo-header without a name": [*START, (b":", b"x"), TYPE],
    "a pseudo-header last": [*START[1:], TYPE, START[0]],
    "an optional pseudo-header last": [*START, TYPE, (b":authority", b"a")],
    "a pseudo-header in capitals": [*START[1:], (b":Method", b"POST"), TYPE],
    "a name in capitals": [*START, (b"Content-Type", b"application/grpc")],
    "a capital within a name": [*START, (b"x-Y", b"")],
    "a name of nothing": [*START, (b"", b"x")],
    "a blank in a name": [*START, (b"a b", b"x")],
    "a colon in a name": [*START, (b"a:b", b"x")],
    "a line's end in a name": [*START, (b"a\r\nb", b"x")],
    "a name beyond ASCII": [*START, (b"\xc3\xa4", b"x")],
    "a byte that ends strings in a name": [*START, (b"a\0", b"x")],
    "a byte that ends strings in a value": [*START, TYPE, (b"user-agent", b"a\0b")],
    "a line's end in a value": [*START, TYPE, (b"user-agent", b"a\nb: c")],
    "a carriage's return in a value": [*START, TYPE, (b"user-agent", b"a\rb")],
    "a byte that ends strings in the path": [*START[:2], (b":path", b"/a\0"), TYPE],
} | {
    f"HTTP/1.1's {name.decode()}": [*START, TYPE, (name, b"x")]
    for name in (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_a_fault_of_its_stream(name: str) -> None:
    with pytest.raises(StreamFault) as fault:
        request(MALFORMED[name])
    assert fault.value.code == Code.PROTOCOL_ERROR


@pytest.mark.parametrize("table", [0, 4_096])
def test_blocks_after_malformed_ones_mean_what_they_meant(table: int) -> None:
    ours, encoder = HeaderBlocks(), Encoder()
    encoder.header_table_size = table
    for _ in range(2):
        for fields in MALFORMED.values():
            block = encoder.encode(fields)
            with pytest.raises(StreamFault):
                ours.request(block)
            assert ours.request(encoder.encode([*START, TYPE, (b"a", b"b")])).metadata[-1] == ("a", "b")


def test_what_calls_need_is_read_and_the_rest_kept_in_its_order() -> None:
    more = [
        (b"x-a", b"1"),
        (b"grpc-timeout", b"1S"),
        (b"x-a", b"2"),
        (b"grpc-encoding", b"gzip"),
        TYPE,
        (b"b", b"\xe4"),
    ]
    assert request([START[1], (b":authority", b"h"), START[2], START[0], *more]) == Request(
        method=b"POST",
        path=START[2][1],
        content_type=b"application/grpc",
        encoding=b"gzip",
        timeout=b"1S",
        metadata=(
            ("x-a", "1"),
            ("grpc-timeout", "1S"),
            ("x-a", "2"),
            ("grpc-encoding", "gzip"),
            ("content-type", "application/grpc"),
            ("b", "\xe4"),
        ),
    )


def test_what_a_request_leaves_out_is_empty() -> None:
    asked = request(START)
    assert (asked.content_type, asked.encoding, asked.timeout, asked.metadata) == (b"", b"", b"", ())


def test_every_name_and_value_that_http2_has_is_taken() -> None:
    name = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
    value = bytes(byte for byte in range(256) if byte not in b"\0\r\n")
    assert request([*START, (name, value)]).metadata == ((name.decode(), value.decode("latin-1")),)
