import pytest
from hypothesis import given
from hypothesis import strategies as st

from popsigner_server.domain.bech32 import Variant, decode, encode, from_groups, to_groups
from tests.support.vectors import load

VECTORS = load("bech32")


@pytest.mark.parametrize("variant", Variant)
def test_the_valid_vectors_decode_and_encode_back(variant: Variant) -> None:
    for text in VECTORS[variant.name.lower()]["valid"]:
        prefix, groups, found = decode(text)
        assert found is variant
        assert encode(prefix, groups, variant) == text.lower()


@pytest.mark.parametrize("variant", Variant)
def test_the_invalid_vectors_are_refused(variant: Variant) -> None:
    for text in VECTORS[variant.name.lower()]["invalid"]:
        with pytest.raises(ValueError, match=r"must|has a character|is wrong"):
            decode(text)


def test_segwit_addresses_hold_the_bytes_of_their_scripts() -> None:
    for vector in VECTORS["segwit"]:
        script = bytes.fromhex(vector["script"])
        prefix, groups, variant = decode(vector["address"])
        # A script is OP_0, or OP_1 (0x51) to OP_16, then the program's length and the program (BIP-141).
        version = script[0] and script[0] - 0x50
        assert groups[0] == version
        assert from_groups(groups[1:]) == script[2:]
        assert variant is (Variant.BECH32M if version else Variant.BECH32)
        assert encode(prefix, [version, *to_groups(script[2:])], variant) == vector["address"].lower()


def test_wrong_padding_is_refused() -> None:
    for address in VECTORS["bad_padding"]:
        _, groups, _ = decode(address)
        with pytest.raises(ValueError, match="filled up"):
            from_groups(groups[1:])


@given(st.binary(max_size=40))
def test_bytes_survive_the_way_through_groups(data: bytes) -> None:
    groups = to_groups(data)
    assert all(0 <= group <= 31 for group in groups)
    assert from_groups(groups) == data


@given(st.data())
def test_up_to_four_wrong_characters_are_always_found(data: st.DataObject) -> None:
    text = encode("celestia", to_groups(data.draw(st.binary(min_size=20, max_size=20))), Variant.BECH32)
    places = data.draw(st.sets(st.integers(9, len(text) - 1), min_size=1, max_size=4))
    wrong = list(text)
    for place in places:
        wrong[place] = data.draw(st.sampled_from([c for c in "qpzry9x8gf2tvdw0s3jn54khce6mua7l" if c != text[place]]))
    with pytest.raises(ValueError, match="checksum"):
        decode("".join(wrong))


def test_mixed_case_is_refused() -> None:
    with pytest.raises(ValueError, match="mix"):
        decode("A12uel5l")


def test_a_letter_that_becomes_ascii_in_lower_case_is_refused() -> None:
    text = encode("ak", [0], Variant.BECH32).upper()
    with pytest.raises(ValueError, match="ASCII"):
        decode(text.replace("K", "\u212a"))


def test_a_text_longer_than_the_limit_is_refused_unless_the_reader_takes_more() -> None:
    text = encode("a" * 60, to_groups(bytes(20)), Variant.BECH32)
    assert len(text) == 99
    with pytest.raises(ValueError, match="at most 90"):
        decode(text)
    assert decode(text, limit=1023)[0] == "a" * 60


@pytest.mark.parametrize(
    ("prefix", "groups"), [("", []), ("a" * 84, []), ("A", []), ("a b", []), ("\u00e9", []), ("a", [32]), ("a", [-1])]
)
def test_what_could_not_be_read_back_is_not_written(prefix: str, groups: list[int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        encode(prefix, groups, Variant.BECH32)
