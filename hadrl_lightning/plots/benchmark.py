"""Figures of a benchmark: convergence of both levels, bars of all policies, sweeps."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.plots.style import (
    BAND_ALPHA,
    PAGE_IN,
    YARDSTICK,
    Row,
    axis,
    band,
    colour,
    distinct,
    family,
    file_name,
    legend_below,
    look,
    number,
    read_rows,
    save,
    style,
)

HEAD = ("policy", "label", "scenario", "sweep_key", "sweep_value")

LOW, HIGH = "lower is better", "higher is better"
BARS = {
    "hit_ratio": f"hit ratio\n{HIGH}",
    "cost": f"cost\n{LOW}",
    "latency_s": f"Σ latency (s)\n{LOW}",
    "on_time": f"deadlines met\n{HIGH}",
    "energy_j": f"energy (J)\n{LOW}",
    "energy_dbm_s": f"energy (dBm·s)\n{LOW}",
    "switching_s": f"switching (s\na decision)\n{LOW}",
}
"""Panels of the bars, and the names of their axes."""
LEVELS = {
    "hit_ratio": ("hit ratio", f"slow level: caches ({HIGH})"),
    "latency": ("Σ latency per slot (s)", f"fast level: offloading ({LOW})"),
}
COST = ("cost per slot", f"by preferences ({LOW})")
"""In place of the latter where preferences weigh more than latency."""
SWEEPS = {
    "hit_ratio": ("hit ratio", HIGH),
    "latency_s": ("Σ latency per slot (s)", LOW),
    "cost": ("cost", LOW),
    "ratio_to_least_known": ("÷ least known", LOW),
}
"""Panels of learning curves and of sweeps: the names of their axes, and their titles."""
OVER_SEEDS = "95 % interval over seeds"
OVER_BOTH = "95 % interval over seeds and episodes"
OVER_EPISODES = "95 % interval over episodes"
ONE_TRAINING = "one training: interval over episodes alone"

CONVERGENCE = {"convergence": ("HADRL", "learner"), "ablations": ("HADRL", "ablation")}
"""Figures of learning curves, and the families they show."""

MAX_LINES = 10
CHANGES = {
    "own_ratio": "offloading: ÷ best known, own caches",
    "level_ratio": "both levels: ÷ mean of the slots before",
}
"""Panels of slots around changes, and their titles."""
PREFERENCES, ENERGY = ".preferences.", "energy_j"
"""What a sweep of preferences is known by, and what its front is drawn against."""


class Value(NamedTuple):
    """A mean with its interval; the bounds are NaN where there is none."""

    mean: float
    low: float
    high: float


def draw_benchmark(folder: Path, output: Path) -> list[Path]:
    """Draw all figures of a benchmark folder.

    `bars-SCENARIO`, `cdf-SCENARIO` (latency of tasks), `change-SCENARIO` (slots around changes of the world),
    `convergence-SCENARIO` (learners), `ablations-SCENARIO` (convergence of our variants), and
    `sweep-SCENARIO-SETTING`, and of preferences `front-SCENARIO-SETTING`, each as PDF and PNG.

    Raises:
        HadrlError: there is nothing to draw, or matplotlib is missing.
    """
    summary = read_rows(folder / "summary.csv", (*HEAD, "metric", "mean", "low", "high"))
    curves = read_rows(folder / "curves.csv", (*HEAD, "metric", "slots", "mean", "low", "high"))
    tasks = read_rows(folder / "tasks.csv", (*HEAD, "part", "latency_s"))
    changes = read_rows(folder / "changes.csv", (*HEAD, "metric", "of", "slot", "mean"))
    if not summary:
        raise HadrlError(f"plot needs results in {folder / 'summary.csv'}, got none")
    files = []
    with style() as plt:
        for scenario in distinct(summary, "scenario"):
            rows = [row for row in summary if row["scenario"] == scenario]
            for key in distinct(rows, "sweep_key"):
                if key:
                    some = [row for row in rows if row["sweep_key"] == key]
                    name = f"sweep-{scenario}-{key.rpartition('.')[2]}"
                    files += save(_sweep(plt, some, key), output / file_name(name))
                    if PREFERENCES in key and any(row["metric"] == ENERGY for row in some):
                        front = f"front-{scenario}-{key.rpartition('.')[2]}"
                        files += save(_front(plt, some, key), output / file_name(front))
            for key, value in dict.fromkeys((row["sweep_key"], row["sweep_value"]) for row in rows):
                here = (scenario, key, value)
                some = [row for row in curves if _place(row) == here]
                where = scenario
                if key:
                    values = distinct([row for row in rows if row["sweep_key"] == key], "sweep_value")
                    where += f"-{key.rpartition('.')[2]}-{axis(key, values).short(value)}"
                base = [row for row in rows if _place(row) == here]
                files += save(_bars(plt, base), output / file_name(f"bars-{where}"))
                for name, drawn, found in (("cdf", _cdf, tasks), ("change", _change, changes)):
                    shown = [row for row in found if _place(row) == here]
                    if shown:
                        files += save(drawn(plt, shown), output / file_name(f"{name}-{where}"))
                for name, families in CONVERGENCE.items():
                    shown = [row for row in some if family(row["policy"]) in families]
                    if any(family(row["policy"]) == families[1] for row in shown) or (
                        shown and name == "convergence"
                    ):
                        files += save(_convergence(plt, shown, base), output / file_name(f"{name}-{where}"))
    return files


def _place(row: Row) -> tuple[str, str, str]:
    return row["scenario"], row["sweep_key"], row["sweep_value"]


def _value(row: Row) -> Value:
    return Value(number(row["mean"]), number(row["low"]), number(row["high"]))


# Bars ----------------------------------------------------------------------------------------------------------------


def _bars(plt: Any, rows: list[Row]) -> Any:
    """One row of bars a policy, one panel a score; whiskers are 95 % intervals."""
    policies = distinct(rows, "policy")
    labels = {row["policy"]: row["label"] for row in rows}
    bars = {metric: title for metric, title in BARS.items() if any(row["metric"] == metric for row in rows)}
    size = (PAGE_IN, 0.9 + 0.155 * len(policies))
    figure, grid = plt.subplots(1, len(bars), sharey=True, figsize=size, squeeze=False)
    panels = grid[0]
    for axes, (metric, title) in zip(panels, bars.items(), strict=True):
        found = {row["policy"]: row for row in rows if row["metric"] == metric}
        for place, policy in enumerate(policies):
            if policy in found:
                _bar(axes, place, _value(found[policy]), colour(policy), _one_training(found[policy]))
        axes.set_xlabel(title)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=3)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(policies)), [labels[policy] for policy in policies])
    panels[0].set_ylim(len(policies) - 0.4, -0.6)
    whisker = panels[0].errorbar([], [], xerr=[], fmt="none", ecolor="black", elinewidth=0.7, capsize=1.5)
    handles, meanings = [whisker], [_meaning(rows)]
    if any(map(_one_training, rows)):
        handles.append(plt.Rectangle((0, 0), 1, 1, facecolor="white", edgecolor="#555555", hatch="////"))
        meanings.append(ONE_TRAINING)
    figure.legend(handles, meanings, loc="outside upper center", ncols=len(handles))
    return figure


def _meaning(rows: list[Row]) -> str:
    """What the intervals are over."""
    return OVER_BOTH if any(row.get("seeds") != "1" for row in rows) else OVER_EPISODES


def _one_training(row: Row) -> bool:
    """Whether the mean is that of a single training."""
    return row.get("trainings") == "1"


def _bar(axes: Any, place: int, value: Value, shade: str, hollow: bool) -> None:
    face = {"facecolor": "white", "edgecolor": shade, "hatch": "////"} if hollow else {"color": shade}
    axes.barh(place, value.mean, height=0.72, **face)
    if value.high > value.low:
        whisker = [[max(value.mean - value.low, 0)], [max(value.high - value.mean, 0)]]
        axes.errorbar(
            value.mean, place, xerr=whisker, fmt="none", ecolor="black", elinewidth=0.7, capsize=1.5
        )


# Tasks, and changes --------------------------------------------------------------------------------------------------


def _cdf(plt: Any, rows: list[Row]) -> Any:
    """The share of tasks with at most a latency, a line a policy."""
    policies = _chosen(distinct(rows, "policy"))
    figure, axes = plt.subplots(figsize=(PAGE_IN, 0.5 + _height(len(policies))))
    for policy in policies:
        points = [row for row in rows if row["policy"] == policy]
        x = [number(row["latency_s"]) for row in points]
        axes.plot(x, [number(row["part"]) for row in points], **_unmarked(points[0], len(points)))
    axes.set_xscale("log")
    axes.set(xlabel="latency of a task (s), logarithmic", ylabel="share of tasks", ylim=(0, 1.02))
    _legend(plt, figure, axes, "")
    return figure


def _change(plt: Any, rows: list[Row]) -> Any:
    """What slots cost around a change of the world, a line a policy."""
    policies = _chosen(distinct(rows, "policy"))
    figure, panels = plt.subplots(1, len(CHANGES), figsize=(PAGE_IN, 0.3 + _height(len(policies))))
    for axes, (metric, title) in zip(panels, CHANGES.items(), strict=True):
        values = []
        for policy in policies:
            points = [row for row in rows if row["policy"] == policy and row["metric"] == metric]
            x = [number(row["slot"]) for row in points]
            y = [number(row["mean"]) for row in points]
            values += [value for value in y if math.isfinite(value)]
            axes.plot(x, y, **_unmarked(points[0], len(points)))
        label = f"{'cost' if rows[0]['of'] == 'cost' else 'Σ latency'} of a slot, ratio"
        if max(values) > 5 * min(values) > 0:
            axes.set_yscale("log")
            label += ", logarithmic"
            axes.yaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(plt.NullFormatter())
        axes.axvline(0, color="#555555", linewidth=0.6, linestyle=":")
        counts = [number(row["mean"]) for row in rows if row["metric"] == "changes"]
        after = f"slots after one of {max(counts):.0f} changes" if counts else "slots after the change"
        axes.set(xlabel=after, ylabel=label, title=title)
    _legend(plt, figure, panels[0], "")
    return figure


def _unmarked(row: Row, points: int) -> dict[str, Any]:
    """How the line of a policy looks that has many points: with a marker at some."""
    return {**look(row["policy"]), "label": row["label"], "markevery": max(1, points // 8), "markersize": 3}


# Convergence ---------------------------------------------------------------------------------------------------------


def _convergence(plt: Any, rows: list[Row], base: list[Row]) -> Any:
    """Validations while training, both levels; dashed: the least known."""
    policies = distinct(rows, "policy")
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_IN, _height(len(policies))))
    by_cost = any(row["metric"] == "cost" for row in rows)
    levels = {"hit_ratio": LEVELS["hit_ratio"], "cost": COST} if by_cost else LEVELS
    for axes, (metric, (name, title)) in zip(panels, levels.items(), strict=True):
        for policy in policies:
            points = [row for row in rows if row["policy"] == policy and row["metric"] == metric]
            _line(axes, [number(row["slots"]) for row in points], points)
        column = "latency_s" if metric == "latency" else metric
        least = [row for row in base if row["policy"] == YARDSTICK and row["metric"] == column]
        _room(axes, [*(row for row in rows if row["metric"] == metric), *least])
        for row in base:
            if row["policy"] == YARDSTICK and row["metric"] == column:
                dashed = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 0.8}
                axes.axhline(number(row["mean"]), label=row["label"], **dashed)
        axes.set(xlabel="slots trained on", ylabel=name, title=title)
        axes.set_xlim(left=0)
    _legend(plt, figure, panels[0], OVER_SEEDS if any(math.isfinite(_value(row).low) for row in rows) else "")
    return figure


# Sweeps --------------------------------------------------------------------------------------------------------------


def _sweep(plt: Any, rows: list[Row], key: str) -> Any:
    """Scores over the values of a setting, the most telling policies only."""
    policies = _chosen(distinct(rows, "policy"))
    numeric = all(math.isfinite(number(row["sweep_value"])) for row in rows)
    ticks = distinct(rows, "sweep_value")
    shown = axis(key, ticks)
    metrics = {name: axis for name, axis in SWEEPS.items() if any(row["metric"] == name for row in rows)}
    figure, panels = plt.subplots(1, len(metrics), figsize=(PAGE_IN, _height(len(policies))), squeeze=False)
    for axes, (metric, (name, better)) in zip(panels[0], metrics.items(), strict=True):
        for policy in policies:
            points = [row for row in rows if row["policy"] == policy and row["metric"] == metric]
            if numeric:
                points.sort(key=lambda row: number(row["sweep_value"]))
                x = [number(row["sweep_value"]) / shown.size for row in points]
            else:
                x = [float(ticks.index(row["sweep_value"])) for row in points]
            _line(axes, x, points)
        _room(axes, [row for row in rows if row["metric"] == metric and row["policy"] in policies])
        label = shown.label
        if numeric:
            logarithmic = _scale(axes, sorted({number(tick) / shown.size for tick in ticks}))
            label += ", logarithmic" if logarithmic else ""
        else:
            axes.set_xticks(range(len(ticks)), map(shown.short, ticks))
        axes.set(xlabel=label, ylabel=name, title=better)
    _legend(plt, figure, panels[0][0], _meaning(rows))
    return figure


def _front(plt: Any, rows: list[Row], key: str) -> Any:
    """Latency against energy, a point for each value of a preference: nearer the corner is better at both."""
    policies = _chosen(distinct(rows, "policy"))
    shown = axis(key, distinct(rows, "sweep_value"))
    figure, axes = plt.subplots(figsize=(0.6 * PAGE_IN, _height(len(policies)) + 0.6))
    for policy in policies:
        own = {(row["metric"], row["sweep_value"]): row for row in rows if row["policy"] == policy}
        values = [value for value in distinct(rows, "sweep_value") if (ENERGY, value) in own]
        points = [[_value(own[metric, value]).mean for value in values] for metric in (ENERGY, "latency_s")]
        label = rows[[row["policy"] for row in rows].index(policy)]["label"]
        axes.plot(*points, label=label, **look(policy))
        for value, *point in zip(values, *points, strict=True) if policy == policies[0] else ():
            text = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": "x-small"}
            axes.annotate(shown.short(value), point, **text)
    axes.set(xlabel="energy (J)", ylabel="Σ latency per slot (s)", title=f"a point for each {shown.label}")
    energies = [number(row["mean"]) for row in rows if row["metric"] == ENERGY]
    if min(energies) > 0 and max(energies) / min(energies) >= 8:
        axes.set_xscale("log")
        axes.set_xlabel("energy (J), logarithmic")
    axes.set_ylim(bottom=0)
    _legend(plt, figure, axes, "")
    return figure


def _scale(axes: Any, values: list[float]) -> bool:
    """Ticks at the values; a logarithmic axis, and so the answer, where they span a decade or so."""
    logarithmic = values[0] > 0 and values[-1] / values[0] >= 8
    if logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(values, [f"{value:g}" for value in values])
    return logarithmic


def _chosen(policies: list[str]) -> list[str]:
    """At most `MAX_LINES` policies: HADRL, the yardstick, learners, then heuristics; ablations last."""
    ranks = {"HADRL": 0, "learner": 1, "heuristic": 2, "knows the physics": 3, "ablation": 4}
    order = sorted(policies, key=lambda name: -1 if name == YARDSTICK else ranks[family(name)])
    kept = set(order[:MAX_LINES])
    return [policy for policy in policies if policy in kept]


def _line(axes: Any, x: list[float], points: list[Row]) -> None:
    """A line with its band; hollow markers where it is of one training."""
    if not points:
        return
    values = [_value(row) for row in points]
    mean, low, high = ([getattr(value, name) for value in values] for name in Value._fields)
    label, appearance = points[0]["label"], look(points[0]["policy"])
    if _one_training(points[0]):
        label += " (one training)"
        appearance["markerfacecolor"] = "white"
    band(axes, x, mean, low, high, label=label, **appearance)


def _height(lines: int) -> float:
    """Of a figure in inches: two lines of the plot stand beside each other in its legend."""
    return 2.1 + 0.08 * (lines + 2)


def _room(axes: Any, rows: list[Row]) -> None:
    """Limits that show all means: bands of few seeds may be cut."""
    means = [number(row["mean"]) for row in rows if math.isfinite(number(row["mean"]))]
    if means:
        space = 0.12 * (max(means) - min(means)) or 0.1 * abs(max(means)) or 1.0
        axes.set_ylim(min(means) - space, max(means) + space)


def _legend(plt: Any, figure: Any, axes: Any, meaning: str) -> None:
    """Below the panels; the last entry is what bands are.

    There is none for bands that mean nothing, where there are none.
    """
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        if meaning:
            handles.append(plt.Rectangle((0, 0), 1, 1, color="#555555", alpha=BAND_ALPHA, linewidth=0))
            labels.append(meaning)
        legend_below(figure, handles, labels)
