"""AuditService.ListLogs."""

from datetime import UTC, datetime
from functools import partial

from google.protobuf.timestamp_pb2 import Timestamp

from popsigner_server import errors
from popsigner_server.gen.popsigner.v1 import audit_pb2
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.ledger.postgres import PostgresLedger
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler
from popsigner_server.transport.pages import page


def list_logs(ledger: PostgresLedger, catalogue: Catalogue) -> Handler:
    async def handle(call: Call, request: audit_pb2.ListLogsRequest) -> audit_pb2.ListLogsResponse:
        principal = call.caller.principal
        key_id = None
        if request.key_id:
            key_id = (await catalogue.get(principal.organization_id, request.key_id, bounds=principal.bounds)).id
        read = partial(
            ledger.list,
            principal.organization_id,
            start=_moment("start_time", request.start_time) if request.HasField("start_time") else None,
            end=_moment("end_time", request.end_time) if request.HasField("end_time") else None,
            event=request.event_type or None,
            key_id=key_id,
        )
        logs, following = await page(request.page_size, request.cursor, read, convert.row_to_proto)
        return audit_pb2.ListLogsResponse(logs=logs, next_cursor=following)

    return handle


def _moment(field: str, stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise errors.InvalidField(field, "is not a moment in time.") from error
