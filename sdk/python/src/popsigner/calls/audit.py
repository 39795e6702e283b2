"""AuditService and BillingService: what happened, and what was used."""

from datetime import datetime

from ..gen.popsigner.v1 import (
    AuditLog,
    GetLogRequest,
    GetLogResponse,
    GetUsageRequest,
    GetUsageResponse,
    Key,
    ListLogsRequest,
    ListLogsResponse,
)
from . import Call, Page, Repeat, Rpc, aware, call, present
from .keys import key_name

_SERVICE = "/popsigner.v1.AuditService/"
LIST = Rpc(_SERVICE + "ListLogs", ListLogsRequest, ListLogsResponse, Repeat.ALWAYS)
GET = Rpc(_SERVICE + "GetLog", GetLogRequest, GetLogResponse, Repeat.ALWAYS)
GET_USAGE = Rpc("/popsigner.v1.BillingService/GetUsage", GetUsageRequest, GetUsageResponse, Repeat.ALWAYS)


def page(
    cursor: str,
    /,
    *,
    start_time: datetime | None = None,
    end_time: datetime | None = None,
    event_type: str = "",
    key: str | Key = "",
    page_size: int = 0,
    timeout: float | None = None,
) -> Call[Page[AuditLog]]:
    """Audit rows, newest first: from `start_time` on and before `end_time`, of one event (`key.signed`, …), of one
    key."""
    request = ListLogsRequest(
        page_size=page_size,
        cursor=cursor,
        start_time=aware(start_time, "start_time"),
        end_time=aware(end_time, "end_time"),
        event_type=event_type,
        key_id=key_name(key),
    )
    return call(LIST, request, lambda answer: Page(entries=tuple(answer.logs), next_cursor=answer.next_cursor), timeout)


def get(log_id: str, *, timeout: float | None = None) -> Call[AuditLog]:
    """One audit row. Raises AuditLogNotFound."""
    return call(GET, GetLogRequest(log_id=log_id), lambda answer: present(answer.log), timeout)


def usage(*, month: str = "", timeout: float | None = None) -> Call[GetUsageResponse]:
    """What was used in a month (`YYYY-MM` in UTC, by default this one). Raises InvalidField."""
    return call(GET_USAGE, GetUsageRequest(month=month), lambda answer: answer, timeout)
