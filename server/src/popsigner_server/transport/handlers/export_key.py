"""KeyService.ExportKey."""

from popsigner_server import errors
from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys.export import Export
from popsigner_server.transport.interceptors.base import Call, Handler

MAX_VERSIONS = 64


def export_key(export: Export) -> Handler:
    async def handle(call: Call, request: key_pb2.ExportKeyRequest) -> key_pb2.ExportKeyResponse:
        if len(request.versions) > MAX_VERSIONS:
            raise errors.InvalidField("versions", f"must be at most {MAX_VERSIONS}.")
        sealed = await export.export(
            call.caller, request.key_id, recipient=request.recipient, versions=request.versions
        )
        return key_pb2.ExportKeyResponse(
            wrapping=sealed.wrapping,
            versions=[
                key_pb2.ExportedVersion(
                    version=version.version, public_key=version.public_key.hex(), ciphertext=version.ciphertext
                )
                for version in sealed.versions
            ],
        )

    return handle
