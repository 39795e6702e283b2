"""What callers write: read strictly, refused with a sentence that names the field."""

import base64
from typing import Any

import pytest
from Crypto.Hash import keccak
from hypothesis import given
from hypothesis import strategies as st

from popsigner_plugin.curve import Format
from popsigner_plugin.errors import BadInput
from popsigner_plugin.fields import MAX_MESSAGE_BYTES, Fields

KNOWN = frozenset({"input", "prehashed", "hash", "format", "flag", "number"})


def fields(**data: Any) -> Fields:
    return Fields(data, known=KNOWN)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("message", "name", "digest"),
    [
        (b"", "keccak256", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "keccak256", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
        (b"testing", "keccak256", "5f16f4c7f149ac4f9510d9cf8cf384038ad348b3bcdc01915f95de12df9d1b02"),
        (b"", "sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ],
)
def test_published_digests_are_met(message: bytes, name: str, digest: str) -> None:
    assert fields(input=encoded(message), hash=name).digest().hex() == digest


@given(st.binary(max_size=400))
def test_keccak_agrees_with_the_library_used_directly(message: bytes) -> None:
    assert (
        fields(input=encoded(message), hash="keccak256").digest() == keccak.new(digest_bits=256, data=message).digest()
    )


def test_a_prehashed_input_is_signed_as_it_is() -> None:
    assert fields(input=encoded(bytes(range(32))), prehashed=True).digest() == bytes(range(32))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_prehashed_input_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(BadInput, match=f"32 bytes, this one has {length}"):
        fields(input=encoded(bytes(length)), prehashed=True).digest()


def test_a_message_beyond_one_mebibyte_is_refused() -> None:
    assert fields(input=encoded(bytes(MAX_MESSAGE_BYTES))).digest()
    with pytest.raises(BadInput, match=f"{MAX_MESSAGE_BYTES} bytes, this one has {MAX_MESSAGE_BYTES + 1}"):
        fields(input=encoded(bytes(MAX_MESSAGE_BYTES + 1))).digest()


@pytest.mark.parametrize("text", ["***", "YQ", "YQ=", "YQ==\n", "YQ==YQ==", "a-_b", "ä"])
def test_malformed_base64_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="`input` is not valid base64"):
        fields(input=text).binary("input")


@pytest.mark.parametrize("data", [{}, {"input": None}, {"input": 5}])
def test_a_missing_input_is_named(data: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="`input` is required"):
        fields(**data).binary("input")


def test_an_unknown_field_is_named_with_what_is_known() -> None:
    with pytest.raises(BadInput, match="BAD_INPUT: Unknown field 'recovery_recipient'; this path takes exportable"):
        Fields({"recovery_recipient": "x"}, known=frozenset({"exportable"}))


@pytest.mark.parametrize("value", [True, "true"])
def test_flags_come_as_booleans_or_as_text(value: Any) -> None:
    assert fields(flag=value).flag("flag") is True
    assert fields().flag("flag") is None


@pytest.mark.parametrize("value", [1, 0, "yes", "", [], {}])
def test_what_is_no_flag_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="`flag` must be true or false"):
        fields(flag=value).flag("flag")


@pytest.mark.parametrize("value", [7, "7"])
def test_numbers_come_as_numbers_or_as_text(value: Any) -> None:
    assert fields(number=value).number("number") == 7
    assert fields().number("number") is None


@pytest.mark.parametrize("value", [-1, 2**31, 1.5, "x", "-1", "²", True, [], "99999999999"])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="`number` must be a whole number"):
        fields(number=value).number("number")


def test_the_format_is_compact_unless_another_is_named() -> None:
    assert fields().form() is Format.COMPACT
    assert fields(format="recoverable").form() is Format.RECOVERABLE
    with pytest.raises(BadInput, match="`format` must be compact or recoverable or der"):
        fields(format="COMPACT").form()


def test_an_unknown_hash_is_refused_even_where_none_is_needed() -> None:
    with pytest.raises(BadInput, match="`hash` must be sha256 or keccak256"):
        fields(input=encoded(bytes(32)), prehashed=True, hash="md5").digest()


@pytest.mark.parametrize(
    ("value", "read"), [(None, []), ([2], [2]), ([3, 1, 3], [1, 3]), (["2", 1], [1, 2]), ("2", [2]), ("2,1", [1, 2])]
)
def test_lists_of_numbers_come_as_lists_or_as_text(value: Any, read: list[int]) -> None:
    assert fields(number=value).numbers("number") == read
    assert fields().numbers("number") == []


@pytest.mark.parametrize("value", [[], [0], "", "1,", "1,x", [None], [True], [[1]], 1, {}, [-1], [2**31]])
def test_what_is_no_list_of_numbers_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="`number` must be"):
        fields(number=value).numbers("number")
