"""The plugin's process: from OpenBao's environment to a served engine, and a clean end with OpenBao."""

import asyncio
import gc
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

import uvloop
from h2.connection import H2Connection
from hyperframe.frame import Frame

from popsigner_plugin import handshake, hclog
from popsigner_plugin.backend import Backend
from popsigner_plugin.memory import freed_is_overwritten
from popsigner_plugin.server import Server
from popsigner_plugin.services import Broker, Controller, Health, Multiplexing, Stdio, Version

_CLOSED_STREAMS: Final = 1024
_LAST_REQUESTS_SECONDS: Final = 1.0
_log: Final = logging.getLogger("popsigner-secp256k1")


def main(version: str) -> int:
    """Run until OpenBao ends us or ends itself; the exit code. version: what the plugin is registered with."""
    hclog.configure()
    try:
        host = handshake.Host.of(os.environ)
    except handshake.HandshakeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if not freed_is_overwritten():
        _log.warning("the C library does not overwrite freed memory, so copies of private keys may stay in it")
    # A core dump would carry the keys to a disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    Frame.__repr__ = _undescribed  # type: ignore[method-assign]
    # Of the connection to storage. The library remembers the last 65 536 calls, 8 MiB that fill over hours.
    H2Connection.MAX_CLOSED_STREAMS = _CLOSED_STREAMS
    # Ctrl-C in a terminal reaches the whole group; when we end is OpenBao's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_serve(host, version))
    # All is closed. Closing the loop, too, may wait for ever: uvloop does so while TLS says its last to a peer that is
    # gone, and OpenBao waits for us meanwhile.
    sys.stderr.flush()
    os._exit(code)


def _undescribed(self: Frame) -> str:
    """What h2 shall say of a frame.

    It describes each frame that it receives, for a log that nobody keeps: one from storage would leave a private key in
    memory once more, in hexadecimal.
    """
    return "..."


async def _serve(host: handshake.Host, version: str) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # Without this an OpenBao that was killed would leave us behind, holding its keys in memory.
    parent = os.pidfd_open(os.getppid())
    loop.add_reader(parent, stop.set)
    identity = handshake.Identity.made(host)
    broker = Broker(identity.client)
    backend = Backend(broker.dial)
    server = Server([broker, Controller(stop), Stdio(), Multiplexing(), Version(version), backend, Health()])
    folder = Path(tempfile.mkdtemp(prefix="p", dir=host.sockets))
    try:
        socket = folder / "s"
        await server.start(socket, tls=identity.server)
        # What was imported lives as long as the process: without it a full collection takes 1 ms instead of 15, and it
        # comes in the middle of somebody's signature.
        gc.freeze()
        os.write(1, handshake.line(socket, identity).encode())
        await stop.wait()
        await server.close(timeout=_LAST_REQUESTS_SECONDS)
        backend.close()
    except BrokenPipeError:
        _log.error("OpenBao ended before it read the handshake")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0
