"""Server reflection, v1 and v1alpha: grpcio-reflection knows only v1alpha, whose messages are v1's under another
name."""

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = reflection.SERVICE_NAME


def add_reflection(names: list[str], server: grpc.aio.Server) -> None:
    """Let clients ask for the contract of the named services, and for nothing else that this process knows."""
    shown = [*names, V1, V1ALPHA]
    servicer = reflection.aio.ReflectionServicer(shown, pool=_pool_of([*names, V1ALPHA]))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (V1, V1ALPHA):
        methods = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))


def _pool_of(names: list[str]) -> DescriptorPool:
    """The files of these services, and those that they import."""
    pool, known = DescriptorPool(), Default()
    added: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name not in added:
            added.add(file.name)
            for dependency in file.dependencies:
                add(dependency)
            pool.AddSerializedFile(file.serialized_pb)

    for name in names:
        add(known.FindFileContainingSymbol(name))
    return pool
