"""The memory of a server process: when its collector comes, and what goes back to the system."""

import ctypes
import gc

# <malloc.h> of glibc.
M_MMAP_THRESHOLD = -3
# Bytes from which memory is the system's own again as soon as it is free. Argon2id takes 19 MiB; a message 4 at most.
LARGE = 4 * 1024 * 1024


def settle() -> None:
    """To be called once, when the process has all that lives as long as itself."""
    _calm_the_collector()
    _give_back_large_memory()


def _calm_the_collector() -> None:
    """What start-up made lives as long as the process: do not look through it again and again. Calls make no cycles of
    ours (tests/integration/server/test_front_garbage.py), so the collector may come less often; it took a tenth of a
    call's CPU, and showed in the slowest ones.

    Changes make cycles of SQLAlchemy's. What of them a visit finds in use goes to the second generation, which is
    therefore looked through at every third one: at every twenty-first it would wait for more than an hour. All that
    lives is looked through once in hours.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 2, 100)


def _give_back_large_memory() -> None:
    """glibc would keep what an Argon2id verification has used, for each of its arenas, and where anything small has
    come to lie in it meanwhile, the next one takes another 19 MiB. Fetching it anew costs a verification 5 ms of CPU.
    Another C library than glibc is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)
