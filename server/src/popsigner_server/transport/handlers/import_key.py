"""KeyService.ImportKey."""

import re

from popsigner_server import errors
from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys import Wish
from popsigner_server.keys.importing import Importing
from popsigner_server.tenancy import DEFAULT_NAMESPACE
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler

# Bytes; a private key that is wrapped as it should be has 552.
MAX_CIPHERTEXT = 4096
_WRAPPING_KEY_ID = re.compile(r"(?:[0-9a-f]{64})?")


def import_key(importing: Importing) -> Handler:
    async def handle(call: Call, request: key_pb2.ImportKeyRequest) -> key_pb2.ImportKeyResponse:
        convert.algorithm(request.algorithm)
        wish = Wish(
            name=convert.key_name("name", request.name),
            namespace=request.namespace or DEFAULT_NAMESPACE,
            exportable=request.exportable,
            metadata=convert.metadata(request.metadata),
        )
        if not 1 <= len(request.ciphertext) <= MAX_CIPHERTEXT:
            raise errors.InvalidField("ciphertext", f"must be 1 to {MAX_CIPHERTEXT} bytes.")
        if not _WRAPPING_KEY_ID.fullmatch(request.wrapping_key_id):
            raise errors.InvalidField(
                "wrapping_key_id", "must be 64 hexadecimal digits in lower case, or empty to try every accepted key."
            )
        key = await importing.bring_in(
            call.caller, wish, ciphertext=request.ciphertext, wrapping_key=request.wrapping_key_id
        )
        return key_pb2.ImportKeyResponse(key=convert.key_to_proto(key))

    return handle
