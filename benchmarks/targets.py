"""Say which of the project's targets the results meet, from the tables of `hadrl benchmark`.

    python benchmarks/targets.py docs/results/capacity docs/results/transfer docs/results/transfer-tight

Each target is judged in every place (scenario and value of a sweep) by the mean over seeds; the worst place is shown.
"Ahead of a learner" compares the 95 % intervals of the latency: HADRL's must end below the learner's. The status is 1
if a target is missed.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from results_page import CAPACITY, place_name

from hadrl_lightning.benchmark import Archive, groups, intervals
from hadrl_lightning.benchmark.policies import LEARNERS
from hadrl_lightning.benchmark.records import Place
from hadrl_lightning.benchmark.report import seeds_text
from hadrl_lightning.plots.style import family
from hadrl_lightning.scenario import GIB


class Score(NamedTuple):
    """A mean with its interval."""

    mean: float
    low: float
    high: float
    seeds: int


class Target(NamedTuple):
    """A bound for a score of HADRL in some places."""

    text: str
    score: str
    bound: float
    at_least: bool
    capacities: tuple[float, ...] = ()
    """In GiB; empty: in the places where the number of users is swept."""


TIGHT, PUBLISHED = (40, 20), (200,)
TARGETS = (
    Target("200 GiB: hit ratio ≥ 0.995", "hit_ratio", 0.995, True, PUBLISHED),
    Target("200 GiB: latency ≤ 1.05 × least known", "ratio_to_least_known", 1.05, False, PUBLISHED),
    Target("40 and 20 GiB: hit ratio ≥ 0.97 × optimum", "ratio_to_optimal_hit_ratio", 0.97, True, TIGHT),
    Target(
        "40 and 20 GiB: latency ≤ 1.05 × best known under its own caches",
        "ratio_to_own_best_known",
        1.05,
        False,
        TIGHT,
    ),
    Target(
        "40 and 20 GiB: latency ≤ 1.10 × least known",
        "ratio_to_least_known",
        1.10,
        False,
        TIGHT,
    ),
    Target("other numbers of users: hit ratio ≥ 0.90 × optimum", "ratio_to_optimal_hit_ratio", 0.9, True),
    Target("other numbers of users: latency ≤ 1.15 × least known", "ratio_to_least_known", 1.15, False),
)
OWN = "hadrl"
"""The policy that is judged, or else a trained agent of it (its name ends in .ckpt)."""
USERS = "data.scenario.num_users"
"""The setting that is swept, as `CAPACITY` is, where agents are used without retraining."""

Scores = dict[Place, dict[str, dict[str, Score]]]
"""By place, policy and score."""


def scores_of(folders: list[Path]) -> Scores:
    """What the archives say."""
    scores: Scores = defaultdict(lambda: defaultdict(dict))
    for folder in folders:
        for group in groups(Archive(folder).records()):
            policy = OWN if group.first.policy.endswith(".ckpt") else group.first.policy
            for name, found in intervals(group).items():
                scores[group.first.place][policy][name] = Score(*found, len(group.results))
    return {place: policies for place, policies in scores.items() if OWN in policies}


def judged(target: Target, scores: Scores) -> tuple[str, bool]:
    """The worst place, and whether the target is met there."""
    found = []
    for place, policies in scores.items():
        _, key, value = place
        swept = key == CAPACITY and float(value) / GIB in target.capacities
        if swept or (not target.capacities and key == USERS):
            found.append((policies[OWN][target.score], place))
    if not found:
        return "not measured", False
    score, place = (min if target.at_least else max)(found)
    met = score.mean >= target.bound if target.at_least else score.mean <= target.bound
    seeds = seeds_text(one.seeds for one, _ in found)
    return f"{score.mean:.3f} in {place_name(place)}; {len(found)} places, {seeds}", met


def against_learners(scores: Scores) -> Iterator[tuple[str, str, bool]]:
    """For every learner: the place where it comes closest, and whether HADRL is ahead everywhere."""
    places = {place: policies for place, policies in scores.items() if place[1] == CAPACITY}
    for learner in (name for name in LEARNERS if family(name) == "learner"):
        found = [
            (policies[learner]["latency_s"], policies[OWN]["latency_s"], place)
            for place, policies in places.items()
            if learner in policies
        ]
        name = f"ahead of {LEARNERS[learner].label}"
        if not found:
            yield name, "not measured", False
            continue
        theirs, ours, place = min(found, key=lambda one: one[0].low / one[1].high)
        text = f"closest in {place_name(place)}: {_interval(ours)} against {_interval(theirs)} s"
        text += f"; {len(found)} of {len(places)} places, {seeds_text(one.seeds for one, _, _ in found)}"
        yield name, text, theirs.low > ours.high and len(found) == len(places)


def _interval(score: Score) -> str:
    return f"{score.mean:.2f} [{score.low:.2f}, {score.high:.2f}]"


def main() -> int:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="outputs of hadrl benchmark")
    scores = scores_of(parser.parse_args().folders)
    lines = [(target.text, *judged(target, scores)) for target in TARGETS]
    lines += against_learners(scores)
    print("| target, mean over seeds | measured, in the worst place | met |\n|---|---|---|")
    for text, found, met in lines:
        print(f"| {text} | {found} | {'yes' if met else '**no**'} |")
    return 0 if all(met for _, _, met in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
