"""How often: every call counts once, and every message of a stream. It stands behind auth, which says who calls; calls
that nobody vouches for are the gateway's to limit, by address."""

from typing import Any

from popsigner_server.limits.calls import CallLimits
from popsigner_server.transport.interceptors.base import Call, Handler, Rpc


class Limits:
    """Refuses calls above the limits with RATE_LIMITED. A stream's handler asks `call.admit` for each message: one that
    is too many is answered with its error, and the stream goes on."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        limits = self._limits

        async def handle(call: Call, request: Any) -> Any:
            caller, person = call.known_caller, call.known_person
            principal = None if caller is None else caller.principal
            await limits.admit(principal, person)
            if rpc.streams:
                call.admit = lambda: limits.admit(principal, person)
            return await proceed(call, request)

        return handle
