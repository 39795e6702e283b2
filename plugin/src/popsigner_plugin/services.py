"""go-plugin's own services beside the engine: broker, controller, standard output, multiplexing, version."""

import asyncio
import ssl
from typing import Final

from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.server import Stream

from popsigner_plugin.gen.goplugin import goplugin_pb2
from popsigner_plugin.gen.goplugin.goplugin_grpc import GRPCBrokerBase, GRPCControllerBase, GRPCStdioBase
from popsigner_plugin.gen.openbao import multiplexing_pb2, version_pb2
from popsigner_plugin.gen.openbao.multiplexing_grpc import PluginMultiplexingBase
from popsigner_plugin.gen.openbao.version_grpc import PluginVersionBase

_DIAL_SECONDS: Final = 5.0


class Broker(GRPCBrokerBase):
    """Learns where the host serves what, and dials it. client: our side of mutual TLS."""

    def __init__(self, client: ssl.SSLContext) -> None:
        self._client = client
        self._places: dict[int, asyncio.Future[goplugin_pb2.ConnInfo]] = {}

    async def StartStream(self, stream: Stream[goplugin_pb2.ConnInfo, goplugin_pb2.ConnInfo]) -> None:
        async for place in stream:
            known = self._place(place.service_id)
            if not known.done():
                known.set_result(place)

    async def dial(self, service_id: int) -> Channel:
        """A channel to that service. Raises TimeoutError if the host does not name it, OSError for a strange place."""
        place = await asyncio.wait_for(self._place(service_id), _DIAL_SECONDS)
        del self._places[service_id]
        if place.network != "unix":
            raise OSError(f"the host serves on {place.network!r} where a unix socket was expected")
        return Channel(path=place.address, ssl=self._client, config=Configuration(ssl_target_name_override="localhost"))

    def _place(self, service_id: int) -> asyncio.Future[goplugin_pb2.ConnInfo]:
        # Setup and the place of its storage come over two streams, in either order.
        return self._places.setdefault(service_id, asyncio.get_running_loop().create_future())


class Controller(GRPCControllerBase):
    """Ends the process when the host says so."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    async def Shutdown(self, stream: Stream[goplugin_pb2.Empty, goplugin_pb2.Empty]) -> None:
        await stream.recv_message()
        await stream.send_message(goplugin_pb2.Empty())
        self._stop.set()


class Stdio(GRPCStdioBase):
    """Keeps the host's stream open; after the handshake nothing is printed on standard output."""

    async def StreamStdio(self, stream: Stream[Empty, goplugin_pb2.StdioData]) -> None:
        await stream.recv_message()
        await asyncio.Event().wait()


class Multiplexing(PluginMultiplexingBase):
    """One process serves one mount, so that mounts share no memory."""

    async def MultiplexingSupport(
        self,
        stream: Stream[multiplexing_pb2.MultiplexingSupportRequest, multiplexing_pb2.MultiplexingSupportResponse],
    ) -> None:
        await stream.recv_message()
        await stream.send_message(multiplexing_pb2.MultiplexingSupportResponse(supported=False))


class Version(PluginVersionBase):
    """Answers the version that the plugin was registered with."""

    def __init__(self, version: str) -> None:
        self._version = version

    async def Version(self, stream: Stream[version_pb2.Empty, version_pb2.VersionReply]) -> None:
        await stream.recv_message()
        await stream.send_message(version_pb2.VersionReply(plugin_version=self._version))
