"""Mnemonics: known keys, the words, the checksum, the path."""

import hashlib
from importlib.resources import files

import pytest

from popsigner.keyfiles import InvalidMnemonic, mnemonic

ABOUT = "abandon " * 11 + "about"


def test_the_words_are_the_list_of_bip_39() -> None:
    # The SHA-256 of english.txt in bitcoin/bips, bip-0039.
    content = files("popsigner.keyfiles").joinpath("english.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"


def test_known_accounts_of_the_best_known_mnemonic() -> None:
    with mnemonic.read(ABOUT.encode(), path=mnemonic.ETHEREUM_PATH) as secret:
        assert secret.facts.eth_address == "0x9858EfFD232B4033E47d90003D41EC34EcaEda94"
    with mnemonic.read(ABOUT.encode()) as secret:
        assert secret.facts.address("cosmos") == "cosmos19rl4cm2hmr8afy4kldpxz3fka4jguq0auqdal4"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        # BIP-32, test vector 1, whose seed is of no mnemonic: derived here from its seed below.
        ("m/0'", "edb2e14f9ee77d26dd93b4ecede8d16ed408ce149b6cd80b0715a2d911a0afea"),
        ("m/0'/1", "3c6cb8d0f6a264c91ea8b5030fadaa8e538b020f0a387421a12de9319dc93368"),
        ("m/0'/1/2'", "cbce0d719ecf7431d88e6a89fa1483e02e35092af60c042b1df2ff59fa424dca"),
        ("m/0'/1/2'/2", "0f479245fb19a38a1954c5c7c0ebab2f9bdfd96a17563ef28a6a4b1a2a764ef4"),
        ("m/0h/1/2h/2/1000000000", "471b76e389e528d6de6d816857e012c5455051cad6660850e58372a6c3e6e7c8"),
    ],
)
def test_the_vectors_of_bip_32(path: str, key: str) -> None:
    seed = bytearray.fromhex("000102030405060708090a0b0c0d0e0f")
    with mnemonic._derived(seed, mnemonic.path_steps(path)) as secret:
        assert secret.scalar.hex() == key
    assert seed == bytes(16)


def test_a_wrong_word_is_named_by_its_place_and_not_repeated() -> None:
    words = ABOUT.split()
    words[6] = "hunter2x"
    with pytest.raises(InvalidMnemonic, match="word 7 of 12") as caught:
        mnemonic.read(" ".join(words).encode())
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("abandon " * 12, "checksum"),
        ("about " + "abandon " * 11, "checksum"),
        ("abandon " * 11, "this has 11"),
        ("", "this has 0"),
        ("abandon " * 25, "this has 25"),
    ],
)
def test_what_is_no_mnemonic_is_refused(content: str, sentence: str) -> None:
    with pytest.raises(InvalidMnemonic, match=sentence):
        mnemonic.read(content.encode())


def test_most_exchanges_of_a_word_are_noticed() -> None:
    refused = 0
    for word in ("zoo", "zone", "zero", "zebra", "young", "you", "yellow", "year", "yard", "wrong"):
        try:
            mnemonic.read(("abandon " * 10 + f"{word} about").encode()).wipe()
        except InvalidMnemonic:
            refused += 1
    # Twelve words have a checksum of four bits: one of sixteen slips through.
    assert refused >= 7


@pytest.mark.parametrize(
    "path", ["", "m", "44'/118'", "m/", "m/x", "m/-1", "m/2147483648", "m/1''", "m/1 ", "m/\u0661", "m" + "/0" * 11]
)
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(InvalidMnemonic, match="HD path"):
        mnemonic.read(ABOUT.encode(), path=path)


def test_another_passphrase_is_another_key() -> None:
    with mnemonic.read(ABOUT.encode()) as one, mnemonic.read(ABOUT.encode(), passphrase="x") as other:
        assert one.scalar != other.scalar
