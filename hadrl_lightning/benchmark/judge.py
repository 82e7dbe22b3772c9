"""Judging policies: scores over test episodes, and validations while a learner trains."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..baselines import best_known_policy, expected_fading, lower_bound
from ..data import EpisodeStream
from ..scenario import Physics, Scenario
from ..simulator import (
    Allocation,
    CachingPolicy,
    EdgeNetwork,
    Episode,
    OffloadingPolicy,
    Use,
    episode_scores,
    run_episode,
)

Policies = tuple[CachingPolicy, OffloadingPolicy]

SCORES = (
    "hit_ratio",
    "latency",
    "on_time",
    "energy",
    "switching",
    "bandwidth_over_subscription",
    "compute_over_subscription",
)
"""Scores that every policy has, an `EpisodeScores` field each."""


def play(stream: EpisodeStream, policies: Policies) -> list[Episode]:
    """The episodes of a stream, played by the same policies, batch by batch."""
    with torch.no_grad():
        return [run_episode(network, *policies) for network in stream]


def by_episode(episodes: list[Episode]) -> dict[str, list[float]]:
    """Scores of every episode, by name."""
    scores = [episode_scores(episode) for episode in episodes]
    return {name: torch.cat([getattr(one, name) for one in scores]).tolist() for name in SCORES}


def latency_percentile(episodes: list[Episode], quantile: float = 0.95) -> float:
    """Quantile over slots of the latency summed over users, s."""
    summed = torch.cat([episode.latency.sum(dim=2).flatten() for episode in episodes])
    return float(summed.double().quantile(quantile)) if len(summed) < 2**24 else float("nan")


def own_best_known(stream: EpisodeStream, episodes: list[Episode]) -> list[float]:
    """Latency of every episode in s, had the best known decisions been made under the caches that were played."""
    latency = []
    for index, episode in enumerate(episodes):
        again = run_episode(stream.networks(index), _replayed(episode), best_known_policy)
        latency.append(episode_scores(again).latency)
    return torch.cat(latency).tolist()


def bounds(stream: EpisodeStream, caching: CachingPolicy) -> dict[str, list[float]]:
    """Certified lower bound on the expected latency of every episode in s under the caches of a policy.

    The fading to come is not known to any decision, so the bound takes its expectation.
    """
    latency: list[Tensor] = []
    for network in stream:
        note = _BoundNote()
        run_episode(network, caching, note)
        latency.append(torch.stack(note.bounds).mean(dim=0))
    return {"latency": torch.cat(latency).tolist()}


def _replayed(episode: Episode) -> CachingPolicy:
    return lambda network: episode.cache[network.decision].to(network.device)


class _BoundNote:
    """Plays the best known decisions and notes the lower bound of every slot it meets."""

    def __init__(self) -> None:
        self.bounds: list[Tensor] = []

    def __call__(self, network: EdgeNetwork) -> Allocation:
        fading = expected_fading(network.scenario, network.positions, network.physics)
        slot = (network.scenario, network.cache, network.requests, network.positions, fading, network.physics)
        self.bounds.append(lower_bound(*slot))
        return best_known_policy(network)


class Judge:
    """Validates a learner on the same episodes again and again, and keeps the best weights it has seen.

    Every learner is judged by the same rule: the weights of the least validation latency are the ones that are tested.

    Args:
        scenario: the constants.
        physics: `strict` or `published`.
        num_episodes: validation episodes.
        parallel: of these, how many at once.
        seed: of the validation episodes.
    """

    def __init__(
        self, scenario: Scenario, physics: Physics, num_episodes: int, parallel: int, seed: int
    ) -> None:
        parallel = min(parallel, num_episodes)
        self._stream = EpisodeStream(scenario, physics, num_episodes, parallel, seed, Use.VALIDATION_NETWORKS)
        self.curve: list[dict[str, float]] = []
        """One entry a validation: `slots` and the mean scores."""
        self.best: Any = None
        """Snapshot at the best validation."""
        self._least = float("inf")

    def __call__(self, slots: int, policies: Policies, snapshot: Callable[[], Any]) -> None:
        """Validate after `slots` slots of training, and keep a copy of `snapshot()` if it is the best so far."""
        scores = by_episode(play(self._stream, policies))
        means = {name: sum(values) / len(values) for name, values in scores.items()}
        self.curve.append({"slots": float(slots), **means})
        if means["latency"] < self._least:
            self._least = means["latency"]
            self.best = copy.deepcopy(snapshot())
