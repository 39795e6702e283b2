"""The descriptor set as Envoy's gRPC-JSON transcoder takes it."""

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet


def without_response_bodies(contract: FileDescriptorSet) -> FileDescriptorSet:
    """Return the set without the `response_body` of its HTTP rules.

    Envoy 1.40 refuses a rule that has one (but for google.api.HttpBody), so `envoy.yaml` has the filter `response_body`
    take that member out of the transcoded answer; a test holds its routes and the contract together.
    """
    transcodable = FileDescriptorSet()
    transcodable.CopyFrom(contract)
    for file in transcodable.file:
        for method in (method for service in file.service for method in service.method):
            if method.options.HasExtension(annotations_pb2.http):
                rule = method.options.Extensions[annotations_pb2.http]
                for binding in (rule, *rule.additional_bindings):
                    binding.ClearField("response_body")
    return transcodable
