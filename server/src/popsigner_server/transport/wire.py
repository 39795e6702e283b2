"""What gRPC writes into header fields and addresses, as this server reads it (gRPC over HTTP/2)."""

from typing import Any, Final

from popsigner_http2.frames import Code, StreamFault

_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_DIGITS: Final = 8
# Longer than anybody waits; what is above would not fit into timers.
_LONGEST: Final = 1e6


def seconds_of(timeout: bytes) -> float | None:
    """A `grpc-timeout`, at most eight digits and a unit; None for b"". Raises StreamFault."""
    if not timeout:
        return None
    number, unit = timeout[:-1], _UNITS.get(timeout[-1:])
    if unit is None or len(number) > _DIGITS or not number.isdigit():
        raise StreamFault(Code.PROTOCOL_ERROR, "a grpc-timeout that is none")
    return min(_LONGEST, int(number) * unit)


def address_of(peername: Any) -> str:
    """The peer of a socket, as gRPC writes it: `ipv4:127.0.0.1:50000`, `ipv6:[::1]:50000`, `unix:`; `unknown:` for
    None."""
    if peername is None:
        # Over TCP, when it has hung up before it was accepted; what it sent is there all the same, and must not pass
        # for what the gateway says over the unix socket.
        return "unknown:"
    if not isinstance(peername, tuple):
        return "unix:"
    host, port = peername[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
