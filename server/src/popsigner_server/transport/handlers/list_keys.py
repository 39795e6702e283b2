"""KeyService.ListKeys."""

from collections.abc import Sequence
from functools import partial

from popsigner_server import errors
from popsigner_server.domain.keys import KeyState
from popsigner_server.gen.popsigner.v1 import key_pb2
from popsigner_server.keys.catalogue import Catalogue
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler
from popsigner_server.transport.pages import page

MAX_LABELS = 8


def list_keys(catalogue: Catalogue) -> Handler:
    async def handle(call: Call, request: key_pb2.ListKeysRequest) -> key_pb2.ListKeysResponse:
        principal = call.caller.principal
        read = partial(
            catalogue.list,
            principal.organization_id,
            bounds=principal.bounds,
            namespace=request.namespace,
            state=_state(request.state),
            labels=_labels(request.labels),
            name_prefix=request.name_prefix,
        )
        keys, following = await page(request.page_size, request.cursor, read, convert.key_to_proto)
        return key_pb2.ListKeysResponse(keys=keys, next_cursor=following)

    return handle


def _state(code: int) -> KeyState | None:
    if code == key_pb2.Key.STATE_UNSPECIFIED:
        return None
    if code not in key_pb2.Key.State.values():
        raise errors.InvalidField("state", "must be ENABLED, DISABLED, DELETED or DESTROYED.")
    return KeyState(code)


def _labels(written: Sequence[str]) -> dict[str, str]:
    if len(written) > MAX_LABELS:
        raise errors.InvalidField("labels", f"must be at most {MAX_LABELS}.")
    labels = {}
    for label in written:
        name, equals, value = label.partition("=")
        if not (name and equals):
            raise errors.InvalidField("labels", "must each be written name=value.")
        labels[name] = value
    return labels
