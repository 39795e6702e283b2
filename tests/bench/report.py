"""What a run found, as one table and one JSON file: ratios first, each beside its mark."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from tests.bench.load import Measured
from tests.bench.meter import Cost

OTHERS = "other programs on this machine meanwhile, cores"
# Cores of others from which on a run says little.
BUSY = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A promise and what was measured of it."""

    name: str
    value: float
    comparison: Literal["<=", ">="]
    mark: float

    @property
    def reached(self) -> bool:
        return self.value >= self.mark if self.comparison == ">=" else self.value <= self.mark


@dataclass(slots=True)
class Figures:
    """All of one run.

    raw, raw_on_all: signatures a second of the library alone, on one core and on all at once.
    rows: name to what was measured and signatures a call. ratios: others than the marks. checks: of the load generator.
    curve: offered calls a second and what was measured. memory: minutes since the start of the load and MiB by process.
    """

    raw: float = 0.0
    raw_on_all: float = 0.0
    marks: list[Mark] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    rows: dict[str, tuple[Measured, int]] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    checks: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[float, Measured]] = field(default_factory=list)
    memory: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def at_least(self, name: str, value: float, mark: float) -> None:
        self.marks.append(Mark(name=name, value=value, comparison=">=", mark=mark))

    def at_most(self, name: str, value: float, mark: float) -> None:
        self.marks.append(Mark(name=name, value=value, comparison="<=", mark=mark))


def show(figures: Figures) -> None:
    console = Console(width=124)
    console.print(_ratios(figures))
    console.print(_rows(figures))
    if figures.curve:
        console.print(_curve(figures))
    console.print(_costs(figures))
    console.print(_memory(figures))
    checks = _table("Checks: is the load generator the bottleneck, and was the machine quiet", "", "")
    for name, value in figures.checks.items():
        checks.add_row(name, f"{value:.2f}")
    console.print(checks)
    if figures.checks[OTHERS] > BUSY:
        console.print("The machine was not quiet: take the ratios with care and the tails not at all.")


def write(figures: Figures, path: Path) -> None:
    """The same as JSON."""
    content = asdict(figures)
    content["marks"] = [asdict(mark) | {"reached": mark.reached} for mark in figures.marks]
    content["rows"] = {name: asdict(row) | {"items": items} for name, (row, items) in figures.rows.items()}
    content["curve"] = [{"offered": rate} | asdict(row) for rate, row in figures.curve]
    content["memory"] = [{"minute": minute, "mib": sizes} for minute, sizes in figures.memory]
    content["machine"] = {"cores": os.cpu_count(), "python": platform.python_version()}
    path.write_text(json.dumps(content, indent=2) + "\n")


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left", min_width=len(title))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _ratios(figures: Figures) -> Table:
    table = _table("Ratios and marks", "", "measured", "mark", "")
    for mark in figures.marks:
        table.add_row(
            mark.name, f"{mark.value:.2f}", f"{mark.comparison} {mark.mark:g}", "reached" if mark.reached else "MISSED"
        )
    for name, value in figures.ratios.items():
        table.add_row(name, f"{value:.2f}", "", "")
    return table


def _rows(figures: Figures) -> Table:
    table = _table("One run on real parts", "", "calls/s", "signatures/s", "p50 ms", "p99 ms", "failed")
    table.add_row("raw libsecp256k1, one core", "", f"{figures.raw:,.0f}", f"{1e3 / figures.raw:.3f}", "", "")
    table.add_row("the same, all cores at once", "", f"{figures.raw_on_all:,.0f}", "", "", "")
    for name, (row, items) in figures.rows.items():
        failed = ", ".join(f"{count:,} {reason}" for reason, count in row.failed.items())
        table.add_row(name, f"{row.rate:,.0f}", f"{row.rate * items:,.0f}", f"{row.p50:.2f}", f"{row.p99:.2f}", failed)
    return table


def _curve(figures: Figures) -> Table:
    table = _table(
        "Sign, constant arrival", "offered/s", "answered/s", "p50 ms", "p99 ms", "sent late p99, ms", "failed"
    )
    for offered, row in figures.curve:
        table.add_row(
            f"{offered:,.0f}", f"{row.rate:,.0f}", f"{row.p50:.2f}", f"{row.p99:.2f}", f"{row.lateness:.2f}",
            str(sum(row.failed.values()) or ""),
        )  # fmt: skip
    return table


def _costs(figures: Figures) -> Table:
    table = _table("CPU a signature, ms", "", *figures.costs)
    for name in next(iter(figures.costs.values())).by_process:
        table.add_row(name, *(f"{cost.by_process[name]:.3f}" for cost in figures.costs.values()))
    table.add_section()
    shares = (f"{cost.generator:.2f}" for cost in figures.costs.values())
    table.add_row("load generator, share of a core", *shares)
    return table


def _memory(figures: Figures) -> Table:
    if len(figures.memory) > 12:
        step = -(-len(figures.memory) // 10)
        samples = [*figures.memory[:-1:step], figures.memory[-1]]
    else:
        samples = figures.memory
    table = _table("Memory, MiB after minutes", "", *(f"{minute:.1f}" for minute, _ in samples))
    for name in samples[0][1]:
        table.add_row(name, *(f"{sizes.get(name, 0):.0f}" for _, sizes in samples))
    return table
