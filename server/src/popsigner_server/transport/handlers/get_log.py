"""AuditService.GetLog."""

from popsigner_server import errors
from popsigner_server.domain.ids import Prefix
from popsigner_server.gen.popsigner.v1 import audit_pb2
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def get_log(ledger: PostgresLedger) -> Handler:
    async def handle(call: Call, request: audit_pb2.GetLogRequest) -> audit_pb2.GetLogResponse:
        log_id = convert.identifier(Prefix.LOG, request.log_id, errors.AuditLogNotFound)
        row = await ledger.get(call.caller.principal.organization_id, log_id)
        return audit_pb2.GetLogResponse(log=convert.row_to_proto(row))

    return handle
