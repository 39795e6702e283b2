"""Allow-lists: how networks are written, which one holds another, and who is admitted."""

from ipaddress import ip_network
from uuid import UUID

import pytest

from popsigner_server.domain.networks import covers, parse_network
from popsigner_server.domain.principals import UNBOUND, Bounds


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("198.51.100.7", "198.51.100.7/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("2001:db8:0:0:0:0:0:1", "2001:db8::1/128"),
        ("::/0", "::/0"),
    ],
)
def test_a_network_or_an_address_is_read(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize(
    "text",
    [
        "",
        "everywhere",
        "203.0.113.0/33",
        "2001:db8::/129",
        "203.0.113.0/255.255.255.0",
        "203.0.113.0/0.0.0.255",
        "203.0.113",
        "0203.0.113.1",
        "fe80::1%eth0",
        "203.0.113.0/24 ",
        "203.0.113.0/-1",
        "203.0.113.0//24",
        "٢٠٣.0.113.1",
        "3405803776",
        "::ffff:203.0.113.0/120",
        "::ffff:203.0.113.7",
    ],
)
def test_anything_else_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(must be|is an IPv4) .*\.$"):
        parse_network(text)


@pytest.mark.parametrize(
    ("text", "written"), [("203.0.113.77/24", "203.0.113.0/24"), ("2001:db8::1/32", "2001:db8::/32")]
)
def test_bits_beyond_the_prefix_are_refused_and_the_network_is_named(text: str, written: str) -> None:
    with pytest.raises(ValueError, match=f"beyond its prefix; write {written},"):
        parse_network(text)


def test_a_network_is_covered_by_one_that_holds_all_of_it() -> None:
    outer = (ip_network("203.0.113.0/24"), ip_network("2001:db8::/32"))
    assert covers(outer, ip_network("203.0.113.128/25"))
    assert covers(outer, ip_network("203.0.113.0/24"))
    assert covers(outer, ip_network("2001:db8:1::/48"))
    assert not covers(outer, ip_network("203.0.112.0/23"))
    assert not covers(outer, ip_network("198.51.100.7/32"))
    assert not covers(outer, ip_network("::/0"))
    assert not covers((), ip_network("203.0.113.7/32"))


NARROW = Bounds(networks=(ip_network("203.0.113.0/24"), ip_network("2001:db8::/32")))


@pytest.mark.parametrize(
    ("address", "admitted"),
    [
        ("203.0.113.7", True),
        ("203.0.114.7", False),
        ("2001:db8::7", True),
        ("2001:db9::7", False),
        ("::ffff:203.0.113.7", True),
        ("::ffff:203.0.114.7", False),
        # The same 32 bits elsewhere in an IPv6 address are another host.
        ("::203.0.113.7", False),
        ("64:ff9b::203.0.113.7", False),
        ("fe80::1%eth0", False),
        (None, False),
    ],
)
def test_an_allow_list_admits_its_networks_and_never_an_unknown_address(address: str | None, admitted: bool) -> None:
    assert NARROW.admit(address) is admitted


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::7", None])
def test_without_an_allow_list_everybody_is_admitted(address: str | None) -> None:
    assert UNBOUND.admit(address)
    assert Bounds(key_ids=frozenset({UUID(int=1)})).admit(address)


def test_a_network_of_everything_is_everything_of_its_own_version() -> None:
    assert Bounds(networks=(ip_network("0.0.0.0/0"),)).admit("::ffff:203.0.113.7")
    assert not Bounds(networks=(ip_network("0.0.0.0/0"),)).admit("2001:db8::7")
    assert not Bounds(networks=(ip_network("::/0"),)).admit("203.0.113.7")


def test_a_key_is_reached_within_both_limits() -> None:
    space, key, other = UUID(int=1), UUID(int=2), UUID(int=3)
    assert UNBOUND.reach(namespace_id=other, key_id=other)
    assert not UNBOUND.limits_keys
    for bounds, reached in (
        (Bounds(namespace_ids=frozenset({space})), {(space, key), (space, other)}),
        (Bounds(key_ids=frozenset({key})), {(space, key), (other, key)}),
        (Bounds(namespace_ids=frozenset({space}), key_ids=frozenset({key})), {(space, key)}),
        (Bounds(networks=NARROW.networks), {(space, key), (space, other), (other, key), (other, other)}),
    ):
        found = {(n, k) for n in (space, other) for k in (key, other) if bounds.reach(namespace_id=n, key_id=k)}
        assert found == reached
        assert bounds.limits_keys is bool(bounds.namespace_ids or bounds.key_ids)
