"""JSON Schemas (2020-12, as OpenAPI 3.1 has them) of the contract's messages in their proto3 JSON mapping."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

from popsigner_gateway.contract import Contract
from popsigner_gateway.limits import LIMITS, REQUIRED

Schema = dict[str, Any]

INTEGERS: dict[int, Schema] = {
    Field.TYPE_INT32: {"type": "integer", "minimum": -(1 << 31), "maximum": (1 << 31) - 1},
    Field.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": (1 << 32) - 1},
    # JSON numbers lose precision beyond 2^53.
    Field.TYPE_INT64: {"type": "string", "pattern": "^-?[0-9]{1,19}$"},
    Field.TYPE_UINT64: {"type": "string", "pattern": "^[0-9]{1,20}$"},
}
SCALARS: dict[int, Schema] = INTEGERS | {
    Field.TYPE_BOOL: {"type": "boolean"},
    Field.TYPE_STRING: {"type": "string"},
    Field.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
WELL_KNOWN: dict[str, Schema] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Duration": {"type": "string", "pattern": "^-?[0-9]+([.][0-9]{1,9})?s$"},
}


def reference(full_name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{short(full_name)}"}


def short(full_name: str) -> str:
    """`.popsigner.v1.Key.State` becomes `KeyState`."""
    return "".join(part for part in full_name.split(".") if part[:1].isupper())


class Schemas:
    """The schemas that a document refers to; asking for one puts it, and what it refers to, into `found`."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.found: dict[str, Schema] = {}
        unknown = sorted(name for name in (*LIMITS, *REQUIRED) if not self._names_a_field(name))
        if unknown:
            raise ValueError(f"limits.py names fields that the contract does not have: {', '.join(unknown)}")

    def _names_a_field(self, name: str) -> bool:
        message, _, field = name.partition(".")
        described = self._contract.messages.get(f"popsigner.v1.{message}")
        return described is not None and any(part.name == field for part in described.field)

    def request(self, message: str, path_fields: Iterable[str]) -> Schema:
        """A reference to the body of a request, without what its path says. message: its full name."""
        left_out = tuple(path_fields)
        name = short(message) + ("Body" if left_out else "")
        if name not in self.found:
            self.found[name] = {}
            self.found[name] = self._object(message, left_out, asked=True)
        return {"$ref": f"#/components/schemas/{name}"}

    def answer(self, message: str) -> Schema:
        """A reference to a message of an answer. message: its full name."""
        return self._message(message, asked=False)

    def _message(self, message: str, *, asked: bool) -> Schema:
        if short(message) not in self.found:
            self.found[short(message)] = {}
            self.found[short(message)] = self._object(message, (), asked=asked)
        return reference(message)

    def _object(self, message: str, left_out: tuple[str, ...], *, asked: bool) -> Schema:
        fields = self._contract.fields(message, left_out)
        schema: Schema = {"type": "object"}
        if comment := self._contract.comments.get(message):
            schema["description"] = comment
        schema["properties"] = {part.name: self.field(message, part, asked=asked) for part in fields}
        # The transcoder prints every field of an answer but absent messages and absent optional ones.
        required = [
            part.name
            for part in fields
            if (f"{short(message)}.{part.name}" in REQUIRED if asked else self._is_always_printed(part))
        ]
        if required:
            schema["required"] = required
        if asked:
            schema["additionalProperties"] = False
        return schema

    def _is_always_printed(self, part: Field) -> bool:
        repeated = part.label == Field.LABEL_REPEATED
        return repeated or (part.type != Field.TYPE_MESSAGE and not part.proto3_optional)

    def field(self, message: str, part: Field, *, asked: bool) -> Schema:
        """The schema of one field, with its comment and its limits. asked: in a request, not in an answer."""
        limits = LIMITS.get(f"{short(message)}.{part.name}", {})
        entry = self._contract.messages.get(part.type_name.removeprefix("."))
        if entry is not None and entry.options.map_entry:
            value = self._value(entry.field[1], asked=asked)
            schema: Schema = {"type": "object", "additionalProperties": value} | limits
        elif part.label == Field.LABEL_REPEATED:
            schema = {"type": "array", "items": self._value(part, asked=asked)} | limits
        else:
            schema = self._value(part, asked=asked) | limits
        comment = self._contract.comments.get(f"{message}.{part.name}")
        return schema | ({"description": comment} if comment else {})

    def _value(self, part: Field, *, asked: bool) -> Schema:
        if part.type == Field.TYPE_ENUM:
            return self.enum(part.type_name.removeprefix("."))
        if part.type == Field.TYPE_MESSAGE:
            known = WELL_KNOWN.get(part.type_name)
            return dict(known) if known else self._message(part.type_name.removeprefix("."), asked=asked)
        return dict(SCALARS[part.type])

    def enum(self, name: str) -> Schema:
        values = [value.name for value in self._contract.enums[name].value]
        meanings = [f"- `{value}`: {self._contract.comments.get(f'{name}.{value}', '')}" for value in values]
        description = "\n".join([self._contract.comments.get(name, ""), "", *meanings])
        self.found[short(name)] = {"type": "string", "enum": values, "description": description}
        return reference(name)
