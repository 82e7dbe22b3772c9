"""How all figures look: sizes of a two-column journal, colours that colour-blind readers tell apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hadrl_lightning.extras import require
from hadrl_lightning.files import writing

COLUMN_IN, PAGE_IN = 3.5, 7.16
"""Widths of a column and of a page of an IEEE journal, in inches."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without its yellow, which is too pale for lines on white."""

BAND_ALPHA = 0.15

SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "svg.fonttype": "none",
}


def pyplot() -> Any:
    """matplotlib.pyplot without a window.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    (matplotlib,) = require("plot", ["matplotlib"])
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


@contextmanager
def style() -> Iterator[Any]:
    """pyplot with our settings; the user's come back at the end."""
    plt = pyplot()
    with plt.rc_context(SETTINGS):
        yield plt


def save(figure: Any, path: Path) -> list[Path]:
    """Save a figure as `path`.pdf and `path`.png, and close it.

    Raises:
        OutputError: the folder can't be written to, or the disk is full.
    """
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("pdf", "png")]
    for file in files:
        metadata = {"CreationDate": None} if file.suffix == ".pdf" else {}  # same data, same file
        with writing(file):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(file, metadata=metadata)
    pyplot().close(figure)
    return files


def band(
    axes: Any, x: list[float], mean: list[float], low: list[float], high: list[float], **kw: Any
) -> None:
    """A line with its confidence band, which lies below all lines."""
    axes.plot(x, mean, **kw)
    axes.fill_between(x, low, high, color=kw["color"], alpha=BAND_ALPHA, linewidth=0, zorder=1)
