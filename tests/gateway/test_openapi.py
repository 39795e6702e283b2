"""The OpenAPI document is valid, complete against the contract, and true of what Envoy answers."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

import popsigner_gateway
from popsigner_gateway.openapi import document
from popsigner_server.gen.popsigner.v1 import errors_pb2
from tests.gateway.proxy import Proxy
from tests.gateway.test_json import MODULES

PACKAGE = Path(popsigner_gateway.__file__).parent
DOCUMENT: dict[str, Any] = json.loads((PACKAGE / "openapi.json").read_text())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference refers to; what the reference's neighbours add stays."""
    target = schema.get("$ref")
    if target is None:
        return schema
    place: Any = DOCUMENT
    for step in target.removeprefix("#/").split("/"):
        place = place[step]
    return {**place, **{key: value for key, value in schema.items() if key != "$ref"}}


def methods() -> Iterator[MethodDescriptor]:
    for module in MODULES:
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def bindings() -> Iterator[tuple[MethodDescriptor, str, str, Any]]:
    """Each RPC with each verb and path that it is bound to."""
    for method in methods():
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        for binding in (rule, *rule.additional_bindings):
            if verb := binding.WhichOneof("pattern"):
                yield method, verb, getattr(binding, verb), binding


def test_it_is_a_valid_openapi_3_1_document() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere_and_every_schema_is_referred_to() -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    found = set(references(DOCUMENT))
    assert all(resolved({"$ref": target}) for target in found)
    assert {f"#/components/schemas/{name}" for name in SCHEMAS} <= found


def test_every_rpc_with_a_binding_is_in_it_and_nothing_else() -> None:
    expected = {(verb, path) for _, verb, path, _ in bindings()}
    assert {(verb, path) for path, item in DOCUMENT["paths"].items() for verb in item} == expected
    unbound = {method.name for method in methods()} - {method.name for method, *_ in bindings()}
    assert unbound == {"SignStream"}, "an RPC that is not a stream has a binding"
    operations = [operation["operationId"] for item in DOCUMENT["paths"].values() for operation in item.values()]
    assert len(set(operations)) == len(operations)


def shape(field: FieldDescriptor) -> dict[str, Any]:
    """The keywords that the proto3 JSON mapping asks of a single value of this field."""
    kinds: dict[int, dict[str, Any]] = {
        FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
        FieldDescriptor.TYPE_STRING: {"type": "string"},
        FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
        FieldDescriptor.TYPE_UINT32: {"type": "integer"},
        FieldDescriptor.TYPE_INT32: {"type": "integer"},
        FieldDescriptor.TYPE_UINT64: {"type": "string"},
        FieldDescriptor.TYPE_ENUM: {"type": "string"},
    }
    if field.message_type is None:
        return kinds[field.type]
    names = {"google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
             "google.protobuf.Duration": {"type": "string"}}  # fmt: skip
    return names.get(field.message_type.full_name, {"type": "object"})


def check_field(field: FieldDescriptor, schema: dict[str, Any]) -> None:
    schema = resolved(schema)
    assert schema.get("description"), f"{field.full_name} says nothing of itself"
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        assert schema["type"] == "object"
        check = resolved(schema["additionalProperties"])
        expected = shape(field.message_type.fields_by_name["value"])
    elif field.is_repeated:
        assert schema["type"] == "array"
        check, expected = resolved(schema["items"]), shape(field)
    else:
        check, expected = schema, shape(field)
    assert {key: check.get(key) for key in expected} == expected, field.full_name
    if field.enum_type is not None:
        assert check["enum"] == list(field.enum_type.values_by_name)
    elif check["type"] == "object" and field.message_type is not None and not field.message_type.GetOptions().map_entry:
        check_object(field.message_type, check, ())


def check_object(message: Descriptor, schema: dict[str, Any], left_out: tuple[str, ...]) -> None:
    assert set(schema["properties"]) == {field.name for field in message.fields} - set(left_out), message.full_name
    for field in message.fields:
        if field.name not in left_out:
            check_field(field, schema["properties"][field.name])


@pytest.mark.parametrize(("method", "verb", "path", "binding"), list(bindings()))
def test_an_operation_has_every_field_of_its_request_and_answer(
    method: MethodDescriptor, verb: str, path: str, binding: Any
) -> None:
    operation = DOCUMENT["paths"][path][verb]
    in_path = tuple(part[1:-1] for part in path.split("/") if part.startswith("{"))
    parameters = {(each["in"], each["name"]): each for each in operation.get("parameters", [])}
    expected = {("path", name) for name in in_path}
    if binding.body:
        body = resolved(operation["requestBody"]["content"]["application/json"]["schema"])
        assert body["additionalProperties"] is False
        check_object(method.input_type, body, in_path)
    else:
        others = [field for field in method.input_type.fields if field.name not in in_path]
        # page_size is shown under the JSON name that the contract gives it.
        expected |= {("query", "limit" if field.name == "page_size" else field.name) for field in others}
    assert set(parameters) == expected
    for each in parameters.values():
        field = method.input_type.fields_by_name["page_size" if each["name"] == "limit" else each["name"]]
        check_field(field, each["schema"] | {"description": each["description"]})
    answer = resolved(operation["responses"]["200"]["content"]["application/json"]["schema"])
    if method.server_streaming:
        assert answer["type"] == "array"
        answer = resolved(answer["items"])
    member = method.output_type.fields_by_name.get(binding.response_body)
    check_object(member.message_type if member and member.message_type else method.output_type, answer, ())
    assert set(operation["responses"]) == {"200", "4XX", "5XX"}
    assert operation["summary"]


def test_the_error_schema_names_every_reason() -> None:
    assert SCHEMAS["ErrorReason"]["enum"] == list(errors_pb2.ErrorReason.keys())


def test_the_limits_of_the_contract_can_be_checked() -> None:
    assert SCHEMAS["BatchSignRequest"]["properties"]["requests"]["maxItems"] == 256
    compressed = SCHEMAS["Key"]["properties"]["public_key"]
    jsonschema.validate("02" + "ab" * 32, compressed)
    for wrong in ("02" + "ab" * 31, "04" + "ab" * 32, "02" + "AB" * 32):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, compressed)


def test_its_version_is_the_packages() -> None:
    assert DOCUMENT["info"]["version"] == importlib.metadata.version("popsigner-gateway")


def described(tmp_path: Path) -> descriptor_pb2.FileDescriptorSet:
    """The contract with its comments, as protoc reads it now."""
    root, target = PACKAGE.parents[2], tmp_path / "commented.binpb"
    site = Path(annotations_pb2.__file__).parents[2]
    includes = [f"-I{root / 'proto'}", f"-I{site}", f"-I{site / 'grpc_tools' / '_proto'}"]
    sources = sorted(str(path) for path in (root / "proto" / "popsigner" / "v1").glob("*.proto"))
    flags = ["--include_imports", "--include_source_info", f"--descriptor_set_out={target}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *includes, *flags, *sources], check=True)
    return descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())


def test_it_is_what_the_contract_makes_the_same_each_time(tmp_path: Path) -> None:
    contract = described(tmp_path)
    made = document(contract)
    assert json.dumps(made) == json.dumps(document(contract)) == json.dumps(DOCUMENT), "run `make proto`"


def test_what_is_internal_is_not_in_it() -> None:
    assert "LoginService" not in json.dumps(DOCUMENT)
    assert b"popsigner.internal" not in (PACKAGE / "descriptors.binpb").read_bytes()


def test_a_new_rpc_appears_and_a_limit_of_a_field_that_is_gone_is_refused(tmp_path: Path) -> None:
    contract = described(tmp_path)
    (keys,) = [file for file in contract.file if file.name == "popsigner/v1/key.proto"]
    added = keys.service[0].method.add()
    added.CopyFrom(keys.service[0].method[0])
    added.name = "GuessKey"
    added.options.Extensions[annotations_pb2.http].post = "/v1/keys/guess"
    assert "post" in document(contract)["paths"]["/v1/keys/guess"]

    (request,) = [message for message in keys.message_type if message.name == "CreateKeyRequest"]
    del request.field[0]
    with pytest.raises(ValueError, match=r"CreateKeyRequest\.name"):
        document(contract)


async def test_what_envoy_answers_conforms_to_it(envoy: Proxy, key_id: str) -> None:
    calls = [
        ("GET", f"/v1/keys/{key_id}", "/v1/keys/{key_id}", None),
        ("GET", "/v1/keys", "/v1/keys", None),
        ("GET", "/v1/audit/logs", "/v1/audit/logs", None),
        ("POST", f"/v1/keys/{key_id}/sign", "/v1/keys/{key_id}/sign", {"data": "AAAA"}),
        ("POST", "/v1/sign/batch", "/v1/sign/batch", {"requests": [{"key_id": key_id}, {"key_id": "none"}]}),
        ("GET", "/v1/keys/none", "/v1/keys/{key_id}", None),
        ("POST", "/v1/keys", "/v1/keys", {"nope": 1}),
        ("GET", "/v1/billing/usage", "/v1/billing/usage", None),
        ("GET", "/v1/me/export", "/v1/me/export", None),
        ("GET", "/v1/organization", "/v1/organization", None),
        ("PATCH", "/v1/members/user_" + "0" * 26, "/v1/members/{user_id}", {"role": "OWNER"}),
    ]
    for method, path, template, body in calls:
        answer = await envoy.ask(method, path, body)
        documented = "200" if answer.status == 200 else f"{answer.status // 100}XX"
        response = resolved(DOCUMENT["paths"][template][method.lower()]["responses"][documented])
        schema = response["content"]["application/json"]["schema"] | {"components": DOCUMENT["components"]}
        jsonschema.validate(answer.json, schema, cls=jsonschema.Draft202012Validator)
