"""The short ways to bytes and back give the same as the library's."""

from collections.abc import Callable

import betterproto2
from hypothesis import given
from hypothesis import strategies as st

from popsigner.gen.popsigner.v1 import (
    BatchSignRequest,
    BatchSignResponse,
    ErrorReason,
    HashAlgorithm,
    ItemError,
    SignatureFormat,
    SignItem,
    SignResult,
    SignStreamRequest,
    SignStreamResponse,
)
from popsigner.wire import decode_answer, decode_batch, encode_batch, encode_item, encode_message

ITEMS = st.builds(
    SignItem,
    key_id=st.text(max_size=200),
    data=st.binary(max_size=300),
    prehashed=st.none() | st.booleans(),
    hash=st.sampled_from(HashAlgorithm),
    format=st.sampled_from(SignatureFormat),
    sign_mode=st.text(max_size=8),
    request_id=st.text(max_size=64),
    key_version=st.integers(0, 2**32 - 1),
)


@given(ITEMS)
def test_an_item_becomes_the_bytes_of_the_contract(item: SignItem) -> None:
    assert encode_item(item) == bytes(item)


@given(st.builds(BatchSignRequest, requests=st.lists(ITEMS, max_size=4), prehashed=st.booleans(), sign_mode=st.text()))
def test_a_batch_becomes_the_bytes_of_the_contract(batch: BatchSignRequest) -> None:
    assert BatchSignRequest.parse(encode_batch(batch)) == batch
    assert len(encode_batch(batch)) == len(bytes(batch))


@given(st.integers(0, 2**64 - 1), st.lists(ITEMS, max_size=4))
def test_a_stream_message_becomes_the_bytes_of_the_contract(number: int, items: list[SignItem]) -> None:
    encoded = encode_message(number, [encode_item(item) for item in items])

    assert SignStreamRequest.parse(encoded) == SignStreamRequest(correlation_id=number, requests=items)


def test_every_field_of_an_item_is_written() -> None:
    full = SignItem(
        key_id="key",
        data=b"data",
        prehashed=False,
        hash=HashAlgorithm.KECCAK256,
        format=SignatureFormat.DER,
        sign_mode="mode",
        request_id="id",
        key_version=300,
    )

    assert all(
        value not in ("", b"", 0, None) or name == "prehashed" for name, value in vars(full).items() if name[0] != "_"
    )
    assert SignItem.parse(encode_item(full)) == full


ERRORS = st.builds(
    ItemError, code=st.integers(0, 16), reason=st.sampled_from(ErrorReason), message=st.text(max_size=40)
)
RESULTS = st.builds(
    SignResult,
    key_id=st.text(max_size=200),
    signature=st.binary(max_size=200),
    public_key=st.text(max_size=66),
    key_version=st.integers(0, 2**32 - 1),
    recovery_id=st.none() | st.integers(0, 2**32 - 1),
    error=st.none() | ERRORS,
)


@given(st.lists(RESULTS, max_size=4))
def test_the_results_of_a_batch_are_read(results: list[SignResult]) -> None:
    answer = BatchSignResponse(signatures=results)

    assert decode_batch(bytes(answer)) == answer


@given(st.integers(0, 2**64 - 1), st.lists(RESULTS, max_size=4), st.none() | ERRORS)
def test_an_answer_of_the_stream_is_read(number: int, results: list[SignResult], error: ItemError | None) -> None:
    answer = SignStreamResponse(correlation_id=number, signatures=results, error=error)

    assert decode_answer(bytes(answer)) == answer


@given(RESULTS, st.binary(min_size=1, max_size=20))
def test_fields_of_a_newer_contract_are_left_to_the_library(result: SignResult, content: bytes) -> None:
    newer = bytes(result) + b"\x7a" + bytes((len(content),)) + content
    wrapped = b"\x08\x05\x12" + betterproto2.encode_varint(len(newer)) + newer

    assert decode_answer(wrapped) == SignStreamResponse.parse(wrapped)
    assert decode_answer(wrapped).signatures[0].signature == result.signature


@given(st.binary(max_size=60))
def test_bytes_that_are_no_answer_end_as_they_do_in_the_library(encoded: bytes) -> None:
    def outcome(read: Callable[[bytes], SignStreamResponse]) -> object:
        try:
            # Not its bytes: of a number where a message belongs the library would make so many zeros.
            return read(encoded)
        except Exception as error:
            return type(error)

    assert outcome(decode_answer) == outcome(SignStreamResponse.parse)


def test_every_field_of_a_result_is_read() -> None:
    full = SignResult(key_id="key", signature=b"s" * 200, public_key="02", key_version=300, recovery_id=0)

    assert decode_batch(bytes(BatchSignResponse(signatures=[full]))).signatures == [full]
