"""What a policy is held against: the best known decisions under its own caches, and the least latency known at all."""

from functools import lru_cache

import torch

from hadrl_lightning.baselines import (
    CACHING_POLICIES,
    best_known_policy,
    expected_fading,
    lower_bound,
    optimal_coverage,
)
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.errors import MissingExtra
from hadrl_lightning.play import CachingPolicy, Episode, Policies, run_episode
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import Allocation, EdgeNetwork, Use, make_generator
from hadrl_lightning.simulator.processes import demand_is_known

LEAST_KNOWN = "latency_optimal+best_known"
"""The yardstick of all tables: best known decisions under the caches of least expected latency."""


def least_known_policies(scenario: Scenario) -> Policies:
    """The policies of the least latency known."""
    return CACHING_POLICIES["latency_optimal"](
        scenario, make_generator(0, Use.CACHE_SEARCH)
    ), best_known_policy


def replayed(episode: Episode) -> CachingPolicy:
    """The caches of an episode that was played, again."""
    return lambda network: episode.cache[network.decision].to(network.device)


def own_best_known(stream: EpisodeStream, index: int, episode: Episode) -> Episode:
    """Batch `index` of a stream, had the best known decisions been made under the caches that were played."""
    return run_episode(stream.networks(index), replayed(episode), best_known_policy)


@lru_cache(maxsize=32)
def optimal_hit_ratio(*scenarios: Scenario) -> float | None:
    """The hit ratio expected of the best caches, mean over networks with these scenarios.

    None where requests are not drawn by the scenario's popularity: no caches are the best ones all the time.

    Raises:
        MissingExtra: SciPy is missing (extra `baselines`).
    """
    if not all(demand_is_known(one) for one in set(scenarios)):
        return None
    found = {one: optimal_coverage(one).hit_ratio for one in set(scenarios)}
    return sum(found[one] for one in scenarios) / len(scenarios)


def optimal_hit_ratio_if_known(*scenarios: Scenario) -> float | None:
    """`optimal_hit_ratio`, or None without SciPy too."""
    try:
        return optimal_hit_ratio(*scenarios)
    except MissingExtra:
        return None


def bounds(stream: EpisodeStream, caching: CachingPolicy) -> list[float]:
    """Certified lower bound on the expected latency of every episode in s under the caches of a policy.

    The fading to come is not known to any decision, so the bound takes its expectation.
    """
    latency = []
    for network in stream:
        note = _BoundNote()
        run_episode(network, caching, note)
        latency.append(torch.stack(note.bounds).mean(dim=0))
    return torch.cat(latency).tolist()


class _BoundNote:
    """Plays the best known decisions and notes the lower bound of every slot it meets."""

    def __init__(self) -> None:
        self.bounds: list[torch.Tensor] = []

    def __call__(self, network: EdgeNetwork) -> Allocation:
        table = network.present
        fading = expected_fading(network.scenario, network.positions, network.physics, table)
        slot = (network.scenario, network.cache, network.requests, network.positions, fading, network.physics)
        self.bounds.append(lower_bound(*slot, table=table))
        return best_known_policy(network)
