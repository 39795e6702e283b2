"""The plot of latency against offered load."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tests.bench.load import Measured


def draw(points: Sequence[tuple[float, Measured]], *, capacity: float, path: Path) -> None:
    """points: offered calls a second and what was measured. capacity: those of the closed loop. Writes a PNG."""
    offered = [rate for rate, _ in points]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(offered, [found.p99 for _, found in points], "s-", color="#b4451f", label="p99")
    axes.plot(offered, [found.p50 for _, found in points], "o-", color="#1f5fb4", label="p50")
    axes.plot(offered, [found.lateness for _, found in points], ".:", color="#777777", label="sent late, p99")
    axes.axvline(capacity, color="#777777", linestyle="--", linewidth=1)
    axes.annotate("closed loop,\n64 in flight", (capacity, 1), xycoords=("data", "axes fraction"), fontsize=8,
                  xytext=(4, -4), textcoords="offset points", va="top", color="#555555")  # fmt: skip
    axes.set(
        yscale="log", xlabel="offered Sign calls a second (constant arrival)", ylabel="ms from the intended send",
        title="Sign: latency against offered load",
    )  # fmt: skip
    axes.set_xlim(left=0)
    axes.grid(which="both", alpha=0.25)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=80, format="png")
