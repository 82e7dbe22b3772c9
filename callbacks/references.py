"""Reference policies that test plays beside the agent, on the same requests, positions and fading."""

import torch
from torch import Tensor

from ..baselines import best_known_policy, home_equal
from ..scenario import Physics, Scenario
from ..simulator import (
    Allocation,
    CachingPolicy,
    EdgeNetwork,
    Episode,
    OffloadingPolicy,
    Use,
    decode_caching,
    decode_offloading,
    make_generator,
)


def reference_policies(
    scenario: Scenario, physics: Physics, agent: Episode
) -> dict[str, tuple[CachingPolicy, OffloadingPolicy]]:
    """Policies for both levels by name; the last one is the best known decision with the agent's caches.

    `agent` is the agent's episode: its caches are played again where a name says so.
    """

    def agent_caches(network: EdgeNetwork) -> Tensor:
        return agent.cache[network.decision].to(network.device)

    return {
        "random, both levels": random_policies(scenario, physics),
        "home server, equal shares, same caches": (agent_caches, home_equal),
        "best known, same caches": (agent_caches, best_known_policy),
    }


def random_policies(scenario: Scenario, physics: Physics) -> tuple[CachingPolicy, OffloadingPolicy]:
    """Uniform actions at both levels."""
    generator = make_generator(0, Use.RANDOM_REFERENCE)

    def uniform(network: EdgeNetwork, size: int) -> Tensor:
        return (2 * torch.rand(network.num_envs, size, generator=generator) - 1).to(network.device)

    def caching(network: EdgeNetwork) -> Tensor:
        action = uniform(network, scenario.caching_action_size)
        return decode_caching(scenario, action, network.cache, physics)

    def offloading(network: EdgeNetwork) -> Allocation:
        return decode_offloading(scenario, uniform(network, scenario.offloading_action_size), physics)

    return caching, offloading
