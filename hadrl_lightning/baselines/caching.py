"""Caching policies to compare with: each is called with the network when a caching decision is due.

What they know: `popularity` and `density` know the true request probabilities of the coming slot, `hit_optimal` those
of the scenario, `latency_optimal` those of the slots in which episodes begin: all the same unless demand changes. `lru`
and `lfu` know only what was asked in the episode so far; `none`, `random` and `random_full` nothing.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from hadrl_lightning.baselines.caches import least_latency
from hadrl_lightning.baselines.covering import optimal_coverage
from hadrl_lightning.play import CachingPolicy
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork, decode_caching, fill_caches


def no_caching(network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
    """Empty caches: every request is a miss."""
    return torch.zeros_like(network.cache)


def random_caching(generator: torch.Generator) -> CachingPolicy:
    """Uniform actions in [-1, 1], decoded as a learner's are: about half of the services are wanted at each server."""

    def policy(network: EdgeNetwork) -> Tensor:
        shape = (network.num_envs, network.scenario.caching_action_size)
        action = torch.rand(shape, generator=generator).to(network.device, network.dtype)
        return decode_caching(network.scenario, 2 * action - 1, network.cache, network.physics, network.exact)

    return policy


def random_full_caches(generator: torch.Generator) -> CachingPolicy:
    """Services in random order, on each server by itself, while they fit (`generator` on the CPU)."""

    def policy(network: EdgeNetwork) -> Tensor:
        priority = torch.rand(network.cache.shape, generator=generator).to(network.device)
        return fill_caches(network.scenario, priority, table=network.exact)

    return policy


def popularity_first(network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
    """The most popular services that fit, the same on every server; knows the popularity."""
    return _same_everywhere(network, network.popularity)


def density_knapsack(network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
    """Services in falling order of popularity per storage (Dantzig's greedy knapsack); knows the popularity."""
    return _same_everywhere(network, network.popularity / network.exact.storage_bits)


def least_frequently_used(network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
    """Keep the services asked most often in the episode so far, in the whole network; the first frame starts empty."""
    counts = network.state.request_counts
    priority = counts.unsqueeze(1).expand_as(network.cache)
    return fill_caches(network.scenario, priority, priority > 0, network.exact)


class LeastRecentlyUsed:
    """Keep the services asked most recently in the episode; the first frame starts empty.

    Caches change between frames only, so recency is counted in frames: services asked in the frame just over come
    first, by how often, then those asked last in the frame before, and so on.
    """

    def __call__(self, network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
        """The next cache, bool [B, S, K]."""
        counts = network.state.request_counts
        if network.decision == 0:
            self._seen, self._priority = torch.zeros_like(counts), torch.zeros_like(counts)
        asked = counts - self._seen
        self._seen = counts.clone()
        per_frame = network.scenario.num_users * network.scenario.slots_per_decision + 1
        # the whole part tells the frame of the last request, the fraction how often it was asked there
        recent = network.decision + asked / per_frame
        self._priority = torch.where(asked > 0, recent, self._priority)
        priority = self._priority.unsqueeze(1).expand_as(network.cache)
        return fill_caches(network.scenario, priority, priority > 0, network.exact)


def fixed_caches(
    scenario: Scenario, find: Callable[[Scenario], Bool[Tensor, "server service"]]
) -> CachingPolicy:
    """The same caches in every frame: what `find` finds for the scenario, [S, K], or for that of each network."""
    once = None if scenario.ranges else find(scenario)
    found: dict[Scenario, Tensor] = {}

    def policy(network: EdgeNetwork) -> Tensor:
        if once is not None:
            return once.to(network.device).expand(network.num_envs, -1, -1).clone()
        for one in network.scenarios:
            if one not in found:
                found[one] = find(one)
        return torch.stack([found[one] for one in network.scenarios]).to(network.device)

    return policy


CachingFactory = Callable[[Scenario, torch.Generator], CachingPolicy]
"""Makes a policy for a scenario; the generator, on the CPU, is for those that draw."""

CACHING_POLICIES: dict[str, CachingFactory] = {
    "none": lambda scenario, generator: no_caching,
    "random": lambda scenario, generator: random_caching(generator),
    "random_full": lambda scenario, generator: random_full_caches(generator),
    "popularity": lambda scenario, generator: popularity_first,
    "density": lambda scenario, generator: density_knapsack,
    "lru": lambda scenario, generator: LeastRecentlyUsed(),
    "lfu": lambda scenario, generator: least_frequently_used,
    "hit_optimal": lambda scenario, generator: fixed_caches(
        scenario, lambda one: optimal_coverage(one).cache
    ),
    "latency_optimal": lambda scenario, generator: fixed_caches(
        scenario, lambda one: least_latency(one).cache
    ),
}
"""Caching policies by name."""


def _same_everywhere(network: EdgeNetwork, priority: Tensor) -> Tensor:
    """Caches by a priority of services, [K], or of those of each network, [B, K]."""
    each = priority.unsqueeze(-2).expand(network.cache.shape)
    return fill_caches(network.scenario, each, table=network.exact)
