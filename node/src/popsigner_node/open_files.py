"""The limit of open files, which the node's children inherit."""

import contextlib
import resource


def raise_limit() -> None:
    """Let them open as many as the system allows: the 1 024 that shells give are for programs that use select(), and
    each connection to the gateway is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
