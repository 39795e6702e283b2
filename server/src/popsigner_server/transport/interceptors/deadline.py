"""The caller's deadline, in the event loop's time; a call that comes too late is refused before any work."""

import asyncio
from typing import Any

from popsigner_server import errors
from popsigner_server.transport.interceptors.base import Call, Handler, Rpc


class Deadline:
    """Reads the deadline. A handler whose deadline passes is stopped (calls.py); the batcher drops what waits."""

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        async def handle(call: Call, request: Any) -> Any:
            remaining = call.context.time_remaining()
            if remaining is not None:
                if remaining <= 0:
                    raise errors.DeadlinePassed
                call.deadline = asyncio.get_running_loop().time() + remaining
            return await proceed(call, request)

        return handle
