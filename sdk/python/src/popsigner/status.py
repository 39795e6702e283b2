# ruff: noqa: RUF009 - fields of betterproto2 messages are declared so
"""From gRPC status to typed errors: the google.rpc.Status that POPSigner sends with every refusal.

The four messages of google/rpc/status.proto and google/rpc/error_details.proto that are read here are declared by hand,
with the fields that are read: the packages that publish them bring a second protobuf runtime.
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import betterproto2
from grpc import StatusCode

from .errors import DeadlineExceeded, PopsignerError, Unavailable, Violation, error_class
from .gen.google.protobuf import Duration
from .gen.popsigner.v1 import ItemError

DOMAIN = "popsigner.com"
_DETAILS = "grpc-status-details-bin"
_CODES: dict[int, StatusCode] = {code.value[0]: code for code in StatusCode}
_M = TypeVar("_M", bound=betterproto2.Message)


class RpcFailure(Protocol):
    """What a failed call says, over grpc and grpc.aio alike."""

    def code(self) -> StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


@dataclass(eq=False, repr=False)
class AnyMessage(betterproto2.Message):
    """google.protobuf.Any"""

    type_url: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    value: bytes = betterproto2.field(2, betterproto2.TYPE_BYTES)


@dataclass(eq=False, repr=False)
class Status(betterproto2.Message):
    """google.rpc.Status"""

    code: int = betterproto2.field(1, betterproto2.TYPE_INT32)
    message: str = betterproto2.field(2, betterproto2.TYPE_STRING)
    details: list[AnyMessage] = betterproto2.field(3, betterproto2.TYPE_MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class ErrorInfo(betterproto2.Message):
    """google.rpc.ErrorInfo"""

    reason: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    domain: str = betterproto2.field(2, betterproto2.TYPE_STRING)
    metadata: dict[str, str] = betterproto2.field(
        3,
        betterproto2.TYPE_MAP,
        map_meta=betterproto2.map_meta(betterproto2.TYPE_STRING, betterproto2.TYPE_STRING),
    )


@dataclass(eq=False, repr=False)
class RetryInfo(betterproto2.Message):
    """google.rpc.RetryInfo"""

    retry_delay: "datetime.timedelta | None" = betterproto2.field(
        1, betterproto2.TYPE_MESSAGE, unwrap=lambda: Duration, optional=True
    )


@dataclass(eq=False, repr=False)
class FieldOrQuotaViolation(betterproto2.Message):
    """google.rpc.BadRequest.FieldViolation and google.rpc.QuotaFailure.Violation: alike in their first two fields."""

    subject: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    description: str = betterproto2.field(2, betterproto2.TYPE_STRING)


@dataclass(eq=False, repr=False)
class BadRequestOrQuotaFailure(betterproto2.Message):
    """google.rpc.BadRequest and google.rpc.QuotaFailure: alike in their first field."""

    violations: list[FieldOrQuotaViolation] = betterproto2.field(1, betterproto2.TYPE_MESSAGE, repeated=True)


def _detail(status: Status, kind: type[_M], *names: str) -> _M | None:
    types = {f"type.googleapis.com/google.rpc.{name}" for name in names}
    return next((kind.parse(detail.value) for detail in status.details if detail.type_url in types), None)


def _details_of(failure: RpcFailure) -> Status:
    for name, value in failure.trailing_metadata() or ():
        if name == _DETAILS and isinstance(value, bytes):
            return Status.parse(value)
    return Status()


def _seconds(delay: datetime.timedelta | None) -> float | None:
    return None if delay is None else delay.total_seconds()


def error_of_call(failure: RpcFailure, *, endpoint: str, timeout: float | None = None) -> PopsignerError:
    """The typed error of a failed call. `endpoint` and `timeout` (seconds) make the sentences of failures that the POP
    had no part in."""
    code = failure.code()
    status = _details_of(failure)
    info = _detail(status, ErrorInfo, "ErrorInfo")
    if info is None or info.domain != DOMAIN:
        return _without_reason(code, failure.details() or code.name, endpoint=endpoint, timeout=timeout)
    retry = _detail(status, RetryInfo, "RetryInfo")
    violations = _detail(status, BadRequestOrQuotaFailure, "BadRequest", "QuotaFailure") or BadRequestOrQuotaFailure()
    return error_class(info.reason, code)(
        failure.details() or status.message,
        reason=info.reason,
        code=code,
        retry_after=_seconds(retry.retry_delay) if retry else None,
        metadata=info.metadata,
        violations=tuple(Violation(each.subject, each.description) for each in violations.violations),
    )


def _without_reason(code: StatusCode, details: str, *, endpoint: str, timeout: float | None) -> PopsignerError:
    if code is StatusCode.UNAVAILABLE:
        return Unavailable(f"the POP at {endpoint} cannot be reached; check that it runs there ({details})")
    if code is StatusCode.DEADLINE_EXCEEDED and timeout is not None:
        return DeadlineExceeded(f"the POP at {endpoint} did not answer within {timeout:g} s; allow a longer timeout")
    return error_class("", code)(details, code=code)


def error_of_item(error: ItemError) -> PopsignerError:
    """The typed error of one item of a batch or stream."""
    code = _CODES.get(error.code, StatusCode.UNKNOWN)
    reason = error.reason.name or f"ERROR_REASON_{int(error.reason)}"
    return error_class(reason, code)(error.message, reason=reason, code=code, retry_after=_seconds(error.retry_after))
