"""Policies to compare with: caching policies are called with the network when a caching decision is due, offloading
policies in every slot.

What they know: `popularity` and `density` know the true request probabilities of the coming slot, `hit_optimal` those
of the scenario, `latency_optimal` those of the slots in which episodes begin: all the same unless demand changes.
`lru`, `lfu`, `gdsf` and `sieve` know only what was asked in the episode so far (`replacement`); `none`, `random`,
`random_full` and `home_equal` nothing; `all_cloud` which servers hold the services asked for; those in `loads` and
`genetic` also the physics, as far as views show what holds in the coming slot (`EdgeNetwork.shown`). `best_known` knows
what truly holds, but not the fading to come; `hindsight` looks even at that, and `clairvoyant` at all slots to come.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from hadrl_lightning.baselines.best_known import best_known_policy, hindsight_policy
from hadrl_lightning.baselines.caches import least_latency
from hadrl_lightning.baselines.clairvoyant import ClairvoyantPolicy
from hadrl_lightning.baselines.covering import optimal_coverage
from hadrl_lightning.baselines.genetic import GeneticSearch
from hadrl_lightning.baselines.loads import (
    drift_plus_penalty,
    home_sqrt,
    least_loaded_equal,
    least_loaded_sqrt,
    local_only,
    shortest_queue,
    two_choices,
)
from hadrl_lightning.baselines.problem import holders
from hadrl_lightning.baselines.replacement import (
    GreedyDualSizeFrequency,
    LeastRecentlyUsed,
    Sieve,
    least_frequently_used,
)
from hadrl_lightning.play import CachingPolicy, OffloadingPolicy, home_equal
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    decode_caching,
    decode_offloading,
    equal_shares,
    fill_caches,
)


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
    "gdsf": lambda scenario, generator: GreedyDualSizeFrequency(),
    "sieve": lambda scenario, generator: Sieve(),
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


def random_offloading(generator: torch.Generator) -> OffloadingPolicy:
    """Uniform actions in [-1, 1], decoded as a learner's are (`generator` on the CPU)."""

    def policy(network: EdgeNetwork) -> Allocation:
        shape = (network.num_envs, network.scenario.offloading_action_size)
        action = torch.rand(shape, generator=generator).to(network.device, network.dtype)
        return decode_offloading(network.scenario, 2 * action - 1, network.physics)

    return policy


def all_cloud(network: EdgeNetwork) -> Allocation:
    """Every user to a server that lacks its service, so that the cloud computes: home if it does, else the next one.

    "Next" is by index, cyclically. Where every server holds the service no target leads to the cloud, and the user
    stays at home. Equal shares.
    """
    first, servers = network.homes, network.scenario.num_servers
    lacking = ~holders(network.cache, network.requests)
    ring = (first.unsqueeze(-1) + torch.arange(servers, device=network.device)) % servers
    first = lacking.gather(2, ring).to(torch.int8).argmax(dim=2, keepdim=True)
    return equal_shares(network.scenario, ring.gather(2, first).squeeze(-1), network.dtype)


OffloadingFactory = Callable[[Scenario, torch.Generator], OffloadingPolicy]
"""Makes a policy for a scenario; the generator, on the CPU, is for those that draw."""

OFFLOADING_POLICIES: dict[str, OffloadingFactory] = {
    "all_cloud": lambda scenario, generator: all_cloud,
    "random": lambda scenario, generator: random_offloading(generator),
    "home_equal": lambda scenario, generator: home_equal,
    "home_sqrt": lambda scenario, generator: home_sqrt,
    "local_only": lambda scenario, generator: local_only,
    "least_loaded_equal": lambda scenario, generator: least_loaded_equal,
    "least_loaded_sqrt": lambda scenario, generator: least_loaded_sqrt,
    "shortest_queue": lambda scenario, generator: shortest_queue,
    "two_choices": lambda scenario, generator: two_choices(generator),
    "drift_plus_penalty": lambda scenario, generator: drift_plus_penalty,
    "genetic": lambda scenario, generator: GeneticSearch(generator),
    "best_known": lambda scenario, generator: best_known_policy,
    "hindsight": lambda scenario, generator: hindsight_policy,
    "clairvoyant": lambda scenario, generator: ClairvoyantPolicy(),
}
"""Offloading policies by name."""
