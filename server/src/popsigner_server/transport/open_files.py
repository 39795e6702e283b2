"""How many connections a server process has room for."""

import contextlib
import resource
from typing import Final

# Files that are no caller's: to the database and the vault, the log, sockets that listen, what a command opens.
OWN: Final = 256
# As many as the gateway takes (envoy.yaml); one costs some 20 KB.
MOST: Final = 16_384


def connections() -> int:
    """As many as this process may open files, less those that it needs itself.

    Raises the limit as far as the system lets it: the 1 024 that shells give are for programs that use select().
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return MOST if soft == resource.RLIM_INFINITY else min(MOST, max(soft - OWN, soft // 2))
