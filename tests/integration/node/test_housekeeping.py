"""Logs that stay short, progress that survives its reader, ports that are really free."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from popsigner_node import housekeeping, ports
from popsigner_node.addresses import Addresses
from popsigner_node.errors import Exit, NodeError


def test_a_long_log_is_emptied_and_its_writer_goes_on_at_the_beginning(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        housekeeping.shorten(log, limit=100)
        assert log.stat().st_size == 100
        writer.write(b"y")
        housekeeping.shorten(log, limit=100)
        writer.write(b"after")
    assert log.read_bytes() == b"after"
    assert (tmp_path / "part.log.1").read_bytes() == b"x" * 100 + b"y"


def test_the_latest_child_is_found_and_a_childless_process_has_none() -> None:
    # A parent of its own: this process has children from other tests' fixtures.
    with subprocess.Popen(["sh", "-c", "sleep 30 & wait"]) as parent:
        while (child := housekeeping.only_child(parent.pid)) is None:
            time.sleep(0.01)
        assert housekeeping.only_child(child) is None
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_another_process_shares_by_so_reuseport_is_still_taken(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind((host, 0))
        taken.listen()
        with pytest.raises(NodeError) as failure:
            ports.require_free(host, taken.getsockname()[1], option="--port")
    assert failure.value.code is Exit.PORT_TAKEN


def test_the_urls_of_a_wildcard_or_ipv6_address_can_be_used_by_a_client() -> None:
    def url(bind: str) -> str:
        chosen = Addresses(bind=bind, http=8080, grpc=1, metrics=(2,), bao_api=3, bao_cluster=4)
        return chosen.http_url(tls=False)

    assert url("0.0.0.0") == "http://127.0.0.1:8080"
    assert url("::") == "http://[::1]:8080"
    assert url("192.0.2.7") == "http://192.0.2.7:8080"


def test_free_ports_are_all_different() -> None:
    chosen = Addresses.chosen(bind="127.0.0.1", port=0, grpc_port=None, servers=3)
    used = [chosen.http, chosen.grpc, *chosen.metrics, chosen.bao_api, chosen.bao_cluster]
    assert len(set(used)) == len(used) == 7


def test_progress_goes_on_when_its_reader_leaves() -> None:
    program = (
        "from popsigner_node.progress import Progress; import time, sys\n"
        "progress = Progress()\n"
        "progress.say('first')\n"
        "time.sleep(0.3)\n"
        "[progress.say('later') for _ in range(3)]\n"
        "print('still here', file=sys.stderr)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"first" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b"still here\n"
        assert process.wait() == 0
