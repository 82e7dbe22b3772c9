"""Tables of a benchmark: one row a cell, means with intervals, learning curves; as CSV and for the terminal."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hadrl_lightning.benchmark.records import (
    SCORES,
    YARDSTICKS,
    Group,
    Place,
    Record,
    Summary,
    aggregate,
    groups,
    intervals,
    place_name,
    yardstick_columns,
)
from hadrl_lightning.benchmark.spread import spread_rows, suite_of, suite_tables, write_places
from hadrl_lightning.files import replacing
from hadrl_lightning.judge import (
    BEFORE,
    FURTHER,
    NONE,
    TIMES,
    BestAndLast,
    Interval,
    cell,
    figures_table,
    interval,
    possible,
)

Row = dict[str, Any]

OF_A_VALIDATION = ("slots", "validation_s", "validation_cost")
"""What `results.csv` has of the best validation and of the last one."""
CURVES = ("hit_ratio", "latency", "cost", "on_time")
"""Scores whose learning curves are kept, as far as validations have them."""
FIGURES = {
    **{column: score for column, score in SCORES.items() if score not in YARDSTICKS},
    **{name: name for name in TIMES},
    "ratio_to_optimal_hit_ratio": "hit_ratio_share",
    "ratio_to_own_best_known": "own_ratio",
    "ratio_to_least_known": "least_ratio",
}
"""Column of a CSV file, and the figure of `judge.HEADINGS` that a table shows it as."""
PLACES = "places.json"
"""What the figures of a suite are drawn of."""
A_LINE = 5
"""Seeds whose latencies stand beside each other."""


def result_rows(records: Sequence[Record]) -> list[Row]:
    """One row a cell and seed."""
    rows = []
    least = {group.first.place: group.least for group in groups(records)}
    shown = {
        column: score
        for column, score in SCORES.items()
        if score != "own_best_known" and any(score in record.result.scores for record in records)
    }
    times = {name for record in records for name in record.result.decision_ms}
    yardsticks = dict.fromkeys(name for record in records for name in yardstick_columns(record.result))
    for record in records:
        result, yardstick = record.result, least[record.place]
        scores = result.scores
        row = {**_head(record), "seed": record.seed, "training_slots": result.slots}
        row |= {"training_s": round(result.training_s, 2), "evaluation_s": round(result.evaluation_s, 2)}
        row |= {column: scores.get(score) for column, score in shown.items()}
        least_cost = yardstick.cost if yardstick else None
        row |= {name: result.decision_ms.get(name) for name in TIMES if name in times}
        known = (scores.get("own_best_known"), least_cost)
        row |= dict.fromkeys(yardsticks) | dict(zip(yardstick_columns(result), known, strict=True))
        row["ratio_to_own_best_known"] = _ratio(result.cost, scores.get("own_best_known"))
        row["ratio_to_least_known"] = _ratio(result.cost, least_cost)
        row["ratio_to_optimal_hit_ratio"] = _ratio(scores.get("hit_ratio"), scores.get("optimal_hit_ratio"))
        row |= _course(record)
        row["cell"] = record.key
        rows.append(row)
    return rows


def write_report(records: Sequence[Record], folder: Path) -> None:
    """Write results.csv (a row a cell), summary.csv (means with intervals), curves.csv (validations), tasks.csv (how
    the latency of tasks is spread) and changes.csv (slots around changes of the world).

    Of a suite, in place of the last two, distribution.csv and places.json, of which its figures are drawn.
    """
    _write(folder / "results.csv", result_rows(records))
    summary, curves = [], []
    for group in groups(records):
        head = {**_head(group.first), "seeds": len(group.seeds), "trainings": _trainings(group)}
        for metric, found in intervals(group).items():
            summary.append({**head, "metric": metric, **found._asdict()})
        for point in _curve(group):
            curves.append({**head, **point})
    _write(folder / "summary.csv", summary)
    _write(folder / "curves.csv", curves)
    _write(folder / "aggregate.csv", [_aggregate_row(one) for one in aggregate_of(records)])
    suite = suite_of(records)
    of_places = [] if suite else groups(records)
    _write(folder / "tasks.csv", [row for group in of_places for row in _tasks(group)])
    _write(folder / "changes.csv", [row for group in of_places for row in _changes(group)])
    _write(folder / "distribution.csv", spread_rows(records) if suite else [])
    if suite:
        write_places(records, folder / PLACES)
    else:
        (folder / PLACES).unlink(missing_ok=True)


def aggregate_of(records: Sequence[Record]) -> list[Summary]:
    """A summary of every policy over all places; none where there is one place."""
    return aggregate(records) if len({record.place for record in records}) > 1 else []


def result_table(records: Sequence[Record]) -> list[Table]:
    """A table for every scenario and sweep value; of a suite how policies are spread over its networks."""
    if suite_of(records):
        return suite_tables(records)
    by_place: dict[Place, list[Group]] = {}
    for group in groups(records):
        by_place.setdefault(group.first.place, []).append(group)
    tables = [table for place, found in by_place.items() for table in _tables(place, found)]
    summaries = aggregate_of(records)
    return [*tables, _summary_table(summaries, records[0].result.figure)] if summaries else tables


def _tables(place: Place, found: list[Group]) -> list[Table]:
    first = found[0].results[0]
    optimum = first.scores.get("optimal_hit_ratio")
    figure = "Σ latency (s)" if first.figure == "latency" else first.figure
    rows = [(group.first.label, _figures(intervals(group))) for group in found]
    further = {
        f"{figure} of every seed": [seeds_text_of(group) for group in found],
        "best validation after (slots)": [slots_text(group) for group in found],
        "last ÷ best validation": [rises_text(group) for group in found],
        "seeds": [str(len(group.seeds)) for group in found],
        "slots": [_slots(group) for group in found],
        "training (s)": [_training(group) for group in found],
    }
    further = {heading: cells for heading, cells in further.items() if set(cells) != {NONE}}
    title = (
        f"{place_name(place)}: {len(first.episode_costs)} test episodes, mean ± 95 % interval over "
        f"{'seeds and ' if any(len(group.results) > 1 for group in found) else ''}episodes"
        + ("" if optimum is None else f"; hit ratio expected of the best caches {optimum:.3f}")
    )
    tables = [figures_table(title, "policy", rows, further)]
    if any(name in figures for _, figures in rows for name in FURTHER):
        tables.append(figures_table("spread, and further figures", "policy", rows, headings=FURTHER))
    return tables


def _summary_table(summaries: Sequence[Summary], figure: str) -> Table:
    first = summaries[0]
    heading = f"probability that {first.label} has less {figure}"
    return figures_table(
        f"all {first.places} places: interquartile mean over places and seeds, ± 95 % interval over seeds",
        "policy",
        [(one.label, {"least_ratio": one.ratio}) for one in summaries],
        {heading: [cell(one.behind, "{:.3f}") for one in summaries]},
    )


def _aggregate_row(one: Summary) -> Row:
    row: Row = {"policy": one.policy, "label": one.label, "places": one.places}
    for name, found in (
        ("ratio_to_least_known_iqm", one.ratio),
        ("probability_that_first_is_better", one.behind),
    ):
        values = found._asdict() if found is not None else dict.fromkeys(Interval._fields)
        row |= {name if part == "mean" else f"{name}_{part}": value for part, value in values.items()}
    return row


def _figures(found: dict[str, Interval]) -> dict[str, Interval]:
    return {figure: found[column] for column, figure in FIGURES.items() if column in found}


def seeds_text_of(group: Group, between: str = "") -> str:
    """The latencies of all seeds, or the costs by preferences, in their order.

    A few are on a line where nothing is said of what is between them.
    """
    if len(group.results) < 2:
        return NONE
    texts = [f"{result.cost:.1f}" for result in group.results]
    if between:
        return between.join(texts)
    return "\n".join(" ".join(texts[start : start + A_LINE]) for start in range(0, len(texts), A_LINE))


def slots_text(group: Group) -> str:
    """After how many slots the best validations were made."""
    return _span([f"{one.best.slots:,.0f}" for one in sorted(group.courses, key=lambda one: one.best.slots)])


def rises_text(group: Group) -> str:
    """How many times the latency of the best validations the last ones have."""
    return _span([f"{1 + one.rise:.3f}" for one in sorted(group.courses, key=lambda one: one.rise)])


def _slots(group: Group) -> str:
    slots = max(result.slots for result in group.results)
    return f"{slots:,}" if slots else NONE


def _training(group: Group) -> str:
    times = [result.training_s for result in group.results if result.slots]
    return f"{sum(times) / len(times):.0f}" if times else NONE


def _span(ordered: list[str]) -> str:
    """The least and the greatest of them."""
    if not ordered:
        return NONE
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"


def _trainings(group: Group) -> int:
    """Of how many trainings a mean is; 0 for what is not trained."""
    return sum(result.slots > 0 for result in group.results)


def _curve(group: Group) -> Iterable[Row]:
    """Validation by validation the mean over seeds with its interval."""
    for points in zip(*(result.curve for result in group.results), strict=False):
        slots = sum(point["slots"] for point in points) / len(points)
        for metric in CURVES:
            if not all(metric in point for point in points):
                continue
            found = possible(metric, interval([point[metric] for point in points]))
            yield {"metric": metric, "slots": slots, **found._asdict()}


def _tasks(group: Group) -> Iterable[Row]:
    """Quantiles of the latency of tasks, mean over seeds."""
    known = [result.task_quantiles for result in group.results if result.task_quantiles]
    head = {**_head(group.first), "seeds": len(group.seeds)}
    for number, values in enumerate(zip(*known, strict=True)):
        part = number / (len(known[0]) - 1)
        yield {**head, "part": part, "latency_s": sum(values) / len(values)}


def _changes(group: Group) -> Iterable[Row]:
    """What slots cost around changes of the world, mean over seeds."""
    known = [result.around_changes for result in group.results if result.around_changes]
    head = {**_head(group.first), "seeds": len(group.seeds), "of": group.results[0].figure}
    for metric in known[0] if known else ():
        if not all(metric in one for one in known):  # of an earlier version
            continue
        for slot, values in enumerate(zip(*(one[metric] for one in known), strict=True), start=-BEFORE):
            yield {**head, "metric": metric, "slot": slot, "mean": sum(values) / len(values)}


def _course(record: Record) -> Row:
    """The best and the last validation of the cell's training."""
    courses = groups([record])[0].courses
    if not courses:
        return {f"{when}_{name}": None for when in BestAndLast._fields for name in OF_A_VALIDATION}
    (course,) = courses
    return {
        f"{when}_{name}": value
        for when, one in zip(BestAndLast._fields, course, strict=True)
        for name, value in zip(OF_A_VALIDATION, (one.slots, one.latency, one.cost), strict=True)
    }


def _head(record: Record) -> Row:
    return {
        "policy": record.policy,
        "label": record.label,
        "scenario": record.scenario,
        "sweep_key": record.sweep_key,
        "sweep_value": "" if record.sweep_value is None else record.sweep_value,
    }


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference


def _write(path: Path, rows: list[Row]) -> None:
    """Replace the file in one go, numbers with seven significant digits; without rows there is none."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: _text(one) if isinstance(one, float) else one for name, one in row.items()}
            )


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.7g}"
