"""Ties a child process to its parent: `python -I -S lifeline.py PARENT SIGNAL IDENTITY FOLDER COMMAND...`.

The kernel sends the child SIGNAL when the parent dies by whatever means, SIGKILL included (prctl(2), PR_SET_PDEATHSIG).
The call belongs between fork and exec; Python's `preexec_fn` is not safe in a program with threads, hence this small
program in between, which replaces itself by COMMAND. It imports nothing outside the standard library.

IDENTITY is one of
    self       keep the user
    namespace  as root: become uid 65534 of a fresh user namespace in which that uid stands for root outside. The files
               stay root's and need no chown. PostgreSQL refuses to run as uid 0, and this is not uid 0 for it.
    nobody     as root where the kernel forbids user namespaces: drop to uid and gid 65534 for good

FOLDER is where COMMAND works; `.` stays where the parent is.
"""

import ctypes
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path

NOBODY = 65534
_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000


class Identity(StrEnum):
    """Whom a child process runs as."""

    SELF = "self"
    NAMESPACE = "namespace"
    NOBODY = "nobody"


def tied(
    command: list[str],
    *,
    death_signal: signal.Signals,
    identity: Identity = Identity.SELF,
    folder: Path = Path(),
) -> list[str]:
    """The argument list that runs `command` in `folder` as a child of this very process and not longer than it lives.

    The parent is the calling thread in the kernel's eyes, so start the result from a thread that lives as long as the
    process: the main thread.
    """
    own = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death_signal)), identity.value, str(folder)]
    return [*own, *command]


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _become(identity: Identity, libc: ctypes.CDLL) -> None:
    if identity is Identity.NAMESPACE:
        uid, gid = os.geteuid(), os.getegid()
        _checked(libc.unshare(_CLONE_NEWUSER), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")
    elif identity is Identity.NOBODY:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def main(arguments: list[str]) -> None:
    parent, death_signal, identity, folder, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    # The kernel forgets the death signal when a process changes its credentials, so the identity comes first.
    _become(Identity(identity), libc)
    _checked(libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0), "prctl")
    if os.getppid() != int(parent):
        # The parent died before the call above: nobody is left to send the signal.
        raise SystemExit(1)
    os.chdir(folder)
    os.execvp(command[0], command)  # noqa: S606 - replacing itself by the command is the purpose; no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
