"""LoginService.StartDevice."""

from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.identity.devices import INTERVAL, LIFE, Devices
from popsigner_server.transport import convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def start_device(devices: Devices) -> Handler:
    async def handle(call: Call, request: login_pb2.StartDeviceRequest) -> login_pb2.StartDeviceResponse:
        started = await devices.start(request.client_name, convert_identity.origin(request.origin))
        return login_pb2.StartDeviceResponse(
            device_code=started.device_code,
            user_code=started.user_code,
            expires_in=int(LIFE.total_seconds()),
            interval=INTERVAL,
        )

    return handle
