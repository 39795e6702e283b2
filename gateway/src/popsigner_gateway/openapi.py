"""The OpenAPI 3.1 document, made from the contract.

python -m popsigner_gateway.openapi COMMENTED_DESCRIPTOR_SET OPENAPI_JSON

writes OPENAPI_JSON, and makes the `descriptors.binpb` beside it one that Envoy takes (see `transcoding`).
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

from popsigner_gateway.contract import Binding, Contract
from popsigner_gateway.schemas import Schema, Schemas
from popsigner_gateway.transcoding import without_response_bodies

DESCRIPTION = """\
Signing infrastructure for rollups: secp256k1 keys that live inside OpenBao and never leave it, each signature with \
its row in a durable audit trail.

The same services answer gRPC and gRPC-Web on the same port; `SignStream` exists over gRPC only. Bytes are base64, \
64-bit integers are strings, times are RFC 3339. Unknown query parameters and unknown members of a body are refused. \
Every error is a `google.rpc.Status` whose `ErrorInfo` names the exact reason. A key id in a path may be \
`namespace/name`, with the slash written as `%2F`. A person who belongs to several organizations names the one that is \
meant in the header `x-popsigner-organization`, by id or slug.
"""
BEARER = "An API key, `psk_live_…`, or the access token of a person's session."
DETAIL = "type.googleapis.com/google.rpc."


def document(described: FileDescriptorSet) -> dict[str, Any]:
    """Return the document. described: the contract with imports and source info.

    Raises ValueError for a contract that has no such document, e.g. two RPCs of one name.
    """
    contract = Contract.read(described)
    schemas = Schemas(contract)
    paths: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    for binding in contract.bindings():
        operation = _operation(binding, contract, schemas)
        if operation["operationId"] in names:
            raise ValueError(f"two operations are called {operation['operationId']}")
        names.add(operation["operationId"])
        paths.setdefault(binding.path, {})[binding.verb] = operation
    errors = _error_schemas(schemas.enum("popsigner.v1.ErrorReason"))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "POPSigner",
            "version": importlib.metadata.version("popsigner-gateway"),
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "tags": [
            {"name": service.name, "description": contract.comments.get(name, "")}
            for name, service in contract.own_services()
        ],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": BEARER},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key."},
            },
            "responses": {
                "Refused": _error("The request was refused; the reason says why."),
                "Failed": _error("The POP could not answer; nothing was released."),
            },
            "schemas": dict(sorted((errors | schemas.found).items())),
        },
    }


def _operation(binding: Binding, contract: Contract, schemas: Schemas) -> dict[str, Any]:
    method = binding.method
    request, answer = method.input_type.removeprefix("."), method.output_type.removeprefix(".")
    comment = contract.comments.get(f"popsigner.v1.{binding.service}.{method.name}", "")
    summary, _, rest = comment.partition(". ")
    operation: dict[str, Any] = {
        "operationId": method.name if binding.ordinal == 0 else f"{method.name}_{binding.ordinal + 1}",
        "tags": [binding.service],
        "summary": summary.split("\n")[0].rstrip("."),
        "description": rest.strip() or comment,
    }
    parameters = [_parameter(part, "path", request, schemas) for part in _path_fields(binding, contract, request)]
    if binding.body == "*":
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas.request(request, binding.path_fields)}},
        }
    else:
        asked = contract.fields(request, binding.path_fields)
        parameters += [_parameter(part, "query", request, schemas) for part in asked]
    if parameters:
        operation["parameters"] = parameters
    operation["responses"] = {
        "200": {
            "description": contract.comments.get(answer, "Done."),
            "content": {"application/json": {"schema": _answer(binding, contract, schemas, answer)}},
        },
        "4XX": {"$ref": "#/components/responses/Refused"},
        "5XX": {"$ref": "#/components/responses/Failed"},
    }
    return operation


def _path_fields(binding: Binding, contract: Contract, request: str) -> list[FieldDescriptorProto]:
    named = {part.name: part for part in contract.fields(request)}
    return [named[name] for name in binding.path_fields]


def _answer(binding: Binding, contract: Contract, schemas: Schemas, answer: str) -> Schema:
    for part in contract.fields(answer):
        if part.name == binding.response_body:
            return schemas.answer(part.type_name.removeprefix("."))
    found = schemas.answer(answer)
    # A stream of answers is one JSON array, written as they come.
    return {"type": "array", "items": found} if binding.method.server_streaming else found


def _parameter(part: FieldDescriptorProto, place: str, request: str, schemas: Schemas) -> dict[str, Any]:
    """A parameter; where the contract gives a field another JSON name, that one is shown and both are taken."""
    schema = schemas.field(request, part, asked=True)
    description = schema.pop("description", "")
    renamed = part.json_name != _camel_case(part.name)
    if place == "path":
        schema = {"minLength": 1} | schema
    elif renamed:
        description += f" Also taken as `{part.name}`."
    name = part.json_name if renamed else part.name
    return {"name": name, "in": place, "required": place == "path", "description": description, "schema": schema}


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


def _error(description: str) -> dict[str, Any]:
    after = {"description": "Seconds to wait before a retry, where that helps.", "schema": {"type": "integer"}}
    return {
        "description": description,
        "headers": {"retry-after": after},
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}},
    }


def _error_schemas(reason: Schema) -> dict[str, Schema]:
    text: Schema = {"type": "string"}

    def detail(kind: str, members: dict[str, Schema]) -> Schema:
        properties = {"@type": {"const": DETAIL + kind}} | members
        return {"type": "object", "properties": properties, "required": list(properties)}

    def listed(*members: str) -> Schema:
        item = {"type": "object", "properties": dict.fromkeys(members, text), "required": list(members)}
        return {"type": "array", "items": item}

    details = {
        "ErrorInfo": detail("ErrorInfo", {"reason": reason, "domain": {"const": "popsigner.com"}}),
        "BadRequest": detail("BadRequest", {"field_violations": listed("field", "description")}),
        "QuotaFailure": detail("QuotaFailure", {"violations": listed("subject", "description")}),
        "RetryInfo": detail("RetryInfo", {"retry_delay": {"type": "string", "examples": ["1s"]}}),
    }
    references = [{"$ref": f"#/components/schemas/{name}"} for name in details]
    status = {
        "type": "object",
        "description": "An error, as google.rpc.Status in JSON.",
        "properties": {
            "code": {"type": "integer", "description": "google.rpc.Code, e.g. 5 for NOT_FOUND."},
            "message": {"type": "string", "description": "One sentence for a person."},
            "details": {"type": "array", "items": {"anyOf": references}, "contains": references[0]},
        },
        "required": ["code", "message", "details"],
    }
    return details | {"Status": status}


def main() -> None:
    described, target = map(Path, sys.argv[1:])
    contract = FileDescriptorSet.FromString(described.read_bytes())
    target.write_text(json.dumps(document(contract), indent=2, ensure_ascii=False) + "\n")
    mounted = target.with_name("descriptors.binpb")
    transcodable = without_response_bodies(FileDescriptorSet.FromString(mounted.read_bytes()))
    mounted.write_bytes(transcodable.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
