"""Server reflection, v1 and v1alpha: grpcio-reflection knows only v1alpha, whose messages are v1's under another
name."""

from collections.abc import AsyncIterator

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from popsigner_server.transport.body import Body
from popsigner_server.transport.exchange import Exchange, Method

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = reflection.SERVICE_NAME


def reflected(names: list[str]) -> dict[bytes, Method]:
    """The methods that let clients ask for the contract of the named services, and for nothing else that this process
    knows; by their paths."""
    servicer = reflection.aio.ReflectionServicer([*names, V1, V1ALPHA], pool=_pool_of([*names, V1ALPHA]))

    async def serve(exchange: Exchange) -> None:
        # Its published types forget that it is a generator.
        async for answer in servicer.ServerReflectionInfo(_asked(exchange.body), exchange):  # type: ignore[attr-defined]
            await exchange.write(answer)

    return {f"/{name}/ServerReflectionInfo".encode(): Method(serve) for name in (V1, V1ALPHA)}


async def _asked(body: Body) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    async for raw in body:
        yield reflection_pb2.ServerReflectionRequest.FromString(raw)


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
