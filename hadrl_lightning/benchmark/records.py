"""What a report is made of: the result of every place, policy and seed, and what belongs together in a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hadrl_lightning.benchmark.cells import CellResult, Outcome
from hadrl_lightning.benchmark.plan import Plan
from hadrl_lightning.benchmark.policies import label_with
from hadrl_lightning.judge import (
    LEAST_KNOWN,
    BestAndLast,
    Interval,
    Validation,
    best_and_last,
    interval,
    possible,
)
from hadrl_lightning.units import with_unit

SCORES = {
    "hit_ratio": "hit_ratio",
    "latency_s": "latency",
    "latency_p95_s": "latency_p95",
    "on_time": "on_time",
    "energy_j": "energy",
    "energy_dbm_s": "energy_dbm_s",
    "switching_s": "switching",
    "bandwidth_over_subscription": "bandwidth_over_subscription",
    "compute_over_subscription": "compute_over_subscription",
    "own_best_known_s": "own_best_known",
    "optimal_hit_ratio": "optimal_hit_ratio",
}
"""Column of a table and score of a cell."""

Place = tuple[str, str, Any]
"""Scenario, key and value of a sweep."""


class Record(NamedTuple):
    """The result of one policy with one seed in one place."""

    scenario: str
    """Names of the settings files, such as `es2-tight`."""
    sweep_key: str
    """Empty without a sweep."""
    sweep_value: Any
    policy: str
    label: str
    """What a table calls the policy."""
    seed: int
    key: str
    """Of the cell."""
    result: CellResult

    @property
    def place(self) -> Place:
        """Where it is compared with other policies."""
        return self.scenario, self.sweep_key, self.sweep_value


class Group(NamedTuple):
    """One policy in one place: its results by seed, one only where the policy does not draw."""

    first: Record
    results: list[CellResult]
    seeds: list[int]
    """One for every result, but all of them where one result serves all seeds."""
    least: CellResult | None
    """That of the least latency known in the same place."""

    @property
    def draws(self) -> bool:
        """Whether each seed has a result of its own, as far as is known."""
        return len(self.results) == len(self.seeds)

    @property
    def courses(self) -> list[BestAndLast]:
        """The best and the last validation of every training."""
        found = (best_and_last(validations(result)) for result in self.results)
        return [one for one in found if one is not None]


def records_of(plan: Plan, outcomes: Mapping[str, Outcome]) -> list[Record]:
    """The results of a plan in its order, without the cells that failed or were not computed."""
    found = []
    for entry in plan.entries:
        result = outcomes[entry.cell.key].result
        if result is not None:
            place = (entry.scenario, entry.sweep_key, entry.sweep_value)
            label = label_with(entry.label, result.scores)
            found.append(Record(*place, entry.policy, label, entry.seed, entry.cell.key, result))
    return found


def groups(records: Iterable[Record]) -> list[Group]:
    """The records by place and policy, in their order; those of the same cell once."""
    found: dict[tuple[Place, str], dict[str, list[Record]]] = {}
    for record in records:
        cells = found.setdefault((record.place, record.policy), {})
        cells.setdefault(record.key, []).append(record)
    least = {
        place: next(iter(cells.values()))[0].result
        for (place, policy), cells in found.items()
        if policy == LEAST_KNOWN
    }
    return [
        Group(
            next(iter(cells.values()))[0],
            [same[0].result for same in cells.values()],
            [record.seed for same in cells.values() for record in same],
            least.get(place),
        )
        for (place, _), cells in found.items()
    ]


def intervals(group: Group) -> dict[str, Interval]:
    """Mean and 95 % interval of every column of a group; columns that make no sense for the policy are left out."""
    found = {}
    results = group.results
    for column, score in SCORES.items():
        if all(score in result.episodes for result in results):
            found[column] = interval([result.episodes[score] for result in results])
        elif all(score in result.scores for result in results):
            found[column] = interval([result.scores[score] for result in results])
    latency = [result.episodes["latency"] for result in results]
    if "own_best_known_s" in found:
        own = [result.episodes["own_best_known"] for result in results]
        found["ratio_to_own_best_known"] = interval(latency, own)
    if group.least is not None:
        found["ratio_to_least_known"] = interval(latency, [group.least.episodes["latency"]])
    if "hit_ratio" in found:
        optimum = results[0].scores.get("optimal_hit_ratio", 0.0)
        hits = possible("hit_ratio", found["hit_ratio"])
        if optimum > 0:  # it is known, and there are caches that hold something
            found["ratio_to_optimal_hit_ratio"] = Interval(*(value / optimum for value in hits))
    courses = group.courses
    if courses:
        found["last_validation_ratio"] = interval([1 + one.rise for one in courses])
    return {column: possible(SCORES.get(column, column), one) for column, one in found.items()}


def validations(result: CellResult) -> list[Validation]:
    """Those made while a cell was trained."""
    return [
        Validation(**{name: point[name] for name in Validation._fields if name in point})
        for point in result.curve
    ]


def early_bests(found: Sequence[Group]) -> list[str]:
    """In words: trainings whose best validation was made before the caching agent had learnt anything."""
    texts = []
    for group in found:
        early = [
            seed
            for seed, result in zip(group.seeds, group.results, strict=False)
            if (course := best_and_last(validations(result))) and not course.best.caching_learnt
        ]
        optimum = group.results[0].scores.get("optimal_hit_ratio", 0.0)
        if early and optimum < 1:
            which = ", ".join(map(str, early))
            texts.append(
                f"{group.first.label} in {place_name(group.first.place)}, seed {which}: the best validation was made "
                "before the caching agent had learnt anything (planning.caching_warmup_epochs)"
            )
    return texts


def place_name(place: Place) -> str:
    """A place in words."""
    scenario, key, value = place
    return f"{scenario}, {key} = {with_unit(key, value)}" if key else scenario
