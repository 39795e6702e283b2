"""A POP from its first start to its last, as `popsigner up` runs it."""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pop import Pop

PARTS = ("postgres", "openbao", "server", "web", "envoy")


@pytest.fixture(scope="module")
def pop() -> Iterator[Pop]:
    with Pop.started() as pop:
        yield pop


def call(pop: Pop, path: str, body: object, *, within: float = 10.0) -> Any:
    """The answer; asked again, as a client should, while the POP says that it is not available (503)."""
    request = urllib.request.Request(  # noqa: S310 - the POP's own address
        pop.http + path,
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json", "x-api-key": pop.api_key},
    )
    deadline = time.monotonic() + within
    failure = "none"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
                return json.load(answer)
        except urllib.error.HTTPError as error:
            failure = f"{error.code} {error.read().decode()}"
            if error.code != 503:
                break
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            failure = str(error)
        time.sleep(0.05)
    raise AssertionError(f"{path} is not answered within {within:.1f} s: {failure}\n{pop.report()}")


def sign(pop: Pop, key_id: str, *, within: float = 10.0) -> str:
    """The signature of a fixed message."""
    return str(call(pop, f"/v1/keys/{key_id}/sign", {"data": "SGVsbG8="}, within=within)["signature"])


def _gone(pids: dict[str, int], *, within: float = 5.0) -> bool:
    deadline = time.monotonic() + within
    while any(_running(pid) for pid in pids.values()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_the_first_start_says_everything_that_a_script_needs(pop: Pop) -> None:
    ready = pop.ready()
    assert ready["http"].startswith("http://127.0.0.1:")
    assert ready["grpc"].startswith("127.0.0.1:")
    assert ready["grpc_socket"].startswith("unix:///")
    assert ready["organization"].startswith("org_")
    assert ready["api_key"].startswith("psk_live_")
    assert ready["data_dir"] == str(pop.data_dir)
    assert set(PARTS) <= set(ready["processes"])
    assert all(_running(pid) for pid in ready["processes"].values())


def test_the_first_start_shows_the_key_and_a_curl_that_signs(pop: Pop) -> None:
    printed = pop.output.read_text()
    assert pop.api_key in printed
    assert pop.organization in printed
    curl = printed[printed.index("  curl ") :]
    done = subprocess.run(["sh", "-c", curl], capture_output=True, text=True, check=True, timeout=30)
    assert '"signature"' in done.stdout


def test_only_the_owner_can_read_what_holds_a_secret(pop: Pop) -> None:
    assert stat.S_IMODE(pop.data_dir.stat().st_mode) == 0o700
    secrets = [pop.ready_file, *(pop.data_dir / "openbao" / name for name in ("unseal.key", "server-secret-id"))]
    assert [stat.S_IMODE(path.stat().st_mode) for path in secrets] == [0o600] * 3
    for path in pop.data_dir.rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0, path


def test_no_secret_is_in_an_argument_list_an_environment_or_a_log(pop: Pop) -> None:
    secret_id = (pop.data_dir / "openbao" / "server-secret-id").read_text()
    unseal_key = (pop.data_dir / "openbao" / "unseal.key").read_bytes()
    secrets = [secret_id.encode(), pop.api_key.encode(), unseal_key, unseal_key.hex().encode()]
    places = [Path(f"/proc/{pid}/{name}") for pid in pop.processes.values() for name in ("cmdline", "environ")]
    for place in [*places, *(pop.data_dir / "logs").iterdir(), pop.data_dir / "openbao" / "audit.log"]:
        content = place.read_bytes()
        assert not [secret for secret in secrets if secret in content], place


def test_keys_and_data_survive_a_stop_and_a_start(pop: Pop) -> None:
    key = call(pop, "/v1/keys", {"name": "survivor"})
    signature = sign(pop, key["id"])
    organization, pids = pop.organization, pop.processes
    assert pop.stop() == 0
    assert _gone(pids)
    assert not pop.ready_file.exists()
    pop.start()
    assert "api_key" not in pop.ready()
    assert pop.api_key not in pop.output.read_text()
    assert pop.organization == organization
    assert sign(pop, key["id"]) == signature


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_killed_is_back_within_ten_seconds_three_times_in_a_row(pop: Pop, name: str) -> None:
    key = call(pop, "/v1/keys", {"name": f"while-{name}-dies"})
    for _ in range(3):
        old = pop.processes[name]
        began = time.monotonic()
        pop.kill(name)
        sign(pop, key["id"], within=10 - (time.monotonic() - began))
        assert pop.processes[name] != old
        assert not _running(old)
        assert _running(pop.processes[name])


def test_the_engine_that_is_killed_signs_again_and_the_ready_file_knows_its_process(pop: Pop) -> None:
    key = call(pop, "/v1/keys", {"name": "while-the-engine-dies"})
    for _ in range(3):
        old = pop.processes["plugin"]
        pop.kill("plugin")
        sign(pop, key["id"])
        deadline = time.monotonic() + 3
        while pop.processes.get("plugin", old) == old:
            assert time.monotonic() < deadline, pop.report()
            time.sleep(0.05)
        assert _running(pop.processes["plugin"])


def test_a_node_that_is_killed_leaves_no_process_and_its_data_directory_starts_again(pop: Pop) -> None:
    assert pop.process is not None
    key = call(pop, "/v1/keys", {"name": "orphan"})
    signature = sign(pop, key["id"])
    pids = pop.processes
    pop.process.kill()
    pop.process.wait()
    assert _gone(pids)
    pop.start()
    assert sign(pop, key["id"]) == signature


def test_a_node_that_is_killed_can_be_started_again_at_once(pop: Pop) -> None:
    assert pop.process is not None
    pop.process.kill()
    pop.process.wait()
    pop.start()
    pop.wait_until_serving()


def test_ctrl_c_stops_in_order_although_the_terminal_sends_it_to_the_whole_group(pop: Pop) -> None:
    assert pop.process is not None
    pids = pop.processes
    os.killpg(pop.process.pid, signal.SIGINT)
    assert pop.process.wait(timeout=40) == 0
    assert _gone(pids)
    log = (pop.data_dir / "logs" / "postgres.log").read_text()
    assert "database system is shut down" in log.splitlines()[-1]
    pop.start()


def test_a_stop_while_it_starts_leaves_no_process_and_a_directory_that_starts() -> None:
    with Pop.made() as pop:
        for pause in (0.8, 2.5):
            process = pop.launch()
            time.sleep(pause)
            record = pop.data_dir / "processes.json"
            pids = {
                name: entry["pid"]
                for name, entry in (json.loads(record.read_text())["processes"] if record.exists() else {}).items()
            }
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=40) in (0, -signal.SIGTERM), pop.report()
            assert _gone(pids)
            if (shown := re.search(r"shown this once: (psk_live_\w+)", pop.output.read_text())) is not None:
                pop.api_key = shown[1]
        pop.start()
        assert sign(pop, call(pop, "/v1/keys", {"name": "after-all"})["id"])


def test_a_data_directory_with_a_long_path_works() -> None:
    with Pop.made() as pop:
        pop.data_dir = pop.data_dir / ("long-" * 30)
        pop.start()
        assert sign(pop, call(pop, "/v1/keys", {"name": "far-down"})["id"])
        sockets = Path(pop.grpc_socket.removeprefix("unix://")).parent
        assert not sockets.is_relative_to(pop.data_dir)
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert pop.stop() == 0
        assert not sockets.exists()


def test_a_disk_that_fills_up_is_named_and_the_pop_is_back_when_there_is_room() -> None:
    mount = 'mkdir -p "$0" && mount -t tmpfs -o size=400m none "$0" && exec "$@"'
    with Pop.made() as pop:
        pop.prefix = ["unshare", "-rm", "sh", "-c", mount, str(pop.data_dir)]
        pop.start()
        assert pop.process is not None
        key = call(pop, "/v1/keys", {"name": "on-a-small-disk"})
        ballast = Path(f"/proc/{pop.process.pid}/root{pop.data_dir}/ballast")
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
        os.kill(pop.processes["postgres"], signal.SIGKILL)
        deadline = time.monotonic() + 10
        while f"The disk at {pop.data_dir}" not in pop.output.read_text():
            assert time.monotonic() < deadline, pop.report()
            time.sleep(0.1)
        assert pop.process.poll() is None
        ballast.unlink()
        assert sign(pop, key["id"], within=20)
        assert pop.stop() == 0
