"""Networks in CIDR notation (RFC 4632, RFC 4291 2.3), as allow-lists hold them."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

Network = IPv4Network | IPv6Network
# Python also reads netmasks, host masks, zones and numbers; one network has one way to be written here.
_WRITTEN = re.compile(r"[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?")
_MAPPED = IPv6Network("::ffff:0:0/96")


def parse_network(text: str) -> Network:
    """A network, or one address. Raises ValueError with a sentence that follows the field's name.

    Bits beyond the prefix are refused and not cleared: `203.0.113.77/24` is as likely to mean the one host as the 256,
    and only one of the two is the narrow one.
    """
    if _WRITTEN.fullmatch(text) is None:
        raise ValueError("must be a network or an address, e.g. 203.0.113.0/24, 2001:db8::/32 or 198.51.100.7.")
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError("must be a network or an address, e.g. 203.0.113.0/24 or 2001:db8::/32.") from error
    if str(network.network_address) != str(ip_network(text.partition("/")[0]).network_address):
        raise ValueError(f"has bits beyond its prefix; write {network}, or the address without a prefix.")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        # Callers are known by their IPv4 address, so this would admit nobody.
        raise ValueError("is an IPv4 network written as IPv6; write it as IPv4.")
    return network


def covers(outer: Iterable[Network], inner: Network) -> bool:
    """Whether one of `outer` holds all of `inner`. Several that only do it together do not count."""
    return any(_holds(network, inner) for network in outer)


def _holds(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)
