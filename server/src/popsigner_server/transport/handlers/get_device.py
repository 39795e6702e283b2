"""LoginService.GetDevice."""

from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.identity.devices import Devices
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def get_device(devices: Devices) -> Handler:
    async def handle(call: Call, request: login_pb2.GetDeviceRequest) -> login_pb2.GetDeviceResponse:
        waiting = await devices.get(request.user_code)
        return login_pb2.GetDeviceResponse(
            client_name=waiting.client_name,
            origin=login_pb2.Origin(
                ip_address=waiting.origin.ip_address or "", user_agent=waiting.origin.user_agent or ""
            ),
            created_at=convert.timestamp(waiting.created_at),
        )

    return handle
