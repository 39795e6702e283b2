"""RecoveryService.CancelRecoveryChange."""

from popsigner_server.gen.popsigner.v1 import recovery_pb2
from popsigner_server.keys.recovery import RecoverySettings
from popsigner_server.transport import convert_recovery
from popsigner_server.transport.interceptors.base import Call, Handler


def cancel_recovery_change(recovery: RecoverySettings) -> Handler:
    async def handle(
        call: Call, request: recovery_pb2.CancelRecoveryChangeRequest
    ) -> recovery_pb2.CancelRecoveryChangeResponse:
        changed = await recovery.cancel(call.caller)
        return recovery_pb2.CancelRecoveryChangeResponse(recovery=convert_recovery.recovery_to_proto(changed))

    return handle
