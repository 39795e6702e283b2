"""BillingService.GetUsage."""

import re
from datetime import UTC, date, datetime, time

from popsigner_server import errors
from popsigner_server.gen.popsigner.v1 import billing_pb2
from popsigner_server.ledger.usage import UsageReader
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def get_usage(usage: UsageReader) -> Handler:
    async def handle(call: Call, request: billing_pb2.GetUsageRequest) -> billing_pb2.GetUsageResponse:
        month = _month(request.month)
        metrics = await usage.read(call.caller.principal.organization_id, month)
        return billing_pb2.GetUsageResponse(
            period_start=convert.timestamp(_midnight(month)),
            period_end=convert.timestamp(_midnight(_following(month))),
            usage=[billing_pb2.Usage(metric=metric.name, value=metric.value, quota=metric.quota) for metric in metrics],
        )

    return handle


def _month(written: str) -> date:
    if not written:
        return datetime.now(UTC).date().replace(day=1)
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}", written, re.ASCII):
        try:
            month = date.fromisoformat(f"{written}-01")
        except ValueError:
            month = None
        if month is not None and 2000 <= month.year < 9999:
            return month
    raise errors.InvalidField("month", "must be written YYYY-MM, e.g. 2026-01.")


def _following(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
