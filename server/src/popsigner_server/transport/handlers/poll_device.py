"""LoginService.PollDevice."""

from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.identity.devices import Devices
from popsigner_server.transport import convert_identity
from popsigner_server.transport.interceptors.base import Call, Handler


def poll_device(devices: Devices) -> Handler:
    async def handle(call: Call, request: login_pb2.PollDeviceRequest) -> login_pb2.PollDeviceResponse:
        outcome, issued = await devices.poll(request.device_code, convert_identity.origin(request.origin))
        return login_pb2.PollDeviceResponse(
            outcome=login_pb2.DeviceOutcome.Value(outcome.name),
            tokens=None if issued is None else convert_identity.tokens_to_proto(issued),
        )

    return handle
