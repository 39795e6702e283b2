"""NamespaceService.CreateNamespace."""

from popsigner_server.domain.keys import check_address_prefix, check_namespace_name
from popsigner_server.gen.popsigner.v1 import namespace_pb2
from popsigner_server.tenancy import DEFAULT_ADDRESS_PREFIX
from popsigner_server.tenancy.namespaces import Namespaces
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def create_namespace(namespaces: Namespaces) -> Handler:
    async def handle(
        call: Call, request: namespace_pb2.CreateNamespaceRequest
    ) -> namespace_pb2.CreateNamespaceResponse:
        convert.checked("name", check_namespace_name, request.name)
        prefix = request.address_prefix or DEFAULT_ADDRESS_PREFIX
        convert.checked("address_prefix", check_address_prefix, prefix)
        made = await namespaces.create(call.caller, name=request.name, address_prefix=prefix)
        return namespace_pb2.CreateNamespaceResponse(namespace=convert.namespace_to_proto(made))

    return handle
