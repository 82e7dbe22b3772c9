"""What episodes score: the same figures for validation, test and benchmark."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hadrl_lightning.judge.intervals import Interval, interval
from hadrl_lightning.metrics import SwitchingCost, slot_metrics
from hadrl_lightning.play import Episode, EpisodeScores, episode_scores
from hadrl_lightning.scenario import Physics
from hadrl_lightning.simulator import Service, rules

BY_EPISODE = (
    "hit_ratio",
    "latency",
    "on_time",
    "energy",
    "switching",
    "bandwidth_over_subscription",
    "compute_over_subscription",
)
"""Figures that every single episode has, an `EpisodeScores` field each."""


SHARES = ("hit_ratio", "on_time")
"""Figures that are at most 1."""


def possible(name: str, found: Interval) -> Interval:
    """The interval of a figure without what it cannot be: none is below 0, and shares are not above 1."""
    return found.within(0.0, 1.0 if name in SHARES else math.inf)


def by_unit(figures: Mapping[str, Any], physics: Physics) -> dict[str, Any]:
    """The figures by their names among `HEADINGS`: `energy` is in J, an energy in another unit has its own name."""
    column = rules(physics).energy_column
    energy = "energy" if column == "energy_j" else column
    return {energy if name == "energy" else name: value for name, value in figures.items()}


class Scoreboard:
    """Scores of one policy over episodes.

    Every rank plays the same episodes, so nothing is gathered from the others.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._slots = slot_metrics(sync_on_compute=False)
        self._switching = SwitchingCost(sync_on_compute=False)
        self._scores: list[EpisodeScores] = []

    @property
    def num_episodes(self) -> int:
        """Episodes scored so far."""
        return sum(len(scores.latency) for scores in self._scores)

    def add(self, episode: Episode) -> None:
        """Score the B episodes of a batch."""
        episode = Episode(*(value.cpu() for value in episode))
        of_slots = {name: getattr(episode, name) for name in (*Service._fields, "asked")}
        for t in range(len(episode.latency)):
            self._slots.update(**{name: value[t] for name, value in of_slots.items()})
        for switching in episode.switching:
            self._switching.update(switching)
        self._scores.append(episode_scores(episode))

    def values(self) -> dict[str, Tensor]:
        """Every figure over all episodes."""
        values = {**self._slots.compute(), "switching": self._switching.compute()}
        for name in ("offloading_reward", "published_caching_reward"):
            values[name] = self._column(name).mean()
        return {name: value.float() for name, value in values.items()}

    def episodes(self) -> dict[str, list[float]]:
        """Of the figures that an episode has by itself, those of every episode."""
        return {name: self._column(name).tolist() for name in BY_EPISODE}

    def log_latency(self) -> float:
        """Mean over episodes of the logarithm of their latency in s."""
        return float(self._column("latency").double().log().mean())

    def interval(self, name: str) -> Interval | None:
        """A figure's mean over episodes with its interval; None for a percentile."""
        if name not in EpisodeScores._fields:
            return None
        return possible(name, interval([self._column(name).tolist()]))

    def ratio(self, reference: "Scoreboard | list[float]") -> Interval:
        """Latency in terms of another one's on the same episodes, with the interval over episodes."""
        below = reference.episodes()["latency"] if isinstance(reference, Scoreboard) else reference
        return possible("ratio", interval([self.episodes()["latency"]], [below]))

    def _column(self, name: str) -> Tensor:
        return torch.cat([getattr(scores, name) for scores in self._scores])
