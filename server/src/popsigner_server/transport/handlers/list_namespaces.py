"""NamespaceService.ListNamespaces."""

from functools import partial

from popsigner_server.gen.popsigner.v1 import namespace_pb2
from popsigner_server.tenancy.namespaces import Namespaces
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler
from popsigner_server.transport.pages import page


def list_namespaces(namespaces: Namespaces) -> Handler:
    async def handle(call: Call, request: namespace_pb2.ListNamespacesRequest) -> namespace_pb2.ListNamespacesResponse:
        principal = call.caller.principal
        read = partial(namespaces.list, principal.organization_id, bounds=principal.bounds)
        found, following = await page(request.page_size, request.cursor, read, convert.namespace_to_proto)
        return namespace_pb2.ListNamespacesResponse(namespaces=found, next_cursor=following)

    return handle
