"""What episodes score: the same figures for validation, test and benchmark."""

import torch
from torch import Tensor

from hadrl_lightning.judge.intervals import Interval, interval
from hadrl_lightning.metrics import SwitchingCost, slot_metrics
from hadrl_lightning.simulator import Episode, EpisodeScores, Service, episode_scores

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
        for t in range(len(episode.latency)):
            fields = {name: getattr(episode, name)[t] for name in Service._fields}
            self._slots.update(**fields)
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

    def interval(self, name: str) -> Interval | None:
        """A figure's mean over episodes with its interval; None for a percentile."""
        return interval([self._column(name).tolist()]) if name in EpisodeScores._fields else None

    def ratio(self, reference: "Scoreboard | list[float]") -> Interval:
        """Latency in terms of another one's on the same episodes, with the interval over episodes."""
        below = reference.episodes()["latency"] if isinstance(reference, Scoreboard) else reference
        return interval([self.episodes()["latency"]], [below])

    def _column(self, name: str) -> Tensor:
        return torch.cat([getattr(scores, name) for scores in self._scores])
