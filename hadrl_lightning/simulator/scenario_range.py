"""`ScenarioRange`: a generator of networks whose constants lie in ranges."""

import zlib

import torch

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.scenario.limits import SIZES
from hadrl_lightning.simulator.randomness import Use, make_generator


class ScenarioRange:
    """Draws the scenario of every network from the ranges of one scenario.

    The numbers of a network depend on the seed, on the episode and on the network's place, and those of a field on no
    other field: a further range changes no number of the others, and a further network none of those before it. Numbers
    of servers, users and services are the same for all networks of an episode, and say how many numbers others draw.

    Args:
        scenario: with its `ranges`; of one without every network is the same.
        seed: of the draws.
    """

    def __init__(self, scenario: Scenario, seed: int = 0) -> None:
        self.scenario = scenario
        self.seed = seed

    def sized(self, episode: int = 0) -> Scenario:
        """The scenario with the numbers of servers, users and services of an episode; its other ranges stay."""
        if not self.scenario.sizes_vary:
            return self.scenario
        ranges = self.scenario.ranges
        drawn = {
            name: ranges[name].whole(self._parts(name, episode, 1, 1)[0][0])
            for name in SIZES
            if name in ranges
        }
        return self.scenario.resized(**{**self.scenario.counts, **drawn})

    def draw(self, num_networks: int, episode: int = 0) -> tuple[Scenario, ...]:
        """The scenarios of so many networks in an episode, all of the same sizes."""
        sized = self.sized(episode)
        if not sized.ranges:
            return (sized,) * num_networks
        parts = {
            name: self._parts(name, episode, num_networks, number)
            for name, number in sized.numbers_drawn().items()
        }
        return tuple(
            sized.at({name: of_each[network] for name, of_each in parts.items()})
            for network in range(num_networks)
        )

    def _parts(self, name: str, episode: int, *shape: int) -> list[list[float]]:
        """Uniform numbers from 0 to 1 of a field, from a stream of its own."""
        generator = make_generator(self.seed, Use.SCENARIOS, episode, zlib.crc32(name.encode()))
        return torch.rand(*shape, generator=generator, dtype=torch.float64).tolist()
