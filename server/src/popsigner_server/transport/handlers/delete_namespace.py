"""NamespaceService.DeleteNamespace."""

from popsigner_server.gen.popsigner.v1 import namespace_pb2
from popsigner_server.tenancy.namespaces import Namespaces
from popsigner_server.transport.interceptors.base import Call, Handler


def delete_namespace(namespaces: Namespaces) -> Handler:
    async def handle(
        call: Call, request: namespace_pb2.DeleteNamespaceRequest
    ) -> namespace_pb2.DeleteNamespaceResponse:
        await namespaces.delete(call.caller, request.namespace_id)
        return namespace_pb2.DeleteNamespaceResponse()

    return handle
