"""What a server process keeps of memory that it no longer needs."""

import platform
import subprocess
import sys

import pytest

AFTER_A_VERIFICATION = """
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from popsigner_server import heap
from popsigner_server.identity.hashing import hash_secret, verify_secret

def own():
    return int(re.search(r"^Anonymous:\\s+(\\d+)", Path("/proc/self/smaps_rollup").read_text(), re.M)[1])

heap.settle()
with ThreadPoolExecutor(1) as threads:
    before = own()
    hashed = threads.submit(hash_secret, "secret").result()
    assert threads.submit(verify_secret, hashed, "secret").result()
    print(own() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")
def test_a_verification_gives_its_19_mib_back() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", AFTER_A_VERIFICATION], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(ran.stdout) < 4 * 1024
