"""Whether something stayed flat: a robust slope and a robust step, against what an hour may add.

The slope is Theil's and Sen's: the median of the slopes of all pairs of samples. A collector that runs now and then
makes a sawtooth, a worker that comes and goes a spike; a least-squares line follows both, a median of pairs follows
neither until more than a quarter of the samples have moved. For the same reason it does not see a single step (most
pairs lie on one side of it), so the medians of the first and the last quarter are compared as well.

The limit is 2 % of the median or 2 MiB, whichever is more, for the slope over an hour and for the step. Less than that
is what the allocators of Python and Go keep or give back by chance. And it is enough: an hour of 100 Sign a second has
360 000 of them, so 2 MiB are six bytes each, and the smallest object that Python can leave behind has more. What leaks
at rarer calls only (a connection, a revoked API key: some thousands in the hour) is found from about 1 KiB each on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

HOUR = 60.0
# Minutes of samples below which noise of some 0.5 MiB, taken over an hour, is more than the limit.
LEAST = 25.0
SHARE = 0.02
FLOOR_MIB = 2.0

Point = tuple[float, float]


class Verdict(StrEnum):
    """What became of it."""

    FLAT = "flat"
    GROWS = "GROWS"
    STEPPED = "STEPPED"
    SHORT = "run too short"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """What was found after warm-up. begin, end: medians of the first and the last quarter. most: the largest sample.
    slope: an hour. limit: what slope and end - begin may be."""

    begin: float
    end: float
    most: float
    slope: float
    limit: float
    verdict: Verdict


def warm_up(minutes: float) -> float:
    """Minutes of a run that do not count: a quarter, at least five, and never more than half.

    Caches fill, PostgreSQL touches its buffers, Python's and Go's heaps find the size that this load needs.
    """
    return max(minutes / 4, min(5.0, minutes / 2))


def slope(points: Sequence[Point]) -> float:
    """Theil-Sen, of (minute, value): by how much an hour changes the value; 0 for fewer than two points."""
    found = [
        (later[1] - point[1]) / (later[0] - point[0])
        for number, point in enumerate(points)
        for later in points[number + 1 :]
        if later[0] > point[0]
    ]
    return median(found) * HOUR if found else 0.0


def judge(points: Sequence[Point], *, share: float = SHARE, floor: float = FLOOR_MIB) -> Trend:
    """Of (minute, value) after warm-up, in order. Only growth counts. Raises ValueError without a point."""
    if not points:
        raise ValueError("There is no sample after warm-up; run for longer.")
    values = [value for _, value in points]
    quarter = max(1, len(values) // 4)
    begin, end = median(values[:quarter]), median(values[-quarter:])
    limit = max(share * median(values), floor)
    hourly = slope(points)
    if points[-1][0] - points[0][0] < LEAST:
        verdict = Verdict.SHORT
    elif hourly > limit:
        verdict = Verdict.GROWS
    else:
        verdict = Verdict.STEPPED if end - begin > limit else Verdict.FLAT
    return Trend(begin=begin, end=end, most=max(values), slope=hourly, limit=limit, verdict=verdict)
