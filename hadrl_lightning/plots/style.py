"""What all figures share: the rows that they are made of, what an axis calls a setting, and how they look.

Sizes are those of a two-column journal, colours those that colour-blind readers tell apart; a policy has the same
colour, marker and dashes in every figure, and a hue stands for a kind of policy.
"""

import ast
import csv
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hadrl_lightning.errors import HadrlError, require
from hadrl_lightning.files import replacing
from hadrl_lightning.units import common_unit, unit_end, with_unit

COLUMN_IN, PAGE_IN = 3.5, 7.16
"""Widths of a column and of a page of an IEEE journal, in inches."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without its yellow, which is too pale for lines on white."""

BAND_ALPHA = 0.15
LEGEND_CHARACTERS = 130
"""Characters of a legend that fit beside each other on the width of a page, of which a line and its gap take eight."""

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

Row = dict[str, str]

NAMES = {
    "data.scenario.cache_bytes": "cache per server",
    "data.scenario.bandwidth_hz": "bandwidth per server",
    "data.scenario.compute_hz": "compute per server",
    "data.scenario.zipf_exponent": "Zipf exponent",
}
"""What an axis calls a setting, where it is not by the words of the setting's name."""


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
        with replacing(file) as temporary:
            figure.savefig(temporary, format=file.suffix[1:], metadata=metadata)
    pyplot().close(figure)
    return files


def file_name(text: str) -> str:
    """`text` with everything that does not belong in a file's name replaced."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text)


def band(
    axes: Any, x: list[float], mean: list[float], low: list[float], high: list[float], **kw: Any
) -> None:
    """A line with its confidence band, which lies below all lines."""
    axes.plot(x, mean, **kw)
    axes.fill_between(x, low, high, color=kw["color"], alpha=BAND_ALPHA, linewidth=0, zorder=1)


# Policies -------------------------------------------------------------------------------------------------------------

OURS = "#0072B2"


YARDSTICK = "latency_optimal+best_known"
"""The least latency known: black, and dashed where it is a line."""

PHYSICISTS = (
    *("best_known", "hindsight", "clairvoyant", "genetic"),
    *("local_only", "shortest_queue", "two_choices", "drift_plus_penalty"),
)
"""Offloading policies that go by the equations of latency, besides those with square-root shares in their names."""

KINDS: dict[str, Callable[[str], bool]] = {
    "HADRL": lambda name: name == "hadrl" or name.endswith(".ckpt"),
    "ablation": lambda name: name.startswith("hadrl-") and name != "hadrl-published",
    "learner": lambda name: "+" not in name and "." not in name and name != "lower-bound",
    "knows the physics": lambda name: (
        name.partition("+")[2] in PHYSICISTS or name.endswith("_sqrt") or name == "lower-bound"
    ),
    "heuristic": lambda name: True,
}
"""Kinds of policies in the order in which they are tried, and whether a name belongs to it."""

POLICY_COLOURS: dict[str, dict[str, str]] = {
    "HADRL": {"hadrl": OURS},
    "ablation": {
        "hadrl-no-epistemic": "#5E4FA2",
        "hadrl-no-law": "#3690C0",
        "hadrl-one-member": "#56B4E9",
        "hadrl-no-refinement": "#02818A",
        "hadrl-horizon-5": "#9E9AC8",
        "hadrl-slot-alone": "#41AE76",
        "hadrl-crowd-caching": "#7BCCC4",
        "hadrl-critic-caching": "#08519C",
        "hadrl-critic-no-actor": "#DDA0DD",
        "hadrl-actor-caching": "#B15FC9",
        "hadrl-no-planning": "#3F007D",
    },
    "learner": {
        "twin-ddpg": "#D55E00",
        "flat-ddpg": "#E69F00",
        "ppo": "#8C2D04",
        "ppo-recurrent": "#FB6A4A",
        "sac": "#CC79A7",
        "td3": "#99004C",
        "hadrl-published": "#8C6D31",
        "ppo-set": "#C51B7D",
    },
    "knows the physics": {
        YARDSTICK: "#000000",
        "hit_optimal+best_known": "#009E73",
        "hit_optimal+least_loaded_sqrt": "#66C2A4",
        "density+least_loaded_sqrt": "#A1D99B",
        "density+genetic": "#41AB5D",
        "lower-bound": "#525252",
    },
    "heuristic": {
        "random+random": "#BDBDBD",
        "popularity+home_equal": "#969696",
        "hit_optimal+least_loaded_equal": "#737373",
        "none+all_cloud": "#BDBDBD",
        "none+least_loaded_equal": "#969696",
        "random+least_loaded_equal": "#737373",
        "popularity+least_loaded_equal": "#BDBDBD",
        "density+least_loaded_equal": "#969696",
        "lru+least_loaded_equal": "#737373",
        "lfu+least_loaded_equal": "#BDBDBD",
    },
}
"""Colours of those that are known; any other one has a colour of its kind, by its name."""


MARKERS = "os^DvPX<>p*h"


def family(policy: str) -> str:
    """The kind of a policy, a key of `KINDS`."""
    return next(name for name, belongs in KINDS.items() if belongs(policy))


def colour(policy: str) -> str:
    """The colour of a policy."""
    known = POLICY_COLOURS[family(policy)]
    return known.get(policy) or list(known.values())[zlib.crc32(policy.encode()) % len(known)]


def look(policy: str) -> dict[str, Any]:
    """Colour, marker, dashes and order of the line of a policy: ours is above all others, and wider."""
    kind = family(policy)
    names = list(POLICY_COLOURS[kind])
    number = names.index(policy) if policy in names else len(names) + zlib.crc32(policy.encode())
    return {
        "color": colour(policy),
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": (0, (4, 2)) if policy == YARDSTICK else "--" if kind == "ablation" else "-",
        "linewidth": 2.0 if kind == "HADRL" else 1.2,
        "zorder": 10 if kind == "HADRL" else 3,
    }


def legend_below(figure: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Below the panels, in as many columns as the longest label leaves room for."""
    columns = max(1, LEGEND_CHARACTERS // (max(map(len, labels)) + 8))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def read_rows(path: Path, needed: Iterable[str]) -> list[Row]:
    """The rows of a CSV file; none if it does not exist.

    Raises:
        HadrlError: the file lacks a column, or can't be read.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HadrlError(f"{path} must be a readable CSV file, got {error}") from error
    missing = [name for name in needed if rows and name not in rows[0]]
    if missing:
        raise HadrlError(f"{path} must have a column {missing[0]}, got {', '.join(rows[0])}")
    return rows


def number(text: str | None) -> float:
    """The number in a cell; NaN where there is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def distinct(rows: Iterable[Row], column: str) -> list[str]:
    """The values of a column, in the order in which they appear."""
    return list(dict.fromkeys(row[column] for row in rows))


class Axis(NamedTuple):
    """How a setting that is swept is shown."""

    key: str
    label: str
    """Its name, with its unit in brackets."""
    size: float
    """Of the unit, in the unit of the setting."""

    def short(self, value: str) -> str:
        """A value of the CSV file, in the unit of the axis; a list or a word as a text."""
        if math.isfinite(number(value)):
            return f"{number(value) / self.size:g}"
        return with_unit(self.key, _listed(value))


def axis(key: str, values: list[str]) -> Axis:
    """The axis of the setting `key` for its values in a CSV file, in the unit in which they are shortest."""
    numbers = [one for one in map(number, values) if math.isfinite(one)]
    unit, size = common_unit(key, numbers) if numbers else ("", 1.0)
    if ".preferences." in key:
        return Axis(key, f"weight of {key.rpartition('.')[2]}", size)
    words = key.rpartition(".")[2].removesuffix(unit_end(key)).removeprefix("num_").replace("_", " ")
    return Axis(key, NAMES.get(key, words) + (f" ({unit})" if unit else ""), size)


def _listed(value: str) -> Any:
    """The list that a text stands for; any other text as it is."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
