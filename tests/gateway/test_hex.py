"""`"encoding": "hex"` through a real Envoy: what the server gets is what was meant, or nothing."""

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.proxy import Proxy
from tests.gateway.upstream import Upstream

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("prefix", ["", "0x", "0X"])
@pytest.mark.parametrize("data", [b"", b"\x00\xff", bytes(range(256))])
@pytest.mark.parametrize("upper", [False, True])
async def test_hexadecimal_data_is_signed_as_its_bytes(
    envoy: Proxy, server: Upstream, key_id: str, prefix: str, data: bytes, upper: bool
) -> None:
    digits = data.hex().upper() if upper else data.hex()
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", {"encoding": "hex", "data": prefix + digits})
    assert answer.status == 200
    assert (server.last().data, server.last().encoding) == (data, "base64")


async def test_it_works_on_each_route_and_wherever_encoding_stands(envoy: Proxy, server: Upstream, key_id: str) -> None:
    answer = await envoy.ask(
        "POST",
        "/v1/sign/batch",
        {"requests": [{"key_id": key_id, "data": "0a"}, {"data": "0x0b0c", "key_id": key_id}], "encoding": "hex"},
    )
    assert answer.status == 200
    assert [item.data for item in server.last().requests] == [b"\x0a", b"\x0b\x0c"]
    signature = base64.b64encode(bytes(64)).decode()
    for path in (f"/v1/keys/{key_id}/verify", "/v1/verify"):
        answer = await envoy.ask("POST", path, {"data": "0a", "signature": signature, "encoding": "hex"})
        assert answer.status == 200
        assert (server.last().data, server.last().signature) == (b"\x0a", bytes(64))


@pytest.mark.parametrize("data", ["0", "0x", "0x0", "0g", "0 0", "zz", "00 ", "0x0x00", "aGVsbG8="])
async def test_what_is_not_hexadecimal_is_refused_with_a_reason(envoy: Proxy, key_id: str, data: str) -> None:
    for path, body in (
        (f"/v1/keys/{key_id}/sign", {"data": data, "encoding": "hex"}),
        ("/v1/sign/batch", {"requests": [{"key_id": key_id, "data": data}], "encoding": "hex"}),
    ):
        answer = await envoy.ask("POST", path, body)
        if data == "0x":
            assert answer.status == 200
        else:
            assert (answer.status, answer.reason) == (400, "MALFORMED_REQUEST")
            assert "hexadecimal" in answer.json["message"]


async def test_the_words_in_other_strings_mean_nothing(envoy: Proxy, server: Upstream, key_id: str) -> None:
    """What a search over the raw text would take for the member is only a part of another member's value."""
    disguises = ['","encoding":"hex","x":"', '\\","encoding":"hex', '{"encoding": "hex"}', '\\\\","encoding":"hex']
    for disguise in disguises:
        answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", {"data": "AAAA", "sign_mode": disguise})
        assert answer.status == 200
        assert (server.last().data, server.last().encoding) == (bytes(3), "")
        assert server.last().sign_mode == disguise


async def test_escaped_names_and_values_mean_the_same(envoy: Proxy, server: Upstream, key_id: str) -> None:
    body = '{"\\u0065ncoding":"he\\u0078","d\\u0061ta":"\\u0030\\u0041"}'
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", body)
    assert answer.status == 200
    assert server.last().data == b"\x0a"


async def test_an_encoding_beside_the_body_never_reaches_a_signature(
    envoy: Proxy, server: Upstream, key_id: str
) -> None:
    """As a query parameter the gateway does not decode by it; the server refuses what was not decoded."""
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign?encoding=hex", {"data": "00ff"})
    assert (answer.status, answer.reason) == (400, "INVALID_FIELD")
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", {"data": "00ff", "encoding": "HEX"})
    assert (answer.status, answer.reason) == (400, "INVALID_FIELD")


def written(text: str, escapes: list[bool]) -> str:
    """A JSON string of ASCII text, with \\u escapes for the characters that `escapes` says."""
    flags = [*escapes, *[False] * len(text)]
    return '"' + "".join(
        f"\\u{ord(character):04x}" if escaped else json.dumps(character)[1:-1]
        for character, escaped in zip(text, flags, strict=False)
    ) + '"'  # fmt: skip


SPACE = st.text(" \t\r\n", max_size=2)
ESCAPES = st.lists(st.booleans(), max_size=12)
PRINTABLE = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


@given(data=st.data())
@FUZZ
async def test_any_way_to_write_the_same_json_signs_the_same_bytes(
    envoy: Proxy, server: Upstream, key_id: str, data: st.DataObject
) -> None:
    """Order, spaces, escapes and a hostile neighbour change nothing."""
    payload = data.draw(st.binary(max_size=40))
    encoding = data.draw(st.sampled_from(["hex", "base64", ""]))
    neighbour = data.draw(PRINTABLE)
    text = payload.hex() if encoding == "hex" else base64.b64encode(payload).decode()
    members = data.draw(
        st.permutations(
            [
                (written("encoding", data.draw(ESCAPES)), written(encoding, data.draw(ESCAPES))),
                (written("data", data.draw(ESCAPES)), written(text, data.draw(ESCAPES))),
                ('"sign_mode"', json.dumps(neighbour, ensure_ascii=data.draw(st.booleans()))),
                ('"prehashed"', data.draw(st.sampled_from(["true", "false", "null"]))),
            ]
        )
    )
    spaces = [data.draw(SPACE) for _ in range(4 * len(members) + 2)]
    parts = [
        f"{spaces[4 * i]}{name}{spaces[4 * i + 1]}:{spaces[4 * i + 2]}{value}{spaces[4 * i + 3]}"
        for i, (name, value) in enumerate(members)
    ]
    body = spaces[-2] + "{" + ",".join(parts) + "}" + spaces[-1]
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", body.encode("utf-8", "surrogatepass"))
    assert answer.status == 200, (body, answer.text)
    assert server.last().data == payload
    assert server.last().sign_mode == neighbour


def strict(body: str) -> Any:
    """What the body is to a strict reader; ValueError for anything that is not JSON, or has a repeated name."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a repeated name")
        return dict(pairs)

    def never(constant: str) -> Any:
        raise ValueError(constant)

    return json.loads(body, object_pairs_hook=once, parse_constant=never)


TOKENS = [
    *'{}[]:,"\\', '"encoding"', '"hex"', '"data"', '"0a"', '"requests"', "\\u0022", "\\", "null", "1", " ", "x",
    '{"data":"0a","encoding":"hex"}', '"sign_mode"', '"\\""', '"\\\\"', '"encoding":"hex",', '"data":"0a",',
]  # fmt: skip


@given(body=st.lists(st.sampled_from(TOKENS), max_size=12).map("".join))
@FUZZ
async def test_no_broken_json_is_ever_signed_and_hex_never_undecoded(
    envoy: Proxy, server: Upstream, key_id: str, body: str
) -> None:
    """What the server accepts is strict JSON, and its data is what a strict reader would sign."""
    before = len(server.requests)
    answer = await envoy.ask("POST", f"/v1/keys/{key_id}/sign", body)
    if body == "":
        assert answer.status == 200
        return
    try:
        meant = strict(body)
    except ValueError:
        assert (answer.status, answer.reason) == (400, "MALFORMED_REQUEST"), body
        assert len(server.requests) == before
        return
    if answer.status == 200:
        text = meant.get("data") or ""
        expected = bytes.fromhex(text) if meant.get("encoding") == "hex" else base64.b64decode(text)
        assert server.last().data == expected, body
    else:
        assert answer.status == 400, (body, answer.text)
