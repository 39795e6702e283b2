"""The popsigner command, which kills itself at a named step. Nothing of it is in the product: its doors are wrapped.

python -m tests.integration.sdk.dying STEP migrate import …   # dies by SIGKILL at the step, or ends as the command does

Steps: `<Method> unsent`, `sent` and `answered` of each call to the POP; `write n half`, `fsync n`, `link n` and
`unlink n` of the key files, before the operation, and with ` done` after it. With POPSIGNER_STEPS, a file, it writes
down those that it takes.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from popsigner.carrier import Carrier
from popsigner.cli import main
from popsigner.keyfiles import files

# Long enough that the request is written.
SENT = 0.05


class Steps:
    """Ends the process at one of them."""

    def __init__(self, last: str) -> None:
        self._last = last
        self._counts: dict[str, int] = {}
        self._notes = os.environ.get("POPSIGNER_STEPS")

    def reach(self, name: str) -> None:
        if self._notes:
            with open(self._notes, "a") as notes:
                notes.write(name + "\n")
        if name == self._last:
            # Nothing that was buffered leaves, and no lock is given back.
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_calls(self) -> None:
        perform = Carrier.perform

        def watched(carrier: Carrier, call: Any) -> Any:
            name = call.rpc.path.rpartition("/")[2]
            self.reach(f"{name} unsent")
            if self._last == f"{name} sent":
                threading.Thread(target=perform, args=(carrier, call), daemon=True).start()
                time.sleep(SENT)
            self.reach(f"{name} sent")
            try:
                return perform(carrier, call)
            finally:
                self.reach(f"{name} answered")

        Carrier.perform = watched  # type: ignore[method-assign,assignment]

    def watch_files(self) -> None:
        write = files._write

        def halved(descriptor: int, content: Any) -> None:
            number = self._count("write")
            half = len(content) // 2
            write(descriptor, content[:half])
            self.reach(f"write {number} half")
            write(descriptor, content[half:])

        files._write = halved
        os.fsync = self._around("fsync", os.fsync)
        os.link = self._around("link", os.link)
        Path.unlink = self._around("unlink", Path.unlink)  # type: ignore[method-assign]

    def _around(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            number = self._count(name)
            self.reach(f"{name} {number}")
            result = operation(*args, **kwargs)
            self.reach(f"{name} {number} done")
            return result

        return watched

    def _count(self, name: str) -> int:
        self._counts[name] = self._counts.get(name, 0) + 1
        return self._counts[name]


if __name__ == "__main__":
    steps = Steps(sys.argv.pop(1))
    steps.watch_calls()
    steps.watch_files()
    main()
