"""Figures made for papers: those of a benchmark, and the learning curves of a run."""

from pathlib import Path

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.plots.benchmark import draw_benchmark
from hadrl_lightning.plots.runs import draw_run
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
