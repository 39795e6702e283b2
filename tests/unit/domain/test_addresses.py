import pytest
from coincurve import PublicKey

from popsigner_server.domain.addresses import account_address, eip55, eth_address
from popsigner_server.domain.bech32 import Variant, decode, from_groups
from tests.support.vectors import load

VECTORS = load("addresses")


def test_an_account_address_is_the_hash160_of_the_compressed_key() -> None:
    vector = VECTORS["hash160"]
    prefix, groups, variant = decode(account_address(bytes.fromhex(vector["public_key"]), "celestia"))
    assert prefix == "celestia"
    assert variant is Variant.BECH32
    assert from_groups(groups).hex() == vector["hash160"]


def test_a_known_cosmos_account_has_its_address() -> None:
    vector = VECTORS["cosmos"]
    assert account_address(bytes.fromhex(vector["public_key"]), vector["prefix"]) == vector["address"]


def test_prefixes_change_the_text_and_never_the_account() -> None:
    key = bytes.fromhex(VECTORS["cosmos"]["public_key"])
    accounts = {tuple(decode(account_address(key, prefix))[1]) for prefix in ("celestia", "cosmos", "osmo", "dym")}
    assert len(accounts) == 1


def test_the_longest_prefix_of_a_namespace_works() -> None:
    address = account_address(bytes.fromhex(VECTORS["cosmos"]["public_key"]), "a" * 83)
    assert decode(address, limit=1023)[0] == "a" * 83


def test_an_account_address_is_never_made_of_an_uncompressed_key() -> None:
    key = PublicKey(bytes.fromhex(VECTORS["cosmos"]["public_key"])).format(compressed=False)
    with pytest.raises(ValueError, match="33 bytes"):
        account_address(key, "celestia")


def test_a_known_key_has_its_ethereum_address_in_either_form() -> None:
    vector = VECTORS["ethereum"]
    compressed = bytes.fromhex(vector["public_key"])
    assert eth_address(compressed) == vector["address"]
    assert eth_address(PublicKey(compressed).format(compressed=False)) == vector["address"]


def test_the_vectors_of_eip_55_have_their_checksums() -> None:
    for address in load("eip55")["addresses"]:
        assert eip55(bytes.fromhex(address[2:])) == address


def test_what_is_no_point_has_no_ethereum_address() -> None:
    with pytest.raises(ValueError, match="public key"):
        eth_address(b"\x02" + b"\xff" * 32)
