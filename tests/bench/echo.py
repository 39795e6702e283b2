"""The measure for Sign: a bare grpc.aio server that answers a SignRequest at once, in a process of its own."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from popsigner_server.gen.popsigner.v1 import sign_pb2


async def _answer(request: sign_pb2.SignRequest, context: object) -> sign_pb2.SignResponse:
    """64 bytes and a public key's length of text, like Sign."""
    return sign_pb2.SignResponse(signature=bytes(64), public_key="02" * 33, key_version=1)


async def _serve() -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        _answer, sign_pb2.SignRequest.FromString, sign_pb2.SignResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("popsigner.v1.SignService", {"Sign": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


@contextmanager
def echo_server() -> Iterator[str]:
    """The address of a running echo server."""
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.echo"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(timeout=10)


if __name__ == "__main__":
    asyncio.run(_serve())
