"""TCP ports on this machine."""

import errno
import socket

from popsigner_node.errors import Exit, NodeError


def free(count: int) -> list[int]:
    """`count` different loopback ports that nobody uses now. Somebody may take one before we do; a start then fails."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def require_free(host: str, port: int, *, option: str) -> None:
    """Raise NodeError when `host:port` cannot be listened on; `option` is what chooses another.

    The test is needed: Envoy and the server listen with SO_REUSEPORT, so the kernel would let them share the port with
    a stranger of the same user and hand each a part of the calls.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            raise NodeError(
                f"No permission to listen on port {port}: ports below 1024 are root's; choose another with {option}.",
                code=Exit.NO_PERMISSION,
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise NodeError(
                    f"Port {port} on {host} is already taken by another program: stop it, or choose another port with"
                    f" {option}.",
                    code=Exit.PORT_TAKEN,
                ) from None
            raise NodeError(f"Cannot listen on {host}:{port}: {error.strerror}.") from None
