"""AuthService.ExportAccount."""

from contextlib import aclosing

from popsigner_server.gen.popsigner.v1 import auth_pb2
from popsigner_server.tenancy.export import Exports
from popsigner_server.transport.interceptors.base import Call, Handler


def export_account(exports: Exports) -> Handler:
    async def handle(call: Call, request: auth_pb2.ExportAccountRequest) -> None:
        # Closed with the call: one that the caller leaves is not read to its end.
        async with aclosing(exports.archive(call.person)) as pieces:
            async for piece in pieces:
                await call.context.write(auth_pb2.ExportAccountResponse(chunk=piece))

    return handle
