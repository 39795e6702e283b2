"""Memory that is freed is overwritten in the process that the launcher starts, and it knows when it is not."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from popsigner_plugin.launcher import OVERWRITING

PROGRAM = "from popsigner_plugin.memory import freed_is_overwritten; print(freed_is_overwritten())"


def said(environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=dict(environment), capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()


def test_freed_memory_is_overwritten_in_the_launchers_environment() -> None:
    assert said({"PATH": os.environ["PATH"], **OVERWRITING}) == "True"


@pytest.mark.parametrize("left_out", sorted(OVERWRITING))
def test_each_part_of_that_environment_is_needed_and_its_lack_is_noticed(left_out: str) -> None:
    rest = {name: value for name, value in OVERWRITING.items() if name != left_out}
    assert said({"PATH": os.environ["PATH"], **rest}) == "False"


def test_a_store_of_freed_blocks_that_are_not_filled_is_noticed() -> None:
    with_store = {**OVERWRITING, "GLIBC_TUNABLES": OVERWRITING["GLIBC_TUNABLES"].split(":")[0]}
    assert said({"PATH": os.environ["PATH"], **with_store}) == "False"
