"""The edge: every failure becomes one gRPC status with its reason. This is the only table from kinds to codes."""

import math
import secrets
from asyncio import CancelledError
from typing import Any

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from popsigner_server import errors
from popsigner_server.errors import Kind, SignerError
from popsigner_server.storage import UNAVAILABLE
from popsigner_server.transport.interceptors.base import Call, Ended, Handler, Rpc, Trailing

DOMAIN = "popsigner.com"
CODES = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    Kind.PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.CANCELLED: grpc.StatusCode.CANCELLED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.UNKNOWN_METHOD: grpc.StatusCode.UNIMPLEMENTED,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}
# The gateway's name for the request; its access log has the same.
REQUEST_ID = "x-request-id"
# What carries a google.rpc.Status in gRPC's trailers.
DETAILS = "grpc-status-details-bin"
# Refusals whose trailers are kept; there are a few for each plan.
WRITTEN = 64

log = structlog.get_logger(__name__)


def name_failure(error: Exception, call: Call, method: str) -> SignerError:
    """The failure that the caller is told. One without a name becomes an error id here and a stack in the log."""
    if isinstance(error, SignerError):
        return error
    if isinstance(error, UNAVAILABLE):
        log.warning(
            "database unavailable", method=method, request_id=call.header(REQUEST_ID), error=type(error).__name__
        )
        return errors.LedgerUnavailable(retry_after=1.0)
    error_id = secrets.token_hex(8)
    log.error("internal fault", method=method, request_id=call.header(REQUEST_ID), error_id=error_id, exc_info=error)
    return errors.InternalFault(error_id)


def retry_delay(seconds: float) -> duration_pb2.Duration:
    whole = math.floor(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def to_status(error: SignerError) -> status_pb2.Status:
    """The failure as google.rpc.Status with its details (google/rpc/error_details.proto)."""
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.faults:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=fault.field, description=fault.description)
            for fault in error.faults
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if error.quota is not None:
        violation = error_details_pb2.QuotaFailure.Violation(subject=error.quota, description=error.detail)
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    if error.retry_after is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=retry_delay(error.retry_after)))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=CODES[error.kind].value[0], message=error.detail, details=packed)


def _trailing(error: SignerError) -> Trailing:
    trailing: list[tuple[str, str | bytes]] = [(DETAILS, to_status(error).SerializeToString())]
    if error.retry_after is not None:
        # The gateway passes it on to JSON callers as it is (RFC 9110 10.2.3: whole seconds).
        trailing.append(("retry-after", str(math.ceil(error.retry_after))))
    return tuple(trailing)


class Errors:
    """Turns what a handler raises into the call's status."""

    def __init__(self) -> None:
        # Of full queues and rate limits, by all that they say: they come in floods, always the same.
        self._written: dict[tuple[str, str, float | None], Trailing] = {}

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        path = rpc.path

        async def handle(call: Call, request: Any) -> Any:
            try:
                return await proceed(call, request)
            except (CancelledError, Ended):
                raise
            except Exception as error:
                failure = name_failure(error, call, path)
                errors.untraced(error)
            code = CODES[failure.kind]
            call.code = code.value[0]
            return await call.context.abort(code, failure.detail, self._trailing_of(failure))

        return handle

    def _trailing_of(self, failure: SignerError) -> Trailing:
        if failure.kind is not Kind.EXHAUSTED or failure.retry_after is None or failure.quota is not None:
            # Of these there may be as many as callers think of, such as a size that is too large.
            return _trailing(failure)
        said = (failure.reason, failure.detail, failure.retry_after)
        trailing = self._written.get(said)
        if trailing is None:
            trailing = _trailing(failure)
            if len(self._written) < WRITTEN:
                self._written[said] = trailing
        return trailing
