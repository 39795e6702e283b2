"""The server's health check: exit with 0 if it says SERVING (grpc.health.v1) on the given port, 9090 by default."""

import sys

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

PORT = 9090


def main() -> int:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else PORT
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        try:
            answer = check(HealthCheckRequest(), timeout=4)
        except grpc.RpcError:
            return 1
    return 0 if answer.status == HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
