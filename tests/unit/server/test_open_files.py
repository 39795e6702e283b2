"""What is for callers of the files that a process may open."""

import resource

import pytest

from popsigner_server.transport.open_files import MOST, OWN, connections

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "expected"),
    [
        (1_024, 4_096, True, 4_096 - OWN),
        (1_024, 1_024, True, 1_024 - OWN),
        (1_024, 1 << 20, True, MOST),
        (1_024, UNLIMITED, True, MOST),
        # A system that names no limit and does not take that for one.
        (1_024, UNLIMITED, False, 1_024 - OWN),
        (UNLIMITED, UNLIMITED, False, MOST),
        (300, 300, True, 150),
    ],
)
def test_as_many_as_the_system_allows_less_the_processs_own(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: bool, expected: int
) -> None:
    asked: list[tuple[int, int]] = []

    def setrlimit(_: int, limits: tuple[int, int]) -> None:
        if not raised:
            raise ValueError("not allowed to raise maximum limit")
        asked.append(limits)

    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert connections() == expected
    assert asked == ([(hard, hard)] if raised else [])
