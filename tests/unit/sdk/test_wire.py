"""The short way to bytes gives the same bytes as the library's."""

from hypothesis import given
from hypothesis import strategies as st

from popsigner.gen.popsigner.v1 import BatchSignRequest, HashAlgorithm, SignatureFormat, SignItem, SignStreamRequest
from popsigner.wire import encode_batch, encode_item, encode_message

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
