"""A full queue is told before the request is read: reading, parsing and hashing what will be refused costs many times
what the refusal does, and a flood would get it for nothing. The last one, as it needs the caller's organization."""

from typing import Any

from popsigner_server.signing.signer import MAX_ITEMS, Signer
from popsigner_server.transport.interceptors.base import Call, Handler, Rpc

# What a call of each may ask for at once: how many a batch has would have to be read.
ITEMS = {"/popsigner.v1.SignService/Sign": 1, "/popsigner.v1.SignService/BatchSign": MAX_ITEMS}


class Pressure:
    """Refuses with QUEUE_FULL. Messages of a stream are asked for one by one by its handler."""

    def __init__(self, signer: Signer) -> None:
        self._check = signer.check_room

    def wrap(self, rpc: Rpc, proceed: Handler) -> Handler:
        items = ITEMS.get(rpc.path)
        if items is None:
            return proceed
        check = self._check

        async def handle(call: Call, request: Any) -> Any:
            check(call.caller, items)
            return await proceed(call, request)

        return handle
