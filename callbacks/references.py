"""Policies that test plays beside the agent, on the same requests, positions and fading."""

import torch
from torch import Tensor

from hadrl_lightning.baselines import home_equal, least_latency
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.judge import (
    Policies,
    Scoreboard,
    least_known_policies,
    optimal_hit_ratio,
    own_best_known,
    replayed,
)
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    Episode,
    Use,
    decode_caching,
    decode_offloading,
    make_generator,
    run_episode,
)

OWN, LEAST = "best known, same caches", "least known"
"""The yardsticks: the best known decisions under the agent's caches, and under the latency-optimal ones."""


class References:
    """Plays the episodes that an agent has played, by policies to compare with.

    Args:
        scenario: the constants.
        physics: `strict` or `published`.
    """

    def __init__(self, scenario: Scenario, physics: Physics) -> None:
        self.random = random_policies(scenario, physics)
        self.boards = [Scoreboard(name) for name in (OWN, LEAST, "home, equal, same caches")]
        self.boards.append(Scoreboard("random, both levels"))
        self._least = least_known_policies(scenario)
        self.notes = []
        """What should be known of them, a line each."""
        if not least_latency(scenario).exact:
            self.notes.append(f"{LEAST}: its caches are the best that a search found")
        if optimal_hit_ratio(scenario) is None:
            self.notes.append(
                "hits ÷ optimum is left out: it needs SciPy (pip install 'hadrl-lightning[baselines]')"
            )

    def play(self, stream: EpisodeStream, index: int, agent: Episode) -> None:
        """Batch `index` of the stream, which the agent has played."""
        own, least, home, random = self.boards
        own.add(own_best_known(stream, index, agent))
        least.add(run_episode(stream.networks(index), *self._least))
        home.add(run_episode(stream.networks(index), replayed(agent), home_equal))
        random.add(run_episode(stream.networks(index), *self.random))


def random_policies(scenario: Scenario, physics: Physics) -> Policies:
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
