"""The contract as its descriptor set holds it: messages, enums, services, and the comment of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

PACKAGE = "popsigner."


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One way to call an RPC over HTTP (google.api.http)."""

    service: str
    """The service's short name."""
    method: MethodDescriptorProto
    verb: str
    """In lower case."""
    path: str
    """With parameters in braces."""
    body: str
    """`*` for all fields that the path does not take, or empty."""
    response_body: str
    """The member that is the answer, or empty for all of it."""
    ordinal: int
    """0 for the binding itself, 1 and more for its additional ones."""

    @property
    def path_fields(self) -> tuple[str, ...]:
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Everything by its full name without a leading dot; the comments of fields, values and RPCs as `parent.name`."""

    messages: dict[str, DescriptorProto] = field(default_factory=dict)
    enums: dict[str, EnumDescriptorProto] = field(default_factory=dict)
    services: dict[str, ServiceDescriptorProto] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, described: FileDescriptorSet) -> "Contract":
        """described: made by protoc with --include_imports and --include_source_info."""
        contract = cls()
        for file in described.file:
            contract._read_file(file)
        return contract

    def _read_file(self, file: FileDescriptorProto) -> None:
        comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        package = f"{file.package}."
        # The first number of a path is the field of FileDescriptorProto: 4 messages, 5 enums, 6 services.
        for index, message in enumerate(file.message_type):
            self._read_message(package + message.name, message, (4, index), comments)
        for index, enum in enumerate(file.enum_type):
            self._read_enum(package + enum.name, enum, (5, index), comments)
        for index, service in enumerate(file.service):
            name = package + service.name
            self.services[name] = service
            self._comment(name, (6, index), comments)
            for place, method in enumerate(service.method):
                self._comment(f"{name}.{method.name}", (6, index, 2, place), comments)

    def _read_message(
        self, name: str, message: DescriptorProto, path: tuple[int, ...], comments: dict[tuple[int, ...], str]
    ) -> None:
        self.messages[name] = message
        self._comment(name, path, comments)
        for index, part in enumerate(message.field):
            self._comment(f"{name}.{part.name}", (*path, 2, index), comments)
        for index, nested in enumerate(message.nested_type):
            self._read_message(f"{name}.{nested.name}", nested, (*path, 3, index), comments)
        for index, enum in enumerate(message.enum_type):
            self._read_enum(f"{name}.{enum.name}", enum, (*path, 4, index), comments)

    def _read_enum(
        self, name: str, enum: EnumDescriptorProto, path: tuple[int, ...], comments: dict[tuple[int, ...], str]
    ) -> None:
        self.enums[name] = enum
        self._comment(name, path, comments)
        for index, value in enumerate(enum.value):
            self._comment(f"{name}.{value.name}", (*path, 2, index), comments)

    def _comment(self, name: str, path: tuple[int, ...], comments: dict[tuple[int, ...], str]) -> None:
        paragraphs = comments.get(path, "").strip().split("\n\n")
        text = "\n\n".join(" ".join(line.strip() for line in paragraph.splitlines()) for paragraph in paragraphs)
        if text:
            self.comments[name] = text

    def own_services(self) -> Iterator[tuple[str, ServiceDescriptorProto]]:
        """POPSigner's services, by name."""
        yield from sorted((name, service) for name, service in self.services.items() if name.startswith(PACKAGE))

    def bindings(self) -> Iterator[Binding]:
        """Every way to call an RPC over HTTP, the services by name, their RPCs in the contract's order."""
        for _, service in self.own_services():
            for method in service.method:
                if method.options.HasExtension(annotations_pb2.http):
                    rule = method.options.Extensions[annotations_pb2.http]
                    for ordinal, each in enumerate((rule, *rule.additional_bindings)):
                        yield _binding(service.name, method, each, ordinal)

    def fields(self, message: str, without: Sequence[str] = ()) -> list[FieldDescriptorProto]:
        return [part for part in self.messages[message].field if part.name not in without]


def _binding(service: str, method: MethodDescriptorProto, rule: Any, ordinal: int) -> Binding:
    verb = rule.WhichOneof("pattern")
    if verb not in ("get", "post", "put", "patch", "delete") or rule.body not in ("", "*"):
        raise ValueError(f"{service}.{method.name} has an HTTP rule that has no place in an OpenAPI document")
    return Binding(
        service=service,
        method=method,
        verb=verb,
        path=getattr(rule, verb),
        body=rule.body,
        response_body=rule.response_body,
        ordinal=ordinal,
    )
