"""go-plugin's own services beside the engine: broker, controller, standard output, multiplexing, version, health."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final

from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from popsigner_plugin.gen.goplugin import goplugin_pb2
from popsigner_plugin.gen.openbao import multiplexing_pb2, version_pb2
from popsigner_plugin.rpc import Heard, Refused, Status, Unary

_DIAL_SECONDS: Final = 5.0
_HEALTHY: Final = "plugin"


class Broker:
    """Learns where the host serves what, and dials it. client: our side of mutual TLS."""

    def __init__(self, client: ssl.SSLContext) -> None:
        self._client = client
        self._places: dict[int, asyncio.Future[goplugin_pb2.ConnInfo]] = {}

    def methods(self) -> Mapping[str, Heard]:
        return {"/plugin.GRPCBroker/StartStream": Heard(request=goplugin_pb2.ConnInfo, hear=self._hear)}

    def _hear(self, place: goplugin_pb2.ConnInfo) -> None:
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


class Controller:
    """Ends the process when the host says so."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def methods(self) -> Mapping[str, Unary]:
        return {"/plugin.GRPCController/Shutdown": Unary(request=goplugin_pb2.Empty, answer=self._shutdown)}

    def _shutdown(self, _: goplugin_pb2.Empty) -> goplugin_pb2.Empty:
        self._stop.set()
        return goplugin_pb2.Empty()


class Stdio:
    """Keeps the host's stream open; after the handshake nothing is printed on standard output."""

    def methods(self) -> Mapping[str, Heard]:
        return {"/plugin.GRPCStdio/StreamStdio": Heard(request=Empty, hear=lambda _: None, lasting=True)}


class Multiplexing:
    """One process serves one mount, so that mounts share no memory."""

    def methods(self) -> Mapping[str, Unary]:
        answer = multiplexing_pb2.MultiplexingSupportResponse(supported=False)
        path = "/pluginutil.multiplexing.PluginMultiplexing/MultiplexingSupport"
        return {path: Unary(request=multiplexing_pb2.MultiplexingSupportRequest, answer=lambda _: answer)}


class Version:
    """Answers the version that the plugin was registered with."""

    def __init__(self, version: str) -> None:
        self._answer = version_pb2.VersionReply(plugin_version=version)

    def methods(self) -> Mapping[str, Unary]:
        return {"/logical.PluginVersion/Version": Unary(request=version_pb2.Empty, answer=lambda _: self._answer)}


class Health:
    """Says that the service by the name under which go-plugin asks is well: whoever can answer is."""

    def methods(self) -> Mapping[str, Unary]:
        return {"/grpc.health.v1.Health/Check": Unary(request=HealthCheckRequest, answer=self._check)}

    def _check(self, request: HealthCheckRequest) -> HealthCheckResponse:
        if request.service not in ("", _HEALTHY):
            raise Refused(Status.NOT_FOUND, "there is no such service")
        return HealthCheckResponse(status=HealthCheckResponse.SERVING)
