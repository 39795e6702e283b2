"""SignService.Verify."""

import asyncio

from popsigner_server import errors
from popsigner_server.domain.digests import HashAlgorithm, digest_of
from popsigner_server.domain.principals import Principal
from popsigner_server.domain.signatures import SignatureFormat, parse_public_key
from popsigner_server.domain.signatures import verify as is_valid
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.keys.cache import KeyCache
from popsigner_server.signing.signer import HASH_INLINE, MAX_DATA
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler


def verify(keys: KeyCache) -> Handler:
    async def handle(call: Call, request: sign_pb2.VerifyRequest) -> sign_pb2.VerifyResponse:
        convert.encoding(request.encoding)
        if len(request.data) > MAX_DATA:
            raise errors.DataTooLarge
        if request.prehashed and len(request.data) != 32:
            raise errors.DigestLength
        public_key = await _public_key(keys, call.caller.principal, request)
        hash_algorithm = convert.hash_algorithm(request.hash) or HashAlgorithm.SHA256
        if len(request.data) > HASH_INLINE:
            # 1 MiB takes milliseconds, in which nobody else's call would go on.
            digest = await asyncio.to_thread(digest_of, request.data, hash=hash_algorithm, prehashed=False)
        else:
            digest = digest_of(request.data, hash=hash_algorithm, prehashed=request.prehashed)
        written = convert.signature_format(request.format) or SignatureFormat.COMPACT
        return sign_pb2.VerifyResponse(valid=is_valid(public_key, digest, request.signature, written))

    return handle


async def _public_key(keys: KeyCache, principal: Principal, request: sign_pb2.VerifyRequest) -> bytes:
    if bool(request.key_id) == bool(request.public_key):
        raise errors.InvalidField("public_key", "give either a key_id or a public_key.")
    if request.public_key:
        if request.key_version:
            raise errors.InvalidField("key_version", "goes with key_id only.")
        try:
            return parse_public_key(request.public_key)
        except ValueError as error:
            raise errors.InvalidField("public_key", str(error)) from error
    # A public key of a version never changes, and a deleted key still verifies: the cache is as good as the database.
    named = (principal.organization_id, request.key_id, request.key_version, principal.bounds)
    key, _ = keys.cached(*named) or await keys.find(*named)
    return bytes.fromhex(key.public_key)
