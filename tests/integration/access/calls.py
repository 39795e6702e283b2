"""For every RPC of the descriptors a request that harms nothing: what it names does not exist, or it is refused for
what it says. And every field of text in a request, by what it names: a new field has to be classified here."""

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from popsigner_server.domain.ids import Prefix, new_id, show
from popsigner_server.transport.contract import rpcs

RPCS: Mapping[str, MethodDescriptor] = {
    f"{method.containing_service.name}/{method.name}": method for method in rpcs().values()
}
INTERNAL = frozenset(
    name for name, method in RPCS.items() if method.containing_service.file.package == "popsigner.internal.v1"
)

# What a field names, by the field's name, and by its message's where that says something else.
KINDS: Mapping[str, str] = {
    "key_id": "key",
    "CreateApiKeyRequest.keys": "key",
    "namespace": "namespace",
    "namespace_id": "namespace",
    "namespaces": "namespace",
    "api_key_id": "api key",
    "log_id": "audit row",
    "user_id": "user",
    "invitation_id": "invitation",
    "AcceptInvitationRequest.token": "invitation's token",
    "identity_provider_id": "identity provider",
    "session_id": "session",
}
# Text that names nothing which somebody else could have. `request_id` is an idempotency key within one organization,
# `client_id` the POP's name at an identity provider.
PLAIN = {
    "algorithm",
    "address_prefix",
    "ciphertext",
    "client_id",
    "client_secret",
    "cursor",
    "data",
    "email",
    "encoding",
    "event_type",
    "ip_allow_list",
    "issuer",
    "labels",
    "month",
    "name",
    "name_prefix",
    "prefix",
    "public_key",
    "recipient",
    "request_id",
    "scopes",
    "sign_mode",
    "signature",
    "wrapping_key_id",
}
PREFIXES = {
    "key": Prefix.KEY,
    "namespace": Prefix.NAMESPACE,
    "api key": Prefix.API_KEY,
    "audit row": Prefix.LOG,
    "user": Prefix.USER,
    "invitation": Prefix.INVITATION,
    "identity provider": Prefix.IDENTITY_PROVIDER,
    "session": Prefix.SESSION,
}
# An age recipient whose identity nobody kept.
NOBODY = "age1fjkp3wsqr53x64jvx45a6t5e76xczp3yvswtdcddjq2sxjfqnfcqsf8n6f"
# What makes a request more than empty. An RPC is named by its request's message.
FILLED: Mapping[str, dict[str, Any]] = {
    "BatchCreateKeysRequest": {"prefix": "intruder", "count": 1},
    "BatchSignRequest": {"requests": [{"data": b"intrusion"}]},
    "CreateKeyRequest": {"name": "intruder"},
    "ExportKeyRequest": {"recipient": NOBODY},
    "ImportKeyRequest": {"name": "intruder", "ciphertext": b"intrusion"},
    "SignRequest": {"data": b"intrusion"},
    "SignStreamRequest": {"requests": [{"data": b"intrusion"}]},
    "UpdateKeyRequest": {"name": "intruder"},
    "UpdateMemberRequest": {"role": 1},
    "VerifyRequest": {"data": b"intrusion", "signature": bytes(64)},
}
# Limits of an API key: with one, the request would be a good one but for what the limit names.
LIMITED = {"name": "intruder", "scopes": ["api:keys:sign"]}

Path = tuple[FieldDescriptor, ...]


def texts(message: Descriptor, before: Path = ()) -> Iterator[Path]:
    """Every field of text or bytes of a request, with the fields that lead to it."""
    for field in message.fields:
        path = (*before, field)
        if field.message_type is None:
            if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
                yield path
        elif not field.message_type.GetOptions().map_entry and field.message_type.file.package.startswith("popsigner"):
            yield from texts(field.message_type, path)


def kind_of(field: FieldDescriptor) -> str | None:
    """What it names; None for text that names nothing. Fails for a field that nobody has classified."""
    message = field.full_name.split(".")[-2]
    kind = KINDS.get(f"{message}.{field.name}", KINDS.get(field.name))
    assert kind is not None or field.name in PLAIN, f"{field.full_name} is new: does it name something?"
    return kind


def naming(method: MethodDescriptor) -> Iterator[tuple[Path, str]]:
    """The fields of an RPC's request that name something, and what."""
    for path in texts(method.input_type):
        kind = kind_of(path[-1])
        if kind is not None:
            yield path, kind


def unknown(kind: str) -> str:
    """The name of something that nobody has."""
    return f"inv_{'0' * 64}" if kind == "invitation's token" else show(PREFIXES[kind], new_id())


def filled(method: MethodDescriptor, values: dict[str, Any]) -> Message:
    made: Message = message_factory.GetMessageClass(method.input_type)(**values)
    return made


def put(message: Any, path: Path, value: str) -> None:
    """Set a field; of repeated messages on the way the first, which is made where there is none."""
    *way, last = path
    for field in way:
        inner = getattr(message, field.name)
        message = (inner[0] if len(inner) else inner.add()) if field.is_repeated else inner
    if last.is_repeated:
        getattr(message, last.name).append(value)
    else:
        setattr(message, last.name, value)


def harmless(rpc: str) -> Message:
    """A request that names what does not exist, or says too little; of a stream no message at all."""
    method = RPCS[rpc]
    if method.client_streaming:
        return filled(method, {})
    message = filled(method, FILLED.get(method.input_type.name, {}))
    if rpc in INTERNAL or rpc == "ApiKeyService/CreateApiKey":
        # The latter refuses what its caller may not give away, by the same reasons as a caller that may not call it.
        return message
    for path, kind in naming(method):
        if not (method.name == "BatchCreateKeys" and len(path) > 1):
            put(message, path, unknown(kind))
    return message


def aimed(rpc: str, path: Path, value: str) -> Message:
    """A request that is good but for what one of its fields names."""
    method = RPCS[rpc]
    values = LIMITED if method.name == "CreateApiKey" else FILLED.get(method.input_type.name, {})
    if method.name == "BatchCreateKeys" and len(path) > 1:
        values = {"keys": [{"name": "intruder"}]}
    message = filled(method, values)
    put(message, path, value)
    return message
