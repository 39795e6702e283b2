"""KeyService.ListKeyVersions."""

from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def list_key_versions(catalogue: Catalogue) -> Handler:
    async def handle(call: Call, request: key_pb2.ListKeyVersionsRequest) -> key_pb2.ListKeyVersionsResponse:
        principal = call.caller.principal
        versions = await catalogue.versions(principal.organization_id, request.key_id, bounds=principal.bounds)
        return key_pb2.ListKeyVersionsResponse(versions=[convert.key_version_to_proto(version) for version in versions])

    return handle
