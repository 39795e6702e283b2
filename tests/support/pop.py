"""A whole POP for tests: `popsigner up` as a child process, on free ports and a data directory of its own.

@pytest.fixture(scope="session")
def pop() -> Iterator[Pop]:
    with Pop.started() as pop:
        yield pop

pop.http, pop.grpc, pop.grpc_socket, pop.api_key, pop.organization      where it is and how to get in
pop.kill("openbao"); pop.wait_until_serving()                           SIGKILL, and back again
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grpc

_SERVING = b"\x08\x01"
_POLL = 0.02


class Pop:
    """One data directory and, while it runs, its node. Start it from the main thread."""

    def __init__(
        self, *, home: Path, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = home / "data"
        self.ready_file = home / "ready.json"
        self.output = home / "output"
        self.options = list(options)
        self.prefix: list[str] = []  # what the node is started by, e.g. unshare
        self.environment = dict(environment or {})
        self.api_key = ""
        self.seconds_to_start = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def made(cls, *, options: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Iterator[Self]:
        """A POP that is not started yet; stopped and removed at the end."""
        home = Path(tempfile.mkdtemp(prefix="pop-", dir="/tmp"))
        pop = cls(home=home, options=options, environment=environment)
        try:
            yield pop
        finally:
            pop.stop()
            shutil.rmtree(home, ignore_errors=True)

    @classmethod
    @contextmanager
    def started(cls, *, options: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Iterator[Self]:
        """A POP that serves; stopped and removed at the end. options: e.g. ["--servers", "3"]."""
        with cls.made(options=options, environment=environment) as pop:
            pop.start()
            yield pop

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the node without waiting for anything."""
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "popsigner_node",
            "--port",
            "0",
            "--data-dir",
            str(self.data_dir),
        ]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--ready-file", str(self.ready_file), *self.options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                start_new_session=True,
            )
        return self.process

    def start(self, *, timeout: float = 60.0) -> None:
        """Start the node and wait until its ready file is there; the first start's API key is kept in `api_key`."""
        self.ready_file.unlink(missing_ok=True)
        began = time.monotonic()
        process = self.launch()
        while not self.ready_file.exists():
            assert process.poll() is None, f"the node ended with {process.returncode}:\n{self.report()}"
            assert time.monotonic() - began < timeout, f"the node does not serve:\n{self.report()}"
            time.sleep(_POLL)
        self.seconds_to_start = time.monotonic() - began
        self.api_key = self.ready().get("api_key", self.api_key)

    def stop(self, *, timeout: float = 40.0) -> int:
        """SIGTERM, wait, return the exit code; 0 when it does not run."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=timeout)
        self.process = None
        return code

    def ready(self) -> dict[str, Any]:
        """The ready file as it is now."""
        content: dict[str, Any] = json.loads(self.ready_file.read_text())
        return content

    @property
    def http(self) -> str:
        """`http://127.0.0.1:PORT`, Envoy's public port."""
        return str(self.ready()["http"])

    @property
    def grpc(self) -> str:
        """`127.0.0.1:PORT`, the server's own loopback gRPC."""
        return str(self.ready()["grpc"])

    @property
    def grpc_socket(self) -> str:
        """`unix:///…/server.sock`."""
        return str(self.ready()["grpc_socket"])

    @property
    def organization(self) -> str:
        return str(self.ready()["organization"])

    @property
    def processes(self) -> dict[str, int]:
        """Name to process id now: postgres, openbao, plugin, server (server-2, …), envoy."""
        return dict(self.ready()["processes"])

    def kill(self, name: str, *, timeout: float = 10.0) -> float:
        """SIGKILL a part and wait until another process has its place; returns the seconds that took.

        The engine (`plugin`) is the exception: OpenBao starts it again when the next request needs it.
        """
        old = self.processes[name]
        began = time.monotonic()
        os.kill(old, signal.SIGKILL)
        while name != "plugin" and self.processes.get(name, old) == old:
            assert time.monotonic() - began < timeout, f"{name} was not started again:\n{self.report()}"
            time.sleep(_POLL)
        return time.monotonic() - began

    def wait_until_serving(self, *, timeout: float = 10.0) -> float:
        """Wait until the server says SERVING on its own gRPC address; returns the seconds that took."""
        began = time.monotonic()
        while not self.serving():
            assert time.monotonic() - began < timeout, f"the POP does not serve:\n{self.report()}"
            time.sleep(_POLL)
        return time.monotonic() - began

    def serving(self) -> bool:
        with grpc.insecure_channel(self.grpc) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check", request_serializer=bytes, response_deserializer=bytes
            )
            try:
                return bool(check(b"", timeout=2) == _SERVING)
            except grpc.RpcError:
                return False

    def report(self) -> str:
        """What the node printed and the end of each part's log, for a failing test."""
        logs = sorted((self.data_dir / "logs").glob("*.log"))
        parts = [f"--- node\n{self.output.read_text()}"]
        parts += [f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs]
        return "\n".join(parts)
