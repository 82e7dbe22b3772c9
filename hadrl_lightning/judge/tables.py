"""What a table says of a figure, and of the weights that it is about."""

import math
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hadrl_lightning.judge.intervals import Interval
from hadrl_lightning.judge.scores import BestAndLast, Validation

NONE = "–"
"""Where there is nothing to show."""

HEADINGS = {
    "hit_ratio": ("hit ratio", "{:.3f}"),
    "cost": ("cost", "{:.2f}"),
    "latency": ("Σ latency (s)", "{:.2f}"),
    "least_ratio": ("÷ least known", "{:.3f}"),
    "own_ratio": ("÷ best known, own caches", "{:.3f}"),
    "hit_ratio_share": ("hits ÷ optimum", "{:.3f}"),
    "on_time": ("deadlines met", "{:.3f}"),
    "dropped": ("dropped", "{:.4f}"),
    "latency_p95": ("Σ p95 (s)", "{:.1f}"),
    "energy": ("energy (J)", "{:.3f}"),
    "energy_dbm_s": ("energy (dBm·s)", "{:.3f}"),
    "switching": ("switching (s/decision)", "{:.1f}"),
    "bandwidth_over_subscription": ("bandwidth over", "{:.2f}"),
    "compute_over_subscription": ("CPU over", "{:.2f}"),
}
"""Heading and form of every figure that tables show, the same in all tables; those that matter most first, so that they
stand beside each other on a narrow terminal."""
FURTHER = {
    "task_p95": ("task p95 (s)", "{:.2f}"),
    "task_p99": ("task p99 (s)", "{:.2f}"),
    "fairness": ("Jain's index of users", "{:.3f}"),
    "byte_hit_ratio": ("byte hits", "{:.3f}"),
    "device_energy": ("energy of devices' CPUs (J)", "{:.3f}"),
    "handovers": ("handovers a slot", "{:.2f}"),
    "recovery_slots": ("slots to recover", "{:.2f}"),
    "recovered": ("recovered", "{:.3f}"),
    "offloading_ms": ("ms/slot", "{:.3g}"),
    "offloading_ms_p95": ("p95 (ms)", "{:.3g}"),
    "caching_ms": ("ms/caches", "{:.3g}"),
}
"""The same of a second table: how latency is spread over tasks and users, what else there is of energy, how soon a
policy gets over changes of the world, and what its decisions take."""
WITH_INTERVAL = ("hit_ratio", "cost", "latency", "own_ratio", "least_ratio", "on_time")
"""Figures that are shown with their interval."""
OVER = ("bandwidth_over_subscription", "compute_over_subscription")
"""Shown where some policy allots more than there is (`published` physics)."""
WHERE_ANY = ("dropped", "handovers", "device_energy")
"""Shown where a world brings them about."""


def figures_table(
    title: str,
    head: str,
    rows: Sequence[tuple[str, Mapping[str, Interval]]],
    further: Mapping[str, Sequence[str]] | None = None,
    headings: Mapping[str, tuple[str, str]] = HEADINGS,
) -> Table:
    """A row a policy: its name, its figures by the names of `headings`, and the cells of further columns.

    A figure that no policy has, or that no episode has, is left out.
    """
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column(head, no_wrap=True)
    columns = []
    for name, (heading, form) in headings.items():
        found = [figures.get(name) for _, figures in rows]
        least = 0.001 if name in OVER else 0.0 if name in WHERE_ANY else -1.0
        if any(one is not None and one.mean > least for one in found):
            table.add_column(heading, justify="right", no_wrap=True)
            show = cell if name in WITH_INTERVAL else mean_cell
            columns.append([show(one, form) for one in found])
    for heading, cells in (further or {}).items():
        table.add_column(heading, justify="right", no_wrap=True)
        columns.append(list(cells))
    for row in zip([name for name, _ in rows], *columns, strict=True):
        table.add_row(*row)
    return table


def cell(found: Interval | None, form: str) -> str:
    """`1.234 ± 0.005`: mean and half of the interval; the mean alone where there is none or it has no width.

    Where one side of it is shorter, as a figure cannot be beyond that, both ends: `0.990 (0.970 to 1.000)`.
    """
    mean = mean_cell(found, form)
    if found is None or not found.half > 0:
        return mean
    if found.cut:
        return f"{mean} ({form.format(found.low)} to {form.format(found.high)})"
    return f"{mean} ± {form.format(found.half)}"


def mean_cell(found: Interval | None, form: str) -> str:
    """The mean alone."""
    return NONE if found is None or math.isnan(found.mean) else form.format(found.mean)


def after_epochs(number: int) -> str:
    """`after 9 epochs`."""
    return f"after {number} epoch{'s' * (number != 1)}"


def validation_text(one: Validation) -> str:
    """When and what: `after 9 epochs (6,800 slots): 79.12 s`."""
    slots = f"{one.slots:,.0f} slots"
    when = f"{after_epochs(one.epoch)} ({slots})" if one.epoch else f"after {slots}"
    return f"{when}: {one.told:.2f}{' s' if one.cost is None else ''}"


def convergence_text(found: BestAndLast) -> str:
    """The best and the last validation in words."""
    mean = "" if found.best.log_latency is None else ", geometric mean over networks"
    what = "Σ latency" if found.best.cost is None else "cost"
    text = f"{what}{mean}: best validation {validation_text(found.best)}"
    if found.last is found.best:
        return f"{text}; it is the last one"
    return f"{text}; last {validation_text(found.last)}, {100 * found.rise:+.1f} %"
