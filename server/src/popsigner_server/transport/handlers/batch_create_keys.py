"""KeyService.BatchCreateKeys."""

from popsigner_server import errors
from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys import Wish
from popsigner_server.keys.creation import Creation
from popsigner_server.tenancy import DEFAULT_NAMESPACE
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler

MAX_KEYS = 256


def batch_create_keys(creation: Creation) -> Handler:
    async def handle(call: Call, request: key_pb2.BatchCreateKeysRequest) -> key_pb2.BatchCreateKeysResponse:
        convert.algorithm(request.algorithm)
        metadata = convert.metadata(request.metadata)
        wishes = [
            Wish(
                name=convert.key_name(field, name),
                namespace=namespace or request.namespace or DEFAULT_NAMESPACE,
                exportable=request.exportable,
                metadata=metadata,
            )
            for field, name, namespace in _names(request)
        ]
        if len({(wish.namespace, wish.name) for wish in wishes}) != len(wishes):
            raise errors.InvalidField("keys", "a name occurs twice; each key needs its own.")
        keys = await creation.create(call.caller, wishes)
        return key_pb2.BatchCreateKeysResponse(keys=[convert.key_to_proto(key) for key in keys])

    return handle


def _names(request: key_pb2.BatchCreateKeysRequest) -> list[tuple[str, str, str]]:
    """Of each key to create: the field that its name comes from, the name, and the namespace (or nothing)."""
    if request.keys and (request.prefix or request.count):
        raise errors.InvalidField("keys", "give either keys, or prefix and count.")
    if request.prefix and not request.count:
        raise errors.InvalidField("count", "must be 1 to 256 with prefix.")
    if request.count and not request.prefix:
        raise errors.InvalidField("prefix", "must be given with count.")
    count = request.count or len(request.keys)
    if count == 0:
        raise errors.BatchEmpty("The batch has no keys; send 1 to 256 names, or a prefix and a count.")
    if count > MAX_KEYS:
        raise errors.BatchTooLarge("The batch has more than 256 keys; split it.")
    if request.prefix:
        return [("prefix", f"{request.prefix}-{number}", "") for number in range(1, count + 1)]
    return [(f"keys[{i}].name", key.name, key.namespace) for i, key in enumerate(request.keys)]
