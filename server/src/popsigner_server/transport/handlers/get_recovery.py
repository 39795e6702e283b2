"""RecoveryService.GetRecovery."""

from popsigner_server.gen.popsigner.v1 import recovery_pb2
from popsigner_server.keys.recovery import RecoverySettings
from popsigner_server.transport import convert_recovery
from popsigner_server.transport.interceptors.base import Call, Handler


def get_recovery(recovery: RecoverySettings) -> Handler:
    async def handle(call: Call, request: recovery_pb2.GetRecoveryRequest) -> recovery_pb2.GetRecoveryResponse:
        found = await recovery.get(call.caller.principal)
        return recovery_pb2.GetRecoveryResponse(recovery=convert_recovery.recovery_to_proto(found))

    return handle
