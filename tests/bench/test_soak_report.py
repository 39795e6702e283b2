"""What the soak calls a fault: growth after warm-up, a part that ended, a call that ended as none should."""

from collections.abc import Callable

from tests.bench.flatness import Verdict
from tests.bench.meter import GENERATOR, Holding
from tests.bench.soak_report import Found
from tests.bench.tally import Tally


def holding(*, own: float = 100.0, descriptors: int = 20, cpu: float = 0.0) -> Holding:
    return Holding(pss=own + 50, own=own, descriptors=descriptors, threads=8, cpu=cpu)


def found(part: Callable[[float], Holding], *, name: str = "server") -> Found:
    """An hour with four samples a minute."""
    samples = [(number / 4, {name: part(number / 4)}) for number in range(241)]
    return Found(minutes=60, tally=Tally(), samples=list(samples))


def test_an_hour_in_which_nothing_grows_has_no_fault() -> None:
    assert found(lambda _: holding()).faults == []


def test_growth_during_warm_up_is_no_fault() -> None:
    hour = found(lambda minute: holding(own=100 + min(minute, 15) * 5))
    assert hour.trend("server", "own").verdict is Verdict.FLAT
    assert hour.faults == []


def test_memory_that_grows_afterwards_is_a_fault() -> None:
    assert found(lambda minute: holding(own=100 + minute / 10)).faults == ["server: own GROWS"]


def test_descriptors_that_are_not_given_back_are_a_fault() -> None:
    assert found(lambda minute: holding(descriptors=int(20 + minute))).faults == ["server: descriptors GROWS"]


def test_some_descriptors_of_connections_that_come_and_go_are_none() -> None:
    assert found(lambda minute: holding(descriptors=20 + int(minute * 4) % 5)).faults == []


def test_the_load_generator_is_not_judged() -> None:
    assert found(lambda minute: holding(own=100 + minute), name=GENERATOR).faults == []


def test_the_files_that_postgresql_keeps_open_are_not_judged_and_its_memory_is() -> None:
    assert found(lambda minute: holding(descriptors=int(1000 + minute * 10)), name="postgres").faults == []
    assert found(lambda minute: holding(own=60 + minute / 10), name="postgres").faults == ["postgres: own GROWS"]


def test_a_part_that_ended_and_an_unexpected_end_are_faults() -> None:
    hour = found(lambda _: holding())
    hour.restarted.append("openbao")
    hour.tally.note("Sign", "INTERNAL_FAULT")
    assert hour.faults == ["1 unexpected: Sign: INTERNAL_FAULT", "ended and was started again: openbao"]


def test_cpu_counts_on_where_a_part_is_another_process() -> None:
    hour = found(lambda minute: holding(cpu=minute if minute < 30 else minute - 30))
    assert hour.cpu("server") == 29.75 + 30
