"""What episodes score: the same figures for validation, test and benchmark; and the rule that keeps the best weights.

There is one rule of what is better, whoever trains and whoever asks.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hadrl_lightning.judge.intervals import Interval, interval
from hadrl_lightning.judge.references import Recovery, recovery, slot_costs
from hadrl_lightning.metrics import ServiceLatency
from hadrl_lightning.play import Episode, EpisodeScores, episode_scores
from hadrl_lightning.scenario import Physics, Preferences, Scenario
from hadrl_lightning.scenario.preferences import USUAL
from hadrl_lightning.simulator import rules

BY_EPISODE = (
    "hit_ratio",
    "latency",
    "on_time",
    "energy",
    "switching",
    "bandwidth_over_subscription",
    "compute_over_subscription",
    "byte_hit_ratio",
    "fairness",
    "task_p95",
    "task_p99",
    "dropped",
    "handovers",
    "device_energy",
)
"""Figures that every single episode has, an `EpisodeScores` field each."""
OF_CHANGES = Recovery._fields
"""Figures that an episode has where its world changes and the best known decisions were played beside."""
TIMES = ("offloading_ms", "offloading_ms_p95", "caching_ms")
"""Figures that are measured by a clock, and are others each time: wall time of a decision for a network, mean and 95th
percentile over slots, and mean over frames, ms."""
SHARES = ("hit_ratio", "on_time", "byte_hit_ratio", "fairness", "dropped", "recovered")
"""Figures that are at most 1."""


def possible(name: str, found: Interval) -> Interval:
    """The interval of a figure without what it cannot be: none is below 0, and shares are not above 1."""
    return found.within(0.0, 1.0 if name in SHARES else math.inf)


def by_unit(figures: Mapping[str, Any], physics: Physics) -> dict[str, Any]:
    """The figures by their names among `HEADINGS`: `energy` is in J, an energy in another unit has its own name.

    Where that is no energy in J, there is none of devices.
    """
    laws = rules(physics)
    if laws.energy_unit == "J":
        return dict(figures)
    return {
        laws.energy_column if name == "energy" else name: value
        for name, value in figures.items()
        if name != "device_energy"
    }


class Scoreboard:
    """Scores of one policy over episodes.

    Every rank plays the same episodes, so nothing is gathered from the others.

    Args:
        name: of the policy.
        preferences: by which the cost is reckoned, a figure of its own where it is not the latency.
    """

    def __init__(self, name: str, preferences: Preferences = USUAL) -> None:
        self.name = name
        self.preferences = preferences
        self._p95 = ServiceLatency(quantile=0.95, sync_on_compute=False)
        self._scores: list[dict[str, Tensor]] = []
        self._taken_s: dict[str, list[Tensor]] = {"offloading": [], "caching": []}

    @property
    def num_episodes(self) -> int:
        """Episodes scored so far."""
        return sum(len(scores["latency"]) for scores in self._scores)

    def add(self, episode: Episode, best: Episode | None = None) -> None:
        """Score the B episodes of a batch, beside the best known decisions under its caches, if given."""
        episode = Episode(*(value.cpu() for value in episode))
        for latency in episode.latency:
            self._p95.update(latency)
        scores = episode_scores(episode, self.preferences)._asdict()
        if best is not None:
            costs = (slot_costs(one, self.preferences).cpu() for one in (episode, best))
            scores |= recovery(episode.changed, *costs)._asdict()
        self._scores.append(scores)
        self._taken_s["offloading"].append(episode.offloading_s.flatten())
        self._taken_s["caching"].append(episode.caching_s.flatten())

    def values(self) -> dict[str, Tensor]:
        """Every figure but `times`: means over the episodes that have it; `latency_p95` is of all slots together."""
        names = (*BY_EPISODE, *self.further, "offloading_reward", "published_caching_reward")
        values = {name: self._column(name).nanmean() for name in names}
        return {name: value.float() for name, value in values.items()} | {"latency_p95": self._p95.compute()}

    def episodes(self) -> dict[str, list[float]]:
        """Of the figures that an episode has by itself, those of every episode; not a number where it lacks one."""
        return {name: self._column(name).tolist() for name in (*BY_EPISODE, *self.further)}

    @property
    def further(self) -> tuple[str, ...]:
        """Figures that not every world has: the cost where it is not the latency, and those of changes."""
        changes = [
            one for one in self._scores if OF_CHANGES[0] in one and one[OF_CHANGES[0]].isfinite().any()
        ]
        return (*(() if self.preferences.latency_alone else ("cost",)), *(OF_CHANGES if changes else ()))

    def times(self) -> dict[str, Tensor]:
        """What decisions took, by the names of `TIMES`, ms."""
        offloading, caching = (torch.cat(one).double() * 1e3 for one in self._taken_s.values())
        return dict(zip(TIMES, (offloading.mean(), offloading.quantile(0.95), caching.mean()), strict=True))

    def compared(self, scenario: Scenario) -> float:
        """The figure by which validations of a scenario are compared: see `compared_by`."""
        name = compared_by(scenario)
        figure = self._column(name.removeprefix("log_"))
        if not name.startswith("log_"):
            return float(figure.mean())
        return float(figure[figure > 0].double().log().mean())  # an episode without a task has no logarithm

    def interval(self, name: str) -> Interval | None:
        """A figure's mean over episodes with its interval; None for a percentile."""
        if name not in (*EpisodeScores._fields, *self.further):
            return None
        return possible(name, interval([self._column(name).tolist()]))

    def ratio(self, reference: "Scoreboard | list[float]") -> Interval:
        """Cost, by default latency, in terms of another one's on the same episodes, with the interval over episodes."""
        below = reference.episode_costs() if isinstance(reference, Scoreboard) else reference
        return possible("ratio", interval([self.episode_costs()], [below]))

    def episode_costs(self) -> list[float]:
        """The cost of every episode by the preferences: by default its latency in s."""
        return self._column("cost").tolist()

    def _column(self, name: str) -> Tensor:
        return torch.cat([scores[name] for scores in self._scores if name in scores])


def improves(value: float, best: float | None, mode: str = "min") -> bool:
    """Whether a validation is better than the best one so far (`min` or `max`); what is not a number never is."""
    if math.isnan(value):
        return False
    return best is None or (value < best if mode == "min" else value > best)


def compared_by(scenario: Scenario) -> str:
    """The figure by which validations of a scenario are compared: the latency, or the cost by its preferences.

    A sum of latencies in s is ruled by the slowest networks: where networks differ each counts alike by its logarithm.
    """
    name = scenario.preferences.figure
    return f"log_{name}" if scenario.ranges else name


class Validation(NamedTuple):
    """What a validation found, and when."""

    slots: float
    """Slots trained on by then, over all networks."""
    latency: float
    """Summed over users, mean over slots, s."""
    hit_ratio: float
    on_time: float
    epoch: int = 0
    """Epochs trained by then; 0 for a learner that has none."""
    caching_learnt: bool = True
    """Whether the caching agent had learnt anything by then: it waits for the fast level (`caching_warmup_epochs`)."""
    log_latency: float | None = None
    """Mean over networks of the logarithm of their latency, or of their cost where there is one, where networks
    differ; else None."""
    cost: float | None = None
    """By the preferences, summed over users, mean over slots; None where it is the latency."""

    @property
    def compared(self) -> float:
        """The number that says which validation is best, the least: see `compared_by`."""
        if self.log_latency is not None:
            return self.log_latency
        return self.latency if self.cost is None else self.cost

    @property
    def told(self) -> float:
        """The same as a latency in s, or as a cost: where networks differ, the geometric mean over them."""
        return self.compared if self.log_latency is None else math.exp(self.log_latency)


def validated(board: Scoreboard, scenario: Scenario, slots: float, **more: Any) -> Validation:
    """What a validation on episodes of a scenario found, as its scoreboard has it; `more` are further fields."""
    values = board.values()
    return Validation(
        slots=float(slots),
        latency=float(values["latency"]),
        hit_ratio=float(values["hit_ratio"]),
        on_time=float(values["on_time"]),
        log_latency=board.compared(scenario) if scenario.ranges else None,
        cost=float(values["cost"]) if "cost" in values else None,
        **more,
    )


class BestAndLast(NamedTuple):
    """The validation whose weights are kept, and the last one."""

    best: Validation
    last: Validation

    @property
    def rise(self) -> float:
        """How much longer the last one's latency is, as a share: what a training loses that does not converge."""
        return self.last.told / self.best.told - 1 if self.best.told else math.nan


def best_and_last(validations: Sequence[Validation]) -> BestAndLast | None:
    """By the rule of `improves`; None where nothing was validated."""
    best: Validation | None = None
    for one in validations:
        if improves(one.compared, best.compared if best else None):
            best = one
    return BestAndLast(best, validations[-1]) if best is not None else None


class KeepBest:
    """Keeps a copy of what the best validation was made with."""

    def __init__(self) -> None:
        self.kept: Any = None
        self._best: float | None = None

    def __call__(self, validation: Validation, snapshot: Callable[[], Any]) -> None:
        """Copy `snapshot()` if `validation` is the best so far."""
        if improves(validation.compared, self._best):
            self._best = validation.compared
            self.kept = copy.deepcopy(snapshot())
