"""Tables of a benchmark: one row a cell, means with intervals, learning curves; as CSV and for the terminal."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from ..files import replacing
from .cells import CellResult
from .plan import Entry, Plan
from .policies import REFERENCE, label_of
from .runner import Outcome
from .statistics import Interval, bootstrap

Row = dict[str, Any]

SCORES = {
    "hit_ratio": "hit_ratio",
    "latency_s": "latency",
    "latency_p95_s": "latency_p95",
    "on_time": "on_time",
    "energy_j": "energy",
    "switching_s": "switching",
    "bandwidth_over_subscription": "bandwidth_over_subscription",
    "compute_over_subscription": "compute_over_subscription",
    "own_best_known_s": "own_best_known",
    "optimal_hit_ratio": "optimal_hit_ratio",
}
"""Column of a table and score of a cell."""
CURVES = ("hit_ratio", "latency", "on_time")
"""Scores whose learning curves are kept."""
TABLE = {
    "hit_ratio": ("hit ratio", "{:.3f}"),
    "latency_s": ("Σ latency (s)", "{:.2f}"),
    "ratio_to_own_best_known": ("÷ best, own caches", "{:.3f}"),
    "ratio_to_best_known": ("÷ best known", "{:.3f}"),
    "on_time": ("on time", "{:.3f}"),
    "energy_j": ("energy (J)", "{:.2f}"),
    "switching_s": ("switching (s)", "{:.1f}"),
}
"""Columns in the terminal."""
BRIEF = ("hit_ratio", "latency_s", "ratio_to_best_known", "on_time")
"""Of these, what a narrow terminal shows."""
OVER = {
    "bandwidth_over_subscription": ("bandwidth over", "{:.2f}"),
    "compute_over_subscription": ("compute over", "{:.2f}"),
}
"""Further columns where some policy allots more than there is (`published` physics)."""


class Group(NamedTuple):
    """One policy in one scenario at one sweep value: its results by seed, one only where the policy does not draw."""

    entry: Entry
    results: list[CellResult]
    num_seeds: int
    reference: list[CellResult]
    """Those of the yardstick in the same scenario."""
    training_s: float


def result_rows(plan: Plan, outcomes: Mapping[str, Outcome]) -> list[Row]:
    """One row a cell and seed, failed ones left out."""
    rows = []
    references = _references(plan, outcomes)
    for entry in plan.entries:
        result = outcomes[entry.cell.key].result
        if result is None:
            continue
        scores, best = result.scores, references.get(_place(entry))
        row = {**_head(entry, plan), "seed": entry.seed, "training_slots": result.slots}
        row |= {"training_s": round(result.training_s, 2), "evaluation_s": round(result.evaluation_s, 2)}
        row |= {column: scores.get(score) for column, score in SCORES.items()}
        best_latency = best[0].scores["latency"] if best else None
        row["best_known_s"] = best_latency
        row["ratio_to_own_best_known"] = _ratio(scores["latency"], scores.get("own_best_known"))
        row["ratio_to_best_known"] = _ratio(scores["latency"], best_latency)
        row["ratio_to_optimal_hit_ratio"] = _ratio(scores.get("hit_ratio"), scores["optimal_hit_ratio"])
        row["cell"] = entry.cell.key
        rows.append(row)
    return rows


def groups(plan: Plan, outcomes: Mapping[str, Outcome]) -> list[Group]:
    """The results by policy, scenario and sweep value, in the order of the plan."""
    references = _references(plan, outcomes)
    found: dict[tuple[Any, ...], tuple[Entry, dict[str, CellResult], list[int]]] = {}
    for entry in plan.entries:
        result = outcomes[entry.cell.key].result
        if result is None:
            continue
        place = (*_place(entry), entry.policy)
        _, cells, seeds = found.setdefault(place, (entry, {}, []))
        cells[entry.cell.key] = result
        seeds.append(entry.seed)
    return [
        Group(
            entry,
            list(cells.values()),
            len(seeds),
            references.get(_place(entry), []),
            sum(result.training_s for result in cells.values()) / len(cells),
        )
        for entry, cells, seeds in found.values()
    ]


def intervals(group: Group) -> dict[str, Interval]:
    """Mean and 95 % interval of every column of a group; columns that make no sense for the policy are left out."""
    found = {}
    for column, score in SCORES.items():
        if all(score in result.episodes for result in group.results):
            found[column] = bootstrap([result.episodes[score] for result in group.results])
        elif all(score in result.scores for result in group.results):
            found[column] = bootstrap([result.scores[score] for result in group.results])
    latency = [result.episodes["latency"] for result in group.results]
    if "own_best_known_s" in found:
        own = [result.episodes["own_best_known"] for result in group.results]
        found["ratio_to_own_best_known"] = bootstrap(latency, own)
    if group.reference:
        best = [group.reference[0].episodes["latency"]]
        found["ratio_to_best_known"] = bootstrap(latency, best)
    if "hit_ratio" in found:
        optimum = group.results[0].scores["optimal_hit_ratio"]
        found["ratio_to_optimal_hit_ratio"] = Interval(*(value / optimum for value in found["hit_ratio"]))
    return found


def write_report(plan: Plan, outcomes: Mapping[str, Outcome], folder: Path) -> None:
    """Write results.csv (a row a cell), summary.csv (means with intervals) and curves.csv (validations)."""
    _write(folder / "results.csv", result_rows(plan, outcomes))
    summary, curves = [], []
    for group in groups(plan, outcomes):
        head = _head(group.entry, plan)
        for metric, interval in intervals(group).items():
            summary.append({**head, "metric": metric, **interval._asdict(), "seeds": group.num_seeds})
        for point in _curve(group):
            curves.append({**head, **point, "seeds": group.num_seeds})
    _write(folder / "summary.csv", summary)
    _write(folder / "curves.csv", curves)


def result_table(plan: Plan, outcomes: Mapping[str, Outcome], brief: bool = False) -> list[Table]:
    """A table for every scenario and sweep value; a brief one has fewer columns and no intervals."""
    by_place: dict[tuple[str, str, Any], list[tuple[Group, dict[str, Interval]]]] = {}
    for group in groups(plan, outcomes):
        by_place.setdefault(_place(group.entry), []).append((group, intervals(group)))
    return [_table(plan, rows, brief) for rows in by_place.values()]


def _table(plan: Plan, rows: list[tuple[Group, dict[str, Interval]]], brief: bool) -> Table:
    first = rows[0][0]
    scenario, key, value = _place(first.entry)
    where = scenario + (f", {key} = {value}" if key else "")
    optimum = first.results[0].scores["optimal_hit_ratio"]
    seeds = seeds_text(group.num_seeds for group, _ in rows)
    table = Table(
        title=f"{where}: {len(first.results[0].episodes['latency'])} test episodes, {seeds}, "
        f"mean{'' if brief else ' [95 % interval]'}; hit ratio expected of the best caches {optimum:.3f}",
        title_justify="left",
    )
    columns = {name: TABLE[name] for name in BRIEF} if brief else dict(TABLE)
    columns |= {
        name: entry
        for name, entry in OVER.items()
        if any(found[name].mean > 0.001 for _, found in rows if name in found)
    }
    table.add_column("policy", no_wrap=True)
    for title in [title for title, _ in columns.values()] + (
        [] if brief else ["seeds", "slots", "training (s)"]
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for group, found in rows:
        cells = [_cell(found.get(name), form, brief) for name, (_, form) in columns.items()]
        slots = max(result.slots for result in group.results)
        if not brief:
            cells += [
                str(group.num_seeds),
                *([f"{slots:,}", f"{group.training_s:.0f}"] if slots else ["–", "–"]),
            ]
        table.add_row(label_of(group.entry.policy, plan.settings.published_size), *cells)
    return table


def seeds_text(counts: Iterable[int]) -> str:
    """How many seeds there are, from the numbers of each: `1 seed`, `2 to 5 seeds`."""
    different = set(counts)
    least, most = min(different), max(different)
    return f"{most} seed{'s' * (most > 1)}" if least == most else f"{least} to {most} seeds"


def _cell(interval: Interval | None, form: str, brief: bool) -> str:
    if interval is None:
        return "–"
    mean, low, high = (form.format(value) for value in interval)
    return mean if brief or low == high or interval.low != interval.low else f"{mean} [{low}, {high}]"


def _curve(group: Group) -> Iterable[Row]:
    """Validation by validation the mean over seeds with its interval."""
    for points in zip(*(result.curve for result in group.results), strict=False):
        for metric in CURVES:
            interval = bootstrap([point[metric] for point in points])
            slots = sum(point["slots"] for point in points) / len(points)
            yield {"metric": metric, "slots": slots, **interval._asdict()}


def _references(plan: Plan, outcomes: Mapping[str, Outcome]) -> dict[tuple[str, str, Any], list[CellResult]]:
    found = {}
    for entry in plan.entries:
        result = outcomes[entry.cell.key].result
        if entry.policy == REFERENCE and result is not None:
            found[_place(entry)] = [result]
    return found


def _place(entry: Entry) -> tuple[str, str, Any]:
    return entry.scenario, entry.sweep_key, entry.sweep_value


def _head(entry: Entry, plan: Plan) -> Row:
    return {
        "policy": entry.policy,
        "label": label_of(entry.policy, plan.settings.published_size),
        "scenario": entry.scenario,
        "sweep_key": entry.sweep_key,
        "sweep_value": "" if entry.sweep_value is None else entry.sweep_value,
    }


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference


def _write(path: Path, rows: list[Row]) -> None:
    """Replace the file in one go; without rows there is none."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
