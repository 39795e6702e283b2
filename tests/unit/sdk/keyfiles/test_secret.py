"""The holder of a private key: what it refuses, what it shows, and that nothing is left in its buffer."""

import copy
import gc
import pickle
import secrets

import pytest
from coincurve import PrivateKey

from popsigner.keyfiles import InvalidPrivateKey, PublicFacts, Secret, overwrite
from popsigner.keyfiles.secret import ORDER
from popsigner_server.domain.addresses import account_address, eth_address
from tests.support.vectors import load


def test_the_buffer_is_zero_when_the_block_ends() -> None:
    buffer = bytearray(secrets.token_bytes(32))
    with Secret(buffer) as secret:
        assert secret.scalar is buffer
        assert any(buffer)
    assert buffer == bytes(32)


def test_the_buffer_is_zero_after_an_error_in_the_block() -> None:
    buffer = bytearray(secrets.token_bytes(32))
    with pytest.raises(KeyError), Secret(buffer):
        raise KeyError
    assert buffer == bytes(32)


@pytest.mark.parametrize(
    "scalar",
    [
        bytes(32),
        ORDER.to_bytes(32, "big"),
        b"\xff" * 32,
        b"\x01" * 31,
        b"\x01" * 33,
        b"",
        (ORDER + 1).to_bytes(32, "big"),
    ],
)
def test_what_is_no_private_key_is_refused_and_overwritten(scalar: bytes) -> None:
    buffer = bytearray(scalar)
    with pytest.raises(InvalidPrivateKey):
        Secret(buffer)
    assert buffer == bytes(len(scalar))


@pytest.mark.parametrize("number", [1, 2, ORDER - 1, ORDER // 2, 1 << 255])
def test_the_bounds_themselves_are_private_keys(number: int) -> None:
    key = number.to_bytes(32, "big")
    with Secret(bytearray(key)) as secret:
        assert secret.facts.public_key == PrivateKey(key).public_key.format()


def test_nothing_shows_the_private_key() -> None:
    key = secrets.token_bytes(32)
    with Secret(bytearray(key)) as secret:
        for shown in (repr(secret), str(secret), f"{secret}", repr(secret.facts)):
            assert key.hex() not in shown
            assert repr(key) not in shown
        for take in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                take(secret)


def test_facts_are_those_that_the_server_computes() -> None:
    for _ in range(50):
        key = secrets.token_bytes(32)
        with Secret(bytearray(key)) as secret:
            facts = secret.facts
        for prefix in ("celestia", "cosmos", "a" * 83):
            assert facts.address(prefix) == account_address(facts.public_key, prefix)
        assert facts.eth_address == eth_address(facts.public_key)


def test_a_known_account_has_its_address() -> None:
    vector = load("addresses")["cosmos"]
    facts = PublicFacts(bytes.fromhex(vector["public_key"]))
    assert facts.address(vector["prefix"]) == vector["address"]


@pytest.mark.parametrize("prefix", ["", "Celestia", "a b", "é", "a" * 84])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    facts = PublicFacts(PrivateKey(b"\x01" * 32).public_key.format())
    with pytest.raises(ValueError, match="prefix"):
        facts.address(prefix)


def test_bytes_are_overwritten_where_they_are() -> None:
    value = secrets.token_bytes(40)
    overwrite(value)
    assert value == bytes(40)
    single = b"\x07"[:1]
    overwrite(single, b"", bytearray())
    assert single == bytes([7])


def test_no_copy_of_a_private_key_is_left_in_objects() -> None:
    key = secrets.token_bytes(32)
    digits = key.hex()
    with Secret(bytearray.fromhex(digits)):
        pass
    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, bytearray) and bytes(each) == key]
    assert found == []
