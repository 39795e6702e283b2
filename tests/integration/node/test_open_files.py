"""The node's children may open as many files as the system allows."""

import subprocess
import sys

SHELLS = 512
PROGRAM = f"""
import resource, subprocess, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, ({SHELLS}, hard))
from popsigner_node.open_files import raise_limit
raise_limit()
child = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
sys.exit(subprocess.run([sys.executable, "-c", child]).returncode)
"""


def test_a_child_inherits_the_raised_limit() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    soft, hard = map(int, done.stdout.split())
    assert soft == hard
    assert soft != SHELLS
