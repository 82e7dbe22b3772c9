"""What a report is made of: the result of every place, policy and seed, what belongs together in a table, and one
figure for many places: interquartile means, and how probably one policy beats another.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hadrl_lightning.benchmark.cells import CellResult, Outcome
from hadrl_lightning.benchmark.plan import Plan, draws
from hadrl_lightning.benchmark.players import is_trained
from hadrl_lightning.benchmark.policies import label_with
from hadrl_lightning.judge import (
    LEAST_KNOWN,
    TIMES,
    BestAndLast,
    Interval,
    Validation,
    best_and_last,
    interval,
    possible,
    student,
)
from hadrl_lightning.units import with_unit

SCORES = {
    "hit_ratio": "hit_ratio",
    "cost": "cost",
    "latency_s": "latency",
    "latency_p95_s": "latency_p95",
    "on_time": "on_time",
    "energy_j": "energy",
    "energy_dbm_s": "energy_dbm_s",
    "device_energy_j": "device_energy",
    "dropped": "dropped",
    "handovers": "handovers",
    "task_p95_s": "task_p95",
    "task_p99_s": "task_p99",
    "fairness": "fairness",
    "byte_hit_ratio": "byte_hit_ratio",
    "recovery_slots": "recovery_slots",
    "recovered": "recovered",
    "switching_s": "switching",
    "bandwidth_over_subscription": "bandwidth_over_subscription",
    "compute_over_subscription": "compute_over_subscription",
    "own_best_known_s": "own_best_known",
    "optimal_hit_ratio": "optimal_hit_ratio",
}
"""Column of a table and score of a cell."""
YARDSTICKS = ("own_best_known", "optimal_hit_ratio")
"""Scores that others are held against: tables show the ratios to them."""

Place = tuple[str, str, Any]
"""Scenario, key and value of a sweep."""

RESAMPLES = 2000
"""Of a bootstrap."""


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
    for name in TIMES:
        if all(name in result.decision_ms for result in results):
            found[name] = interval([result.decision_ms[name] for result in results])
    found = {column: one for column, one in found.items() if not math.isnan(one.mean)}
    cost = [result.episode_costs for result in results]
    if "own_best_known_s" in found:
        found[yardstick_columns(results[0])[0]] = found.pop("own_best_known_s")
        own = [result.episodes["own_best_known"] for result in results]
        found["ratio_to_own_best_known"] = interval(cost, own)
    if group.least is not None:
        found["ratio_to_least_known"] = interval(cost, [group.least.episode_costs])
    if "hit_ratio" in found:
        optimum = results[0].scores.get("optimal_hit_ratio", 0.0)
        hits = possible("hit_ratio", found["hit_ratio"])
        if optimum > 0:  # it is known, and there are caches that hold something
            found["ratio_to_optimal_hit_ratio"] = Interval(*(value / optimum for value in hits))
    courses = group.courses
    if courses:
        found["last_validation_ratio"] = interval([1 + one.rise for one in courses])
    return {column: possible(SCORES.get(column, column), one) for column, one in found.items()}


def yardstick_columns(result: CellResult) -> tuple[str, str]:
    """What tables call the best known under a policy's own caches and the least known: latencies in s, or costs."""
    unit = "s" if result.figure == "latency" else result.figure
    return f"own_best_known_{unit}", f"least_known_{unit}"


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


class Summary(NamedTuple):
    """A policy over all places in which it and the one it is compared with were measured."""

    policy: str
    label: str
    places: int
    ratio: Interval
    """Interquartile mean over places and seeds of the latency ÷ least known."""
    behind: Interval | None
    """Probability that a training of the first policy has less latency, by preferences less cost, than one of this;
    None for the first itself."""


def aggregate(records: Sequence[Record]) -> list[Summary]:
    """A summary of every policy that was measured in all places; the first one is what the others are compared with.

    The interquartile mean is that of the middle half of all runs, so that neither the easiest nor the hardest places
    decide. A probability is the share of pairs of seeds, ties by half, mean over places. Intervals (95 %) are of a
    bootstrap within each place, as places are chosen and only seeds are drawn; each draw is widened about its place's
    mean by sqrt(n / (n - 1)), without which few seeds give too narrow an interval. There is none where a place has one
    seed of a policy that is trained.
    """
    found = [group for group in groups(records) if group.least is not None]
    places = list(dict.fromkeys(group.first.place for group in found))
    by_policy: dict[str, list[Group]] = {}
    for group in found:
        by_policy.setdefault(group.first.policy, []).append(group)
    everywhere = {name: own for name, own in by_policy.items() if len(own) == len(places)}
    summaries: list[Summary] = []
    first: list[np.ndarray] | None = None
    for policy, own in everywhere.items():
        runs = [_ratios(group) for group in sorted(own, key=lambda group: places.index(group.first.place))]
        label, known = own[0].first.label, all(_spread_known(group) for group in own)
        ratio = _interval([runs], lambda drawn: _middle_mean(np.concatenate(drawn[0], axis=-1)), known)
        ratio = ratio.within(0.0, math.inf)
        behind = None
        if first is not None:
            both = known and all(_spread_known(group) for group in everywhere[summaries[0].policy])
            behind = _interval([first, runs], _probability, both).within(0.0, 1.0)
        else:
            first = runs
        summaries.append(Summary(policy, label, len(places), ratio, behind))
    return summaries


def _ratios(group: Group) -> np.ndarray:
    assert group.least is not None
    least = group.least.cost
    return np.array([[result.cost / least for result in group.results]])


def _spread_known(group: Group) -> bool:
    """Whether there is more than one run, or nothing that differs between runs."""
    policy = group.first.policy
    return len(group.results) > 1 or not (draws(policy) or is_trained(policy))


def _middle_mean(runs: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis; values at the quartiles count in part."""
    ordered, number = np.sort(runs, axis=-1), runs.shape[-1]
    inside = np.clip(np.arange(1, number + 1) - number / 4, 0, 1)
    inside = np.minimum(inside, inside[::-1])
    return (ordered * inside).sum(axis=-1) / inside.sum()


def _probability(drawn: list[list[np.ndarray]]) -> np.ndarray:
    """That a run of the first is below one of the second, mean over places."""
    shares = []
    for one, other in zip(*drawn, strict=True):
        difference = one[..., :, None] - other[..., None, :]
        shares.append(((difference < 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1)))
    return np.mean(shares, axis=0)


def _interval(runs: list[list[np.ndarray]], statistic: Any, known: bool) -> Interval:
    """The statistic of the runs [1, seeds] of every place, with Student's interval by its deviation over resamples.

    The middle half of the runs decides: of the degrees of freedom within places half are counted.
    """
    mean = float(statistic(runs)[0])
    if not known:
        return Interval(mean, float("nan"), float("nan"))
    generator = np.random.default_rng(0)
    drawn = [[_resampled(place, generator) for place in policy] for policy in runs]
    each = (sum(place.shape[1] - 1 for place in policy) for policy in runs)
    freedom = min((one for one in each if one), default=0)  # what does not draw has no spread to estimate
    deviation = float(statistic(drawn).std())
    return student(mean, deviation if deviation > 1e-9 * abs(mean) else 0.0, max(1, freedom // 2))


def _resampled(runs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    number = runs.shape[1]
    drawn = runs[0, generator.integers(number, size=(RESAMPLES, number))]
    wider = np.sqrt(number / (number - 1)) if number > 1 else 1.0
    return runs.mean() + wider * (drawn - runs.mean())
