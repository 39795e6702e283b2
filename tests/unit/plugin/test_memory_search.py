"""The search that the memory tests rely on finds what is there: every spelling, in memory and in files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.memory_search import search_files, search_memory, spellings

SECRET = bytes(range(0xE0, 0x100))


def test_every_spelling_is_another_one() -> None:
    # This secret has no character in base64 that the two alphabets write differently where it is not shifted.
    assert len(set(spellings(os.urandom(32)).values())) >= 9
    assert all(len(needle) >= 32 for needle in spellings(SECRET).values())


@pytest.mark.parametrize("spelling", sorted(spellings(SECRET)))
def test_a_copy_is_found_in_a_process_and_in_a_file(tmp_path: Path, spelling: str) -> None:
    needle = spellings(SECRET)[spelling]
    program = "import sys, time; held = sys.stdin.buffer.read(); print(len(held), flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"before" + needle + b"after")
            process.stdin.close()
            assert int(process.stdout.readline()) == len(needle) + 11
            assert needle in {spellings(SECRET)[hit.spelling] for hit in search_memory([process.pid], SECRET)}
            assert search_memory([process.pid], os.urandom(32)) == []
        finally:
            process.kill()
    (tmp_path / "below").mkdir()
    file = tmp_path / "below" / "file"
    file.write_bytes(b"before" + needle + b"after")
    assert {hit.path for hit in search_files([tmp_path], SECRET)} == {file}
    assert search_files([tmp_path], os.urandom(32)) == []
