"""Policies that test plays beside the agent, on the same requests, positions and fading."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from hadrl_lightning.baselines import least_latency
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.judge import (
    Scoreboard,
    least_known_policies,
    optimal_hit_ratio_if_known,
    own_best_known,
    replayed,
)
from hadrl_lightning.play import Episode, Policies, home_equal, run_episode
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    Use,
    decode_caching,
    decode_offloading,
    make_generator,
)
from hadrl_lightning.simulator.processes import demand_is_known, processes_of

OWN, LEAST = "best known, same caches", "least known"
"""The yardsticks: the best known decisions under the agent's caches, and under the latency-optimal ones."""
SIMPLE, RANDOM = "home, equal, same caches", "random, both levels"
"""What needs no thought."""


def has_agents_caches(name: str) -> bool:
    """Whether a policy plays under the caches that the agent has decided on."""
    return name.endswith("same caches")


class References:
    """Plays the episodes that an agent has played, by policies to compare with.

    Args:
        scenario: the constants.
        physics: `strict`, `published`, or one of your own.
    """

    def __init__(self, scenario: Scenario, physics: Physics) -> None:
        self.scenario = scenario
        names = (OWN, LEAST, SIMPLE, RANDOM)
        self.boards = [
            Scoreboard(name, scenario.preferences) for name in names if name != LEAST or not scenario.ranges
        ]
        self.same_caches: Episode | None = None
        """What the best known decisions made of the batch that was played last, under the agent's caches."""
        self.playing = ""
        """Name of the policy that plays now."""

    @property
    def notes(self) -> list[str]:
        """What should be known of them, a line each."""
        notes = []
        if self.scenario.ranges:
            notes.append(
                f"{LEAST} is left out: every network needs a search for its own caches, which takes a while "
                "(hadrl benchmark --policies latency_optimal+best_known makes them)"
            )
        elif not least_latency(self.scenario).exact:
            notes.append(f"{LEAST}: its caches are the best that a search found")
        wanted = self.scenario.preferences
        if wanted.missed or wanted.dropped:
            notes.append(
                "the best known decisions are best for latency and energy alone: by missed deadlines and drops, which "
                "preferences weigh too, others can be better"
            )
        if any(one.carries_work for one in processes_of(self.scenario).values()):
            notes.append(
                "the best known decisions are those of each slot by itself: who leaves less work behind can do better"
            )
        if not demand_is_known(self.scenario):
            notes.append(
                f"{LEAST} holds the same caches all along, the best ones on average over requests as episodes begin: "
                "who follows demand can do better"
            )
            notes.append(
                "hits ÷ optimum is left out: demand changes, and no caches are the best all the time"
            )
        elif optimal_hit_ratio_if_known(self.scenario.corners()[0]) is None:
            notes.append(
                "hits ÷ optimum is left out: it needs SciPy (pip install 'hadrl-lightning[baselines]')"
            )
        return notes

    def play(self, stream: EpisodeStream, index: int, agent: Episode) -> None:
        """Play batch `index` of the stream, which the agent has played, and score it."""
        for name, episode in self._episodes(stream, index, agent):
            self.add({name: episode})
        self.playing = ""

    def episodes(self, stream: EpisodeStream, index: int, agent: Episode) -> dict[str, Episode]:
        """What the policies make of batch `index`, by their names; not yet scored."""
        return dict(self._episodes(stream, index, agent))

    def _episodes(self, stream: EpisodeStream, index: int, agent: Episode) -> Iterator[tuple[str, Episode]]:
        plays: dict[str, Callable[[], Episode]] = {
            OWN: lambda: own_best_known(stream, index, agent),
            LEAST: lambda: self._least_known(stream, index, agent, played[OWN]),
            SIMPLE: lambda: run_episode(stream.networks(index), replayed(agent), home_equal),
            RANDOM: lambda: run_episode(stream.networks(index), *random_policies(stream.physics, index)),
        }
        played: dict[str, Episode] = {}
        for board in self.boards:
            self.playing = board.name
            played[board.name] = plays[board.name]()
            yield board.name, played[board.name]

    def add(self, episodes: Mapping[str, Episode]) -> None:
        """Score what some of them made of a batch, by their names."""
        self.same_caches = episodes.get(OWN, self.same_caches)
        for board in self.boards:
            if board.name in episodes:
                beside = self.same_caches if has_agents_caches(board.name) else None
                board.add(episodes[board.name], beside)

    def _least_known(self, stream: EpisodeStream, index: int, agent: Episode, own: Episode) -> Episode:
        """Where the agent's caches are those of least latency all along, this is what was played under its own."""
        caching, offloading = self._least
        if bool((agent.cache == caching(stream.networks(index))).all()):
            return own
        return run_episode(stream.networks(index), caching, offloading)

    @cached_property
    def _least(self) -> Policies:
        """Found when they are first asked for: that takes a while."""
        return least_known_policies(self.scenario)


def random_policies(physics: Physics, batch: int = 0) -> Policies:
    """Uniform actions at both levels, which each batch of episodes draws anew."""
    generator = make_generator(0, Use.RANDOM_REFERENCE, batch)

    def uniform(network: EdgeNetwork, size: int) -> Tensor:
        return (2 * torch.rand(network.num_envs, size, generator=generator) - 1).to(network.device)

    def caching(network: EdgeNetwork) -> Tensor:
        action = uniform(network, network.scenario.caching_action_size)
        return decode_caching(network.scenario, action, network.cache, physics, network.exact)

    def offloading(network: EdgeNetwork) -> Allocation:
        action = uniform(network, network.scenario.offloading_action_size)
        return decode_offloading(network.scenario, action, physics)

    return caching, offloading
