"""Between the contract's messages and the domain's values."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from popsigner_server import errors
from popsigner_server.domain.addresses import eth_address
from popsigner_server.domain.digests import HashAlgorithm, describe
from popsigner_server.domain.ids import Prefix, parse, show
from popsigner_server.domain.keys import Key, KeyVersion, check_key_name, check_metadata
from popsigner_server.domain.signatures import SignatureFormat
from popsigner_server.errors import SignerError
from popsigner_server.gen.popsigner.v1 import api_key_pb2, audit_pb2, errors_pb2, key_pb2, namespace_pb2, sign_pb2
from popsigner_server.identity.api_keys import ApiKey
from popsigner_server.ledger import Row
from popsigner_server.signing import Ask, Outcome
from popsigner_server.tenancy import Namespace
from popsigner_server.transport.interceptors.errors import CODES, retry_delay

ALGORITHM = "secp256k1"

_HASHES = {0: None, 1: HashAlgorithm.SHA256, 2: HashAlgorithm.KECCAK256}
_FORMATS = {0: None, 1: SignatureFormat.COMPACT, 2: SignatureFormat.RECOVERABLE, 3: SignatureFormat.DER}


def timestamp(moment: datetime | None) -> Timestamp | None:
    """None stays absent."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def checked(field: str, check: object, value: object) -> None:
    """Run a domain check and turn its ValueError into InvalidField."""
    assert callable(check)  # noqa: S101 - a programmer's slip
    try:
        check(value)
    except ValueError as error:
        raise errors.InvalidField(field, str(error)) from error


def key_name(field: str, name: str) -> str:
    checked(field, check_key_name, name)
    return name


def metadata(entries: Mapping[str, str]) -> dict[str, str]:
    kept = dict(entries)
    checked("metadata", check_metadata, kept)
    return kept


def algorithm(named: str) -> None:
    if named not in ("", ALGORITHM):
        raise errors.InvalidField("algorithm", f"must be {ALGORITHM}, or empty for the same.")


def identifier(prefix: Prefix, text: str, missing: type[SignerError]) -> UUID:
    """An id of our own form; anything else is as unknown as an id that nothing has."""
    try:
        return parse(prefix, text)
    except ValueError as error:
        raise missing from error


def key_to_proto(key: Key) -> key_pb2.Key:
    return key_pb2.Key(
        id=show(Prefix.KEY, key.id),
        name=key.name,
        namespace=key.namespace,
        algorithm=ALGORITHM,
        public_key=key.public_key.hex(),
        address=key.address,
        eth_address=eth_address(key.public_key),
        version=key.version,
        state=key_pb2.Key.State.ValueType(key.state.value),
        exportable=key.exportable,
        metadata=dict(key.metadata),
        created_at=timestamp(key.created_at),
        deleted_at=timestamp(key.deleted_at),
        destroy_at=timestamp(key.destroy_at),
        min_version=key.min_version,
        imported=key.imported,
    )


def key_version_to_proto(version: KeyVersion) -> key_pb2.KeyVersion:
    return key_pb2.KeyVersion(
        version=version.version,
        public_key=version.public_key.hex(),
        address=version.address,
        eth_address=eth_address(version.public_key),
        created_at=timestamp(version.created_at),
        signs=version.signs,
    )


def namespace_to_proto(namespace: Namespace) -> namespace_pb2.Namespace:
    return namespace_pb2.Namespace(
        id=show(Prefix.NAMESPACE, namespace.id),
        name=namespace.name,
        address_prefix=namespace.address_prefix,
        created_at=timestamp(namespace.created_at),
    )


def api_key_to_proto(key: ApiKey, prefix: str) -> api_key_pb2.ApiKey:
    return api_key_pb2.ApiKey(
        id=show(Prefix.API_KEY, key.id),
        name=key.name,
        prefix=prefix,
        scopes=sorted(key.scopes),
        role=api_key_pb2.Role.ValueType(key.role.value),
        created_at=timestamp(key.created_at),
        expires_at=timestamp(key.expires_at),
        revoked_at=timestamp(key.revoked_at),
        last_used_at=timestamp(key.last_used_at),
        ip_allow_list=[str(network) for network in key.bounds.networks],
        namespaces=key.namespaces,
        key_ids=[show(Prefix.KEY, key_id) for key_id in sorted(key.bounds.key_ids)],
        previous_secret_expires_at=timestamp(key.previous_until),
        created_by=show(_PREFIXES[key.created_by_kind], key.created_by) if key.created_by else key.created_by_kind,
    )


_PREFIXES = {
    "key": Prefix.KEY,
    "api_key": Prefix.API_KEY,
    "namespace": Prefix.NAMESPACE,
    "organization": Prefix.ORGANIZATION,
    "user": Prefix.USER,
    "invitation": Prefix.INVITATION,
    "session": Prefix.SESSION,
    "identity_provider": Prefix.IDENTITY_PROVIDER,
}


def row_to_proto(row: Row) -> audit_pb2.AuditLog:
    more = dict(row.metadata)
    if row.digest is not None:
        more["data_hash"] = describe(HashAlgorithm(row.hash) if row.hash else None, row.digest)
    if row.key_version is not None:
        more["key_version"] = str(row.key_version)
    if row.sign_mode:
        more["sign_mode"] = row.sign_mode
    if row.request_id:
        more["request_id"] = row.request_id
    resource = show(_PREFIXES[row.resource_type], row.resource_id) if row.resource_type and row.resource_id else ""
    actor = show(_PREFIXES[row.actor_type], row.actor_id) if row.actor_id else row.actor_type
    return audit_pb2.AuditLog(
        id=show(Prefix.LOG, row.id),
        event=row.event,
        key_id=resource if row.resource_type == "key" else "",
        resource_id="" if row.resource_type == "key" else resource,
        actor=actor,
        ip_address=row.ip_address or "",
        user_agent=row.user_agent or "",
        timestamp=timestamp(row.created_at),
        metadata=more,
        sequence=row.sequence,
    )


def hash_algorithm(code: int) -> HashAlgorithm | None:
    """None where the caller leaves it open. Raises InvalidField."""
    try:
        return _HASHES[code]
    except KeyError as error:
        raise errors.InvalidField("hash", "must be SHA256 or KECCAK256.") from error


def signature_format(code: int) -> SignatureFormat | None:
    """None where the caller leaves it open. Raises InvalidField."""
    try:
        return _FORMATS[code]
    except KeyError as error:
        raise errors.InvalidField("format", "must be COMPACT, RECOVERABLE or DER.") from error


def encoding(named: str) -> None:
    """Hexadecimal is the gateway's business: a server that ignored it would sign the wrong bytes."""
    if named not in ("", "base64"):
        raise errors.InvalidField(
            "encoding", "must be base64 or empty: data is bytes here; hex exists in JSON, through the POP's gateway."
        )


def ask(request: sign_pb2.SignRequest) -> Ask:
    encoding(request.encoding)
    return Ask(
        request.key_id,
        request.data,
        request.prehashed,
        hash_algorithm(request.hash) or HashAlgorithm.SHA256,
        signature_format(request.format) or SignatureFormat.COMPACT,
        request.sign_mode or None,
        request.request_id or None,
        request.key_version,
    )


def write_outcome(outcome: Outcome, answer: sign_pb2.SignResult | sign_pb2.SignResponse) -> None:
    """Write a signature into an answer; an error too, which only the answers of a batch have."""
    if isinstance(outcome, SignerError):
        if isinstance(answer, sign_pb2.SignResponse):
            raise outcome
        answer.error.CopyFrom(error_to_proto(outcome))
        return
    key = outcome.key
    answer.signature = outcome.value
    answer.public_key = key.public_key
    answer.key_version = key.version
    if outcome.format is SignatureFormat.RECOVERABLE:
        # v, which no other format carries.
        answer.recovery_id = outcome.value[64]


def error_to_proto(error: SignerError) -> errors_pb2.ItemError:
    return errors_pb2.ItemError(
        code=CODES[error.kind].value[0],
        reason=errors_pb2.ErrorReason.Value(error.reason),
        message=error.detail,
        retry_after=None if error.retry_after is None else retry_delay(error.retry_after),
    )
