"""LoginService.DecideDevice."""

from popsigner_server.gen.popsigner.internal.v1 import login_pb2
from popsigner_server.identity.devices import Devices
from popsigner_server.identity.visitors import Visitors
from popsigner_server.transport.interceptors.base import Call, Handler


def decide_device(devices: Devices, visitors: Visitors) -> Handler:
    async def handle(call: Call, request: login_pb2.DecideDeviceRequest) -> login_pb2.DecideDeviceResponse:
        visit = await visitors.visit(request.access_token)
        await devices.decide(request.user_code, visit, approve=request.approve)
        return login_pb2.DecideDeviceResponse()

    return handle
