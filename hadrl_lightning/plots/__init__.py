"""Figures made for papers: those of a benchmark, and the learning curves of a run."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.plots.benchmark import draw_benchmark
from hadrl_lightning.plots.style import COLOURS, PAGE_IN, Row, number, read_rows, save, style
from hadrl_lightning.plots.suite import PLACES, WORST, draw_suite

__all__ = ["draw", "draw_benchmark", "draw_run", "draw_suite"]


def draw(folder: Path, output: Path | None = None, worst: int = WORST) -> list[Path]:
    """Draw what a folder holds: a suite (places.json), a benchmark (summary.csv) or a run (metrics.csv).

    Args:
        folder: what `hadrl benchmark` or `hadrl fit` wrote.
        output: where the figures go; `folder/figures` by default.
        worst: networks of a suite that are drawn, those where an agent loses most.

    Raises:
        HadrlError: the folder holds neither, or matplotlib is missing.
    """
    if not folder.is_dir():
        raise HadrlError(
            f"plot needs the folder of a benchmark or of a run, got {str(folder)!r} (no such folder)"
        )
    output = output or folder / "figures"
    if (folder / PLACES).is_file():
        return draw_suite(folder / PLACES, output, worst)
    if (folder / "summary.csv").is_file():
        return draw_benchmark(folder, output)
    if (folder / "metrics.csv").is_file():
        return draw_run(folder, output)
    raise HadrlError(
        f"plot needs a folder with summary.csv (of a benchmark) or metrics.csv (of a run), got {str(folder)!r}"
    )


# Learning curves of a run of `hadrl fit`, from its metrics.csv --------------------------------------------------------


class Panel(NamedTuple):
    """One set of axes."""

    title: str
    axis: str
    columns: dict[str, str]
    """Column of metrics.csv and its name in the legend."""


PANELS = (
    Panel("slow level", "hit ratio", {"collect/hit_ratio": "collecting", "val/hit_ratio": "validation"}),
    Panel(
        "fast level", "Σ latency per slot (s)", {"collect/latency": "collecting", "val/latency": "validation"}
    ),
    Panel("by preferences", "cost per slot", {"val/cost": "validation"}),
    Panel("deadlines", "deadlines met", {"collect/on_time": "collecting", "val/on_time": "validation"}),
    Panel(
        "world model", "loss", {"train/world_model/total": "total", "train/world_model/latency": "latency"}
    ),
    Panel(
        "caching agent",
        "loss",
        {"train/caching_agent/critic": "critic", "train/caching_agent/actor": "actor"},
    ),
    Panel(
        "expected free energy",
        "nats or reward",
        {"collect/pragmatic": "pragmatic", "collect/epistemic": "epistemic"},
    ),
)


def draw_run(folder: Path, output: Path) -> list[Path]:
    """Draw the learning curves of a run: both levels, losses, free energy; as PDF and PNG.

    Raises:
        HadrlError: the run has logged nothing yet, or matplotlib is missing.
    """
    rows = read_rows(folder / "metrics.csv", ("step",))
    panels = [panel for panel in PANELS if any(_points(rows, column) for column in panel.columns)]
    if not panels:
        raise HadrlError(f"plot needs logged metrics in {folder / 'metrics.csv'}, got none")
    with style() as plt:
        across = min(3, len(panels))
        down = math.ceil(len(panels) / across)
        figure, grid = plt.subplots(down, across, figsize=(PAGE_IN, 2.1 * down), squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, rows, panel)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        return save(figure, output / "learning-curves")


def _draw_panel(axes: Any, rows: list[Row], panel: Panel) -> None:
    for index, (column, name) in enumerate(panel.columns.items()):
        points = _points(rows, column)
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, label=name, color=COLOURS[1 - index], marker="os"[index], markersize=2.5)
    axes.set(title=panel.title, xlabel="slots trained on", ylabel=panel.axis)
    axes.legend()


def _points(rows: list[Row], column: str) -> list[tuple[float, float]]:
    """Slots and value of every row that has the column."""
    found = [(number(row.get("step")), number(row.get(column))) for row in rows]
    return [point for point in found if all(map(math.isfinite, point))]
