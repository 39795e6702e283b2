"""What an hour of mixed load found: a table by process, the calls by how they ended, JSON, and a plot over time."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from tests.bench.flatness import Point, Trend, Verdict, judge, warm_up
from tests.bench.meter import GENERATOR, Holding
from tests.bench.tally import Tally

Sample = tuple[float, Mapping[str, Holding]]
# Descriptors and threads are counts: a tenth or eight more is what connections that come and go make.
COUNT_SHARE, COUNT_FLOOR = 0.1, 8.0
HELD = ("own", "pss", "descriptors", "threads")


def judged(part: str, held: str) -> bool:
    """Whether growth of this is a fault. The load generator is not the POP; and PostgreSQL's workers keep the files of
    tables open that they have touched, as a cache with a limit of its own."""
    return held != "pss" and part != GENERATOR and (part, held) != ("postgres", "descriptors")


@dataclass(slots=True, kw_only=True)
class Found:
    """All of one run.

    minutes: of load. samples: minutes since its start and what each part held. restarted: parts that are another
    process now. missing: ends that the load should have met and has not. database: MiB and rows at the end. others:
    cores that other programs used. halts: minutes since the start, and seconds for which this program itself stood
    still.
    """

    minutes: float
    tally: Tally
    samples: list[Sample] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    database: dict[str, float] = field(default_factory=dict)
    others: float = 0.0
    halts: list[tuple[float, float]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def parts(self) -> list[str]:
        """The POP's processes, and the load generator last: its memory is shown and not judged."""
        return sorted(self.samples[0][1], key=lambda name: name == GENERATOR)

    def trend(self, part: str, held: str) -> Trend:
        """Of `own`, `pss` (MiB), `descriptors` or `threads` after warm-up."""
        begin = warm_up(self.minutes)
        points: list[Point] = [
            (minute, getattr(parts[part], held)) for minute, parts in self.samples if minute >= begin and part in parts
        ]
        return judge(points) if held in ("own", "pss") else judge(points, share=COUNT_SHARE, floor=COUNT_FLOOR)

    def cpu(self, part: str) -> float:
        """Seconds over the run. Between two samples it cannot shrink, unless the part is another process."""
        spent = [parts[part].cpu for _, parts in self.samples if part in parts]
        return sum(max(0.0, after - before) for before, after in pairwise(spent))

    @property
    def faults(self) -> list[str]:
        """Why the run is not a success, a sentence each."""
        bad = (Verdict.GROWS, Verdict.STEPPED)
        return [
            *(["interrupted before its time"] if self.interrupted else []),
            *(f"{count:,} unexpected: {end}" for end, count in self.tally.unexpected.most_common()),
            *(f"never met, so the load was another one: {end}" for end in self.missing),
            *(f"ended and was started again: {part}" for part in self.restarted),
            *(
                f"{part}: {held} {self.trend(part, held).verdict}"
                for part in self.parts
                for held in HELD
                if judged(part, held) and self.trend(part, held).verdict in bad
            ),
        ]


def show(found: Found) -> None:
    console = Console(width=124)
    console.print(_memory(found))
    console.print(_counts(found))
    console.print(_calls(found))
    sizes = ", ".join(f"{name} {value:,.0f}" for name, value in found.database.items())
    console.print(f"At the end: {sizes}. Other programs used {found.others:.2f} cores.")
    if found.halts:
        halts = ", ".join(f"{seconds:.0f} s at minute {minute:.1f}" for minute, seconds in found.halts)
        console.print(f"The load generator itself stood still, and with it perhaps the machine: {halts}.")
        console.print("Calls that ended late around then say nothing about the POP; repeat the run.")
    for fault in found.faults:
        console.print(fault, style="bold")
    console.print("FAILED" if found.faults else "No fault found.")


def write(found: Found, path: Path) -> None:
    """The same as JSON."""
    content = {
        "minutes": found.minutes,
        "warm_up_minutes": warm_up(found.minutes),
        "faults": found.faults,
        "trends": {part: {held: asdict(found.trend(part, held)) for held in HELD} for part in found.parts},
        "cpu_seconds": {part: found.cpu(part) for part in found.parts},
        "calls": {kind: dict(ends) for kind, ends in found.tally.ends.items()},
        "unexpected": dict(found.tally.unexpected),
        "halts": [{"minute": minute, "seconds": seconds} for minute, seconds in found.halts],
        "database": found.database,
        "samples": [
            {"minute": minute, "parts": {part: asdict(holding) for part, holding in parts.items()}}
            for minute, parts in found.samples
        ],
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "others": found.others},
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def draw(found: Found, path: Path) -> None:
    """Own memory (lines) and the proportional set size (dotted) of each part over time, as PNG."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, part in enumerate(found.parts):
        minutes = [minute for minute, parts in found.samples if part in parts]
        held = [parts[part] for _, parts in found.samples if part in parts]
        colour = f"C{number}"
        axes.plot(minutes, [each.own for each in held], color=colour, label=part, linewidth=1.2)
        axes.plot(minutes, [each.pss for each in held], ":", color=colour, linewidth=0.8)
    axes.axvspan(0, warm_up(found.minutes), color="#777777", alpha=0.12, label="warm-up")
    axes.set(
        xlabel="minutes of mixed load", ylabel="MiB: own (lines), with shared memory and files (dotted)",
        title="Memory by process",
    )  # fmt: skip
    axes.set_xlim(0, found.minutes)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", fontsize=7, ncols=3)
    figure.savefig(path, dpi=80, format="png")


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _memory(found: Found) -> Table:
    columns = ("", "after warm-up", "end", "most", "slope MiB/h", "limit", "verdict", "PSS at the end", "PSS slope")
    table = _table(f"Own memory, MiB, after {warm_up(found.minutes):g} of {found.minutes:g} minutes", columns)
    for part in found.parts:
        own, pss = found.trend(part, "own"), found.trend(part, "pss")
        verdict = str(own.verdict) if judged(part, "own") else "not judged"
        cells = (own.begin, own.end, own.most)
        table.add_row(
            part, *(f"{cell:.1f}" for cell in cells), f"{own.slope:+.2f}", f"{own.limit:.2f}", verdict,
            f"{pss.end:.1f}", f"{pss.slope:+.2f}",
        )  # fmt: skip
    return table


def _counts(found: Found) -> Table:
    columns = ("", "descriptors: warm", "end", "", "threads: warm", "end", "", "CPU s", "cores")
    table = _table("Descriptors, threads and CPU", columns)
    for part in found.parts:
        cells = []
        for held in ("descriptors", "threads"):
            trend = found.trend(part, held)
            verdict = str(trend.verdict) if judged(part, held) else "not judged"
            cells += [f"{trend.begin:g}", f"{trend.end:g}", verdict]
        cpu = found.cpu(part)
        table.add_row(part, *cells, f"{cpu:,.0f}", f"{cpu / found.minutes / 60:.3f}")
    return table


def _calls(found: Found) -> Table:
    table = Table("", "calls", "ends", title="Calls by how they ended", title_justify="left")
    for kind, ends in sorted(found.tally.ends.items()):
        words = ", ".join(f"{count:,} {end}" for end, count in ends.most_common())
        table.add_row(kind, f"{ends.total():,}", words)
    return table
