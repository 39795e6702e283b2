"""The frames of answers, read by libraries that are not ours."""

from typing import Any
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hpack import Decoder
from hpack.hpack import encode_integer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from popsigner_http2 import frames, grpc
from tests.unit.http2.parts import frames_in

ASKING = [(":method", "POST"), (":scheme", "http"), (":path", "/t.Test/Echo"), (":authority", "localhost")]
OK = [(b":status", b"200"), (b"content-type", b"application/grpc")]


class Client:
    """h2's client with one call that waits for its answer."""

    def __init__(self) -> None:
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.http.initiate_connection()
        self.http.receive_data(frames.settings({}))
        self.http.send_headers(1, ASKING, end_stream=True)

    def heard(self, data: bytes) -> list[tuple[str, Any]]:
        """What these bytes mean to it: kinds of events with their fields or content."""
        found = self.http.receive_data(data)
        return [(type(e).__name__, getattr(e, "headers", getattr(e, "data", None))) for e in found]


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 256, 16_384, 16_510, 16_511, 2_097_278, 2_097_279])
def test_a_field_of_every_length_decodes(size: int) -> None:
    value = bytes(range(256)) * (size // 256 + 1)
    decoder = Decoder(max_header_list_size=2**22)
    block = grpc.literal(b"grpc-status-details-bin", value[:size]) + grpc.literal(b"a", b"")
    assert block.startswith(b"\0\x17grpc-status-details-bin" + encode_integer(size, 7) + value[:size])
    assert decoder.decode(block, raw=True) == [(b"grpc-status-details-bin", value[:size]), (b"a", b"")]


@given(name=st.binary(min_size=1, max_size=126), value=st.binary(max_size=400))
@settings(deadline=None)
def test_any_field_decodes_and_leaves_no_entry_in_a_table(name: bytes, value: bytes) -> None:
    decoder = Decoder()
    assert decoder.decode(grpc.literal(name, value), raw=True) == [(name, value)]
    assert not decoder.header_table.dynamic_entries


def test_a_call_that_went_well_is_headers_message_and_trailers() -> None:
    assert Client().heard(grpc.small(1, grpc.prefixed(b"signed"))) == [
        ("ResponseReceived", OK),
        ("DataReceived", b"\0\0\0\0\6signed"),
        ("TrailersReceived", [(b"grpc-status", b"0")]),
        ("StreamEnded", None),
    ]


def test_the_parts_of_an_answer_are_the_answer() -> None:
    parts = grpc.beginning(7) + frames.frame(frames.DATA, 0, 7, b"x") + grpc.ending(7)
    assert grpc.small(7, b"x") == parts


@pytest.mark.parametrize("begun", [False, True])
def test_a_refusal_says_its_status_and_its_sentence_once(begun: bool) -> None:
    client = Client()
    if begun:
        client.heard(grpc.beginning(1))
    end = grpc.refusal(1, 8, "Too many; wait 100 % longer.", [(b"retry-after", b"1")], begun=begun)
    said = [(b"grpc-status", b"8"), (b"grpc-message", b"Too many; wait 100 %25 longer."), (b"retry-after", b"1")]
    assert client.heard(end) == [
        ("TrailersReceived", said) if begun else ("ResponseReceived", OK + said),
        ("StreamEnded", None),
    ]


def test_a_refusal_without_a_sentence_has_no_field_for_it() -> None:
    assert Client().heard(grpc.refusal(1, 13, ""))[0] == ("ResponseReceived", [*OK, (b"grpc-status", b"13")])


def block_of(data: bytes) -> bytes:
    """The header block that these frames carry."""
    return b"".join(each.payload for each in frames_in(data))


@pytest.mark.parametrize("size", [1_000, 16_383, 16_384, 16_385, 32_767, 32_768, 32_769, 60_000])
@pytest.mark.parametrize("begun", [False, True])
def test_a_long_refusal_takes_as_many_frames_as_it_needs(size: int, begun: bool) -> None:
    details = size - 200
    details += size - len(block_of(grpc.refusal(1, 3, "No.", [(b"details-bin", b"A" * details)], begun=begun)))
    end = grpc.refusal(1, 3, "No.", [(b"details-bin", b"A" * details)], begun=begun)
    assert len(block_of(end)) == size
    first, *others = frames_in(end)
    assert first.kind == frames.HEADERS
    assert {each.kind for each in others} <= {frames.CONTINUATION}
    assert len(others) == (size - 1) // frames.FRAME_BYTES
    client = Client()
    if begun:
        client.heard(grpc.beginning(1))
    headers, ended = client.heard(end)
    assert headers[1][-1] == (b"details-bin", b"A" * details)
    assert ended[0] == "StreamEnded"


@given(sentence=st.text(max_size=60))
@settings(deadline=None)
@example("100 % sure: %41 is no A")
@example(" before and after\t")
@example("\u20ac\U0001f511\x7f\0\r\n")
def test_any_sentence_comes_back_as_it_was(sentence: str) -> None:
    client = Client()
    (_, fields), _ = client.heard(grpc.refusal(1, 2, sentence))
    said = dict(fields).get(b"grpc-message", b"")
    assert all(0x20 <= byte <= 0x7E for byte in said)
    assert unquote(said.decode("ascii"), errors="strict") == sentence


FIRST = {
    "an answer": grpc.small(1, b"x"),
    "a refusal": grpc.refusal(1, 5, "No."),
    "a refusal after a beginning": grpc.beginning(1) + grpc.refusal(1, 5, "No.", begun=True),
    "no gRPC": grpc.not_grpc(1),
}


@pytest.mark.parametrize("name", FIRST)
def test_a_client_that_allows_no_table_hears_that_there_is_none(name: str) -> None:
    client = Client()
    client.http.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
    client.heard(frames.frame(frames.SETTINGS, frames.ACK, 0))
    assert client.heard(FIRST[name])[-1][0] == "StreamEnded"


@pytest.mark.parametrize("end", [grpc.ending(1), grpc.refusal(1, 5, "No.", begun=True)], ids=["ending", "refusal"])
def test_trailers_say_so_too_since_less_may_be_allowed_within_an_answer(end: bytes) -> None:
    table = Decoder()
    table.decode(block_of(end))
    assert table.header_table_size == 0


def test_what_is_no_grpc_is_told_so() -> None:
    assert Client().heard(grpc.not_grpc(1)) == [("ResponseReceived", [(b":status", b"415")]), ("StreamEnded", None)]
