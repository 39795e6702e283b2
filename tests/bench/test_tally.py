"""What the soak counts: an unexpected end is named, nothing that a call raises ends an hour, nothing piles up."""

import asyncio
import time
from functools import partial

import grpc
import pytest

from tests.bench import tally as tallies
from tests.bench.tally import NOT_SENT, OK, Kind, Tally, arrive


async def failing(code: grpc.StatusCode) -> None:
    raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


async def test_an_end_that_nobody_expected_is_counted_by_name() -> None:
    tally = Tally()
    await tally.ended("ListKeys", failing(grpc.StatusCode.INTERNAL))
    await tally.ended("ListKeys", asyncio.sleep(0))
    assert tally.unexpected == {"ListKeys: INTERNAL": 1}
    assert tally.ends == {"ListKeys": {"INTERNAL": 1, OK: 1}}
    assert tally.calls == 2


async def test_an_expected_refusal_is_none_and_success_is_unexpected_where_only_refusals_are_expected() -> None:
    tally = Tally()
    await tally.ended("late", failing(grpc.StatusCode.CANCELLED), "CANCELLED", OK)
    assert not tally.unexpected
    await tally.ended("wrong API key", asyncio.sleep(0), "CREDENTIALS_INVALID")
    assert tally.unexpected == {"wrong API key: OK": 1}


def test_an_end_that_a_load_must_meet_is_missed_by_name() -> None:
    tally = Tally()
    tally.note("flood", OK, OK, "QUEUE_FULL")
    assert tally.missing({"flood": "QUEUE_FULL"}) == ["flood: QUEUE_FULL"]
    tally.note("flood", "QUEUE_FULL", OK, "QUEUE_FULL")
    assert tally.missing({"flood": "QUEUE_FULL"}) == []


async def test_arrivals_keep_their_rate_whether_or_not_answers_come() -> None:
    tally = Tally()

    async def call() -> None:
        await tally.ended("slow", asyncio.sleep(0.3))

    began = time.monotonic()
    await arrive(Kind(name="slow", per_second=100, call=call), tally, began + 0.5)
    assert 45 <= tally.ends["slow"][OK] <= 50
    assert time.monotonic() - began >= 0.7


async def test_what_a_call_raises_is_counted_and_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()

    async def call() -> None:
        raise RuntimeError("lost")

    await arrive(Kind(name="odd", per_second=100, call=call), tally, time.monotonic() + 0.2)
    assert tally.unexpected["odd: RuntimeError"] > 10
    assert capsys.readouterr().err.count("RuntimeError: lost") == 1


async def test_a_program_that_stood_still_does_not_make_up_for_all_of_it() -> None:
    tally = Tally()

    async def call() -> None:
        tally.note("quick", OK)
        if tally.calls == 10:
            time.sleep(2.0)  # noqa: ASYNC251 - the halt that is meant

    await arrive(Kind(name="quick", per_second=100, call=call), tally, time.monotonic() + 2.5)
    assert 120 <= tally.calls <= 160


async def test_what_cannot_be_sent_for_what_is_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "PILE", 0.1)
    tally = Tally()

    async def call() -> None:
        await tally.ended("stuck", asyncio.sleep(0.6))

    await arrive(Kind(name="stuck", per_second=100, call=call), tally, time.monotonic() + 0.4)
    assert tally.ends["stuck"][OK] == 10
    assert tally.unexpected[f"stuck: {NOT_SENT}"] >= 20


async def test_what_is_rare_comes_often_while_all_warms_up() -> None:
    tally, began = Tally(), time.monotonic()

    async def call(name: str) -> None:
        tally.note(name, "warm" if time.monotonic() < began + 1.1 else "later", "warm", "later")

    kinds = [("rare", 1.0), ("usual", 20.0), ("flood", 0.01)]
    await asyncio.gather(
        *(
            arrive(Kind(name=name, per_second=rate, call=partial(call, name)), tally, began + 3, warm=began + 1)
            for name, rate in kinds
        )
    )
    assert 3 <= tally.ends["rare"]["warm"] <= 5
    assert 1 <= tally.ends["rare"]["later"] <= 3
    assert 18 <= tally.ends["usual"]["warm"] <= 24
    assert 35 <= tally.ends["usual"]["later"] <= 42
    assert tally.ends["flood"].total() <= 1
