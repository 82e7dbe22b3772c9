"""One figure for many places: interquartile means, and how probably one policy beats another."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hadrl_lightning.benchmark.records import Group, Record, groups
from hadrl_lightning.judge import Interval, student

RESAMPLES = 2000


class Summary(NamedTuple):
    """A policy over all places in which it and the one it is compared with were measured."""

    policy: str
    label: str
    places: int
    ratio: Interval
    """Interquartile mean over places and seeds of the latency ÷ least known."""
    behind: Interval | None
    """Probability that a training of the first policy has less latency than one of this; None for the first itself."""


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
    least = group.least.scores["latency"]
    return np.array([[result.scores["latency"] / least for result in group.results]])


def _spread_known(group: Group) -> bool:
    """Whether there is more than one run, or nothing that differs between runs."""
    return len(group.results) > 1 or not group.results[0].slots


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
