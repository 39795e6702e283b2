"""Where the server listens, and whom it takes its peers for."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from popsigner_http2 import frames
from popsigner_http2.frames import frame
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.limits.pace import Pace
from popsigner_server.transport.contract import rpcs
from popsigner_server.transport.interceptors.base import Call
from popsigner_server.transport.interceptors.draining import Draining
from popsigner_server.transport.server import Server
from popsigner_server.transport.wire import address_of
from tests.integration.server.front import SIGN, echo, on_uvloop, served
from tests.integration.server.front_peer import CEILING, framed

SILENTLY = struct.pack("ii", 1, 0)


def listening(*addresses: str) -> Server:
    return Server(dict.fromkeys(rpcs(), echo), [], addresses, Pace())


class Named:
    """Notes whom each call came from."""

    def __init__(self) -> None:
        self.peers: list[str] = []

    async def __call__(self, call: Call, request: sign_pb2.SignRequest) -> sign_pb2.SignResponse:
        self.peers.append(call.context.peer())
        return await echo(call, request)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of somebody who does not share it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@on_uvloop
async def test_an_address_that_is_taken_is_named(taken: int) -> None:
    server = listening("127.0.0.1:0", f"127.0.0.1:{taken}")
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{taken}: .*in use"):
        await server.start()
    await server.stop(0, Draining())


async def test_so_it_is_on_another_loop(taken: int) -> None:
    server = listening(f"127.0.0.1:{taken}")
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{taken}: .*in use"):
        await server.start()


@pytest.mark.parametrize("place", ["a file", "nowhere/socket"])
@on_uvloop
async def test_so_is_a_socket_that_cannot_be_there(place: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("not a socket")
    server = listening(f"unix:{tmp_path / place}")
    with pytest.raises(OSError, match=f"cannot listen on unix:{tmp_path / place}: "):
        await server.start()
    assert (tmp_path / "a file").read_text() == "not a socket"


@on_uvloop
async def test_server_processes_share_a_port() -> None:
    async with served() as front:
        second = listening(f"127.0.0.1:{front.port}")
        await second.start()
        for _ in range(50):
            async with front.dialled() as peer:
                await peer.alive()
        await second.stop(0, Draining())


@on_uvloop
async def test_peers_are_named_as_grpc_names_them() -> None:
    named = Named()
    async with served(named) as front:
        async with front.dialled() as peer:
            port = peer.writer.get_extra_info("sockname")[1]
            await peer.answer(peer.call(SIGN, framed(b"")))
        async with front.dialled(unix=True) as peer:
            await peer.answer(peer.call(SIGN, framed(b"")))
    assert named.peers == [f"ipv4:127.0.0.1:{port}", "unix:"]


@pytest.mark.parametrize(("place", "name"), [("127.0.0.1:{port}", "ipv4:127.0.0.1:"), ("unix:{socket}", "unix:")])
async def test_grpcs_own_client_reaches_both(place: str, name: str) -> None:
    named = Named()
    async with served(named) as front:
        address = place.format(port=front.port, socket=front.socket)
        async with grpc.aio.insecure_channel(address) as channel:
            await channel.unary_unary(SIGN, request_serializer=bytes)(b"", timeout=CEILING)
    (peer,) = named.peers
    assert peer.startswith(name)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
async def test_ipv6_is_served_and_named() -> None:
    named = Named()
    server = Server(dict.fromkeys(rpcs(), named), [], ["[::1]:0"], Pace())
    await server.start()
    port = server._listening[0].sockets[0].getsockname()[1]
    async with grpc.aio.insecure_channel(f"[::1]:{port}") as channel:
        await channel.unary_unary(SIGN, request_serializer=bytes)(b"", timeout=CEILING)
    await server.stop(0, Draining())
    (peer,) = named.peers
    assert peer.startswith("ipv6:[::1]:")
    assert peer.rpartition(":")[2].isdigit()


@pytest.mark.parametrize(
    ("peername", "name"),
    [
        (("127.0.0.1", 7), "ipv4:127.0.0.1:7"),
        (("::1", 7, 0, 0), "ipv6:[::1]:7"),
        (("fe80::1%eth0", 7, 0, 2), "ipv6:[fe80::1%eth0]:7"),
        ("", "unix:"),
        ("/run/gateway.sock", "unix:"),
        (b"\0abstract", "unix:"),
        (None, "unknown:"),
    ],
)
def test_a_sockets_peer_has_its_name(peername: Any, name: str) -> None:
    assert address_of(peername) == name


def gone(port: int) -> None:
    """Say a whole call and hang up, before the server has got to accept."""
    call = [b"\x83\x86\x44", bytes((len(SIGN),)), SIGN.encode(), b"\x5f\x10application/grpc"]
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SILENTLY)
        peer.sendall(
            frames.PREFACE
            + frames.settings({})
            + frame(frames.HEADERS, frames.END_HEADERS, 1, b"".join(call))
            + frame(frames.DATA, frames.END_STREAM, 1, framed(b""))
        )


@on_uvloop
async def test_who_has_hung_up_before_it_was_accepted_does_not_pass_for_the_gateway() -> None:
    named = Named()
    async with served(named) as front, front.dialled() as peer:
        for _ in range(50):
            gone(front.port)
            await peer.alive()
    # The unix socket's peers are believed what they say of their callers' addresses. Not every kernel keeps what those
    # have said who have hung up.
    assert set(named.peers) <= {"unknown:"}
