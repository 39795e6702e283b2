"""NamespaceService.ListNamespaces."""

from popsigner_server.gen.popsigner.v1 import namespace_pb2
from popsigner_server.tenancy.namespaces import Namespaces
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def list_namespaces(namespaces: Namespaces) -> Handler:
    async def handle(call: Call, request: namespace_pb2.ListNamespacesRequest) -> namespace_pb2.ListNamespacesResponse:
        principal = call.caller.principal
        found, following = await namespaces.list(
            principal.organization_id,
            bounds=principal.bounds,
            limit=convert.page_size(request.page_size),
            cursor=request.cursor,
        )
        return namespace_pb2.ListNamespacesResponse(
            namespaces=[convert.namespace_to_proto(namespace) for namespace in found], next_cursor=following
        )

    return handle
