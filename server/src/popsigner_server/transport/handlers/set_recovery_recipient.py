"""RecoveryService.SetRecoveryRecipient."""

from popsigner_server.domain.recipients import check_recipient
from popsigner_server.gen.popsigner.v1 import recovery_pb2
from popsigner_server.keys.recovery import RecoverySettings
from popsigner_server.transport import convert, convert_recovery
from popsigner_server.transport.interceptors.base import Call, Handler


def set_recovery_recipient(recovery: RecoverySettings) -> Handler:
    async def handle(
        call: Call, request: recovery_pb2.SetRecoveryRecipientRequest
    ) -> recovery_pb2.SetRecoveryRecipientResponse:
        if request.recipient:
            convert.checked("recipient", check_recipient, request.recipient)
        changed = await recovery.set(call.caller, request.recipient)
        return recovery_pb2.SetRecoveryRecipientResponse(recovery=convert_recovery.recovery_to_proto(changed))

    return handle
