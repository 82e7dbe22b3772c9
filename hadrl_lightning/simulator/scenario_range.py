"""`ScenarioRange`: a generator of networks whose constants lie in ranges."""

import zlib

import torch

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.randomness import Use, make_generator


class ScenarioRange:
    """Draws the scenario of every network from the ranges of one scenario.

    The numbers of a network depend on the seed, on the episode and on the network's place, and those of a field on no
    other field: a further range changes no number of the others, and a further network none of those before it.

    Args:
        scenario: with its `ranges`; of one without every network is the same.
        seed: of the draws.
    """

    def __init__(self, scenario: Scenario, seed: int = 0) -> None:
        self.scenario = scenario
        self.seed = seed

    def draw(self, num_networks: int, episode: int = 0) -> tuple[Scenario, ...]:
        """The scenarios of so many networks in an episode."""
        if not self.scenario.ranges:
            return (self.scenario,) * num_networks
        parts = {}
        for name, number in self.scenario.numbers_drawn().items():
            generator = make_generator(self.seed, Use.SCENARIOS, episode, zlib.crc32(name.encode()))
            parts[name] = torch.rand(num_networks, number, generator=generator, dtype=torch.float64).tolist()
        return tuple(
            self.scenario.at({name: of_each[network] for name, of_each in parts.items()})
            for network in range(num_networks)
        )
