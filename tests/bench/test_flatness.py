"""The rule that says whether memory stayed flat: it finds what grows and what steps, and is not led astray by noise."""

import random
from collections.abc import Callable

import pytest

from tests.bench.flatness import Point, Verdict, judge, slope, warm_up

SEED = random.Random(7)


def samples(value: Callable[[float], float], *, minutes: float = 45.0, noise: float = 0.0) -> list[Point]:
    """Four a minute from minute 15 on."""
    moments = [15 + number / 4 for number in range(int(minutes * 4))]
    return [(moment, value(moment) + SEED.gauss(0, noise)) for moment in moments]


def test_what_does_not_change_is_flat() -> None:
    found = judge(samples(lambda _: 120.0))
    assert (found.verdict, found.slope, found.begin, found.end) == (Verdict.FLAT, 0.0, 120.0, 120.0)


def test_noise_is_flat() -> None:
    assert judge(samples(lambda _: 120.0, noise=3.0)).verdict is Verdict.FLAT


def test_a_leak_is_found_below_noise_that_is_larger_than_it() -> None:
    found = judge(samples(lambda minute: 120 + minute / 60 * 6, noise=3.0))
    assert found.verdict is Verdict.GROWS
    assert found.slope == pytest.approx(6, abs=2)


def test_a_step_is_found_though_the_slope_does_not_show_it() -> None:
    found = judge(samples(lambda minute: 120.0 if minute < 52 else 130.0, noise=0.1))
    assert found.slope < found.limit
    assert found.verdict is Verdict.STEPPED


def test_a_spike_is_neither_growth_nor_step_and_is_told_of() -> None:
    found = judge(samples(lambda minute: 180.0 if 40 <= minute < 42 else 120.0))
    assert (found.verdict, found.most) == (Verdict.FLAT, 180.0)


def test_the_sawtooth_of_a_collector_is_flat() -> None:
    assert judge(samples(lambda minute: 120 + minute % 7 * 2)).verdict is Verdict.FLAT


def test_memory_that_is_given_back_is_flat() -> None:
    assert judge(samples(lambda minute: 200 - minute)).verdict is Verdict.FLAT


def test_the_limit_is_two_percent_where_that_is_more_than_two_mib() -> None:
    rising = samples(lambda minute: 400 + minute / 60 * 6)
    assert judge(rising).verdict is Verdict.FLAT
    assert judge(samples(lambda minute: 40 + minute / 60 * 6)).verdict is Verdict.GROWS


def test_a_short_run_says_that_it_cannot_tell() -> None:
    found = judge(samples(lambda minute: 120 + minute, minutes=10))
    assert found.verdict is Verdict.SHORT
    assert found.slope == pytest.approx(60)


def test_a_run_without_a_sample_after_warm_up_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="longer"):
        judge([])


def test_one_sample_has_no_slope() -> None:
    assert slope([(1.0, 5.0)]) == 0.0


@pytest.mark.parametrize(("minutes", "expected"), [(60, 15), (20, 5), (12, 5), (6, 3)])
def test_warm_up_is_a_quarter_and_five_minutes_where_the_run_is_long_enough(minutes: float, expected: float) -> None:
    assert warm_up(minutes) == expected
