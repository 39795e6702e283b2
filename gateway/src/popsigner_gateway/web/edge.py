"""What stands around every page: the headers, the cookies, one log line a request, and an answer for every failure."""

import secrets
import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from popsigner_gateway.web.cookies import waiting
from popsigner_gateway.web.faults import Fault
from popsigner_gateway.web.gateway import Gateway

# What programs read; everything else is for people.
_FOR_PROGRAMS = ("/oauth/", "/.well-known/", "/internal/")
_log = structlog.get_logger(__name__)


class Edge:
    """The outermost layer. style_hash: of the pages' one style sheet, for the Content-Security-Policy."""

    def __init__(self, app: ASGIApp, *, gateway: Gateway, style_hash: str) -> None:
        self._app = app
        self._gateway = gateway
        self._headers = {
            # Nothing is loaded, no script runs, nobody frames a page, and forms go to this site alone.
            "content-security-policy": f"default-src 'none'; style-src 'sha256-{style_hash}'; form-action 'self'; "
            "frame-ancestors 'none'; base-uri 'none'",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began, status = time.monotonic(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers.update(self._headers)
                headers.setdefault("cache-control", "no-store")
                message["headers"] = [*headers.raw, *((b"set-cookie", each) for each in waiting(scope))]
            await send(message)

        # With an app in its scope the router raises what it does not know, instead of answering in plain text.
        scope["app"] = self._app
        request = Request(scope, receive)
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if status:
                raise
            await self._answer(request, error)(scope, receive, send_with_headers)
        finally:
            # The route's own name, never what was asked for: a path or query may hold what was pasted there.
            route = getattr(scope.get("route"), "path", "")
            if route != "/internal/ready":
                _log.info(
                    "request",
                    method=request.method,
                    route=route,
                    status=status,
                    duration_ms=round((time.monotonic() - began) * 1000),
                    request_id=request.headers.get("x-request-id", ""),
                )

    def _answer(self, request: Request, error: Exception) -> Response:
        fault = error if isinstance(error, Fault) else _unexpected(error)
        level = _log.error if fault.status == 500 else _log.info
        level("refused", reason=fault.reason, status=fault.status, request_id=request.headers.get("x-request-id", ""))
        headers = {"retry-after": str(fault.retry_after)} if fault.retry_after else {}
        if request.url.path.startswith(_FOR_PROGRAMS):
            return oauth_error(oauth_code(fault), fault, headers)
        page = self._gateway.page("error", status=fault.status, fault=fault)
        page.headers.update(headers)
        return page


def _unexpected(error: Exception) -> Fault:
    if isinstance(error, HTTPException):
        return Fault(
            status=error.status_code,
            reason="METHOD_UNKNOWN" if error.status_code in (404, 405) else "MALFORMED_REQUEST",
            sentence="There is no such page." if error.status_code in (404, 405) else "The request cannot be read.",
            advice="Begin at the first page.",
        )
    error_id = secrets.token_hex(8)
    # The kind and the place, not the text: an exception's text can hold what was being handled.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else ""
    _log.error("internal_fault", error_id=error_id, kind=type(error).__name__, where=where)
    return Fault(
        status=500,
        reason="INTERNAL_FAULT",
        sentence=f"Something went wrong here; the log repeats {error_id}.",
        advice="Try again. If it happens again, tell your operator.",
    )


def oauth_code(fault: Fault) -> str:
    """The nearest error code of RFC 6749 5.2 for what has none of its own."""
    if fault.status in (429, 503, 504):
        return "temporarily_unavailable"
    return "server_error" if fault.status >= 500 else "invalid_request"


def oauth_error(code: str, fault: Fault, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as RFC 6749 5.2 has it: the description begins with the reason, in the characters that are allowed."""
    text = "".join(each for each in f"{fault.reason}: {fault.sentence}" if " " <= each <= "~" and each not in '"\\')
    content = {"error": code, "error_description": text}
    more = {"cache-control": "no-store"} | (headers or {})
    if fault.status == 401:
        more["www-authenticate"] = 'Basic realm="popsigner"'
    return JSONResponse(content, status_code=fault.status, headers=more)
