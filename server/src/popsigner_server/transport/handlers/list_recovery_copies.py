"""RecoveryService.ListRecoveryCopies."""

from popsigner_server import errors
from popsigner_server.gen.popsigner.v1 import recovery_pb2
from popsigner_server.keys.copies import Copies
from popsigner_server.transport import convert_recovery
from popsigner_server.transport.interceptors.base import Call, Handler

# Each key costs a question to the vault, and its copies must fit into one message.
MAX_PAGE = 100


def list_recovery_copies(copies: Copies) -> Handler:
    async def handle(
        call: Call, request: recovery_pb2.ListRecoveryCopiesRequest
    ) -> recovery_pb2.ListRecoveryCopiesResponse:
        if request.page_size > MAX_PAGE:
            raise errors.InvalidField("page_size", f"must be at most {MAX_PAGE}.")
        page = await copies.page(call.caller, limit=request.page_size or MAX_PAGE, cursor=request.cursor)
        return convert_recovery.page_to_proto(page)

    return handle
