"""Generators for everything that is drawn, and networks drawn from ranges. Each use has a generator of its own, so that
none disturbs another.

All draws are made on the CPU and moved to where the data is. So a seed gives the same episodes on every device, and a
run that was saved on one device goes on on another.
"""

import zlib
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from hadrl_lightning.errors import HadrlError, shown
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.scenario.limits import SIZES

INDEX_END = 2**32
"""Numbers of an index are below this: numpy's `SeedSequence` takes larger ones apart into several."""
SEED_END = 2**64
"""Seeds are below this: a much longer seed would run into the index."""
_STATE_WORDS = slice(24, 24 + 8 * 624)
"""Where the 624 words of the Mersenne Twister lie in the state of a generator on the CPU, 8 bytes each."""


class Use(IntEnum):
    """What a generator is for. Two generators of one seed draw the same only if use and index are the same."""

    TRAINING_NETWORKS = 0
    """Requests, positions and fading of the networks that collect; index: collector."""
    TRAINING_BATCHES = 1
    """Order and choice of the transitions that training sees; index: collector."""
    EXPLORATION = 2
    """Noise and plans while collecting; index: collector."""
    VALIDATION_NETWORKS = 3
    """Requests, positions and fading of the validation episodes; index: batch."""
    TEST_NETWORKS = 4
    """Requests, positions and fading of the episodes of test and predict; index: batch."""
    ENVIRONMENTS = 5
    """Requests, positions and fading of networks that a user seeds, as Gymnasium's `reset(seed=...)` does."""
    INITIAL_WEIGHTS = 6
    """Weights that an agent starts with."""
    RESETS = 7
    """Weights of a world model that starts anew; index: epoch."""
    PLAY = 8
    """Plans and searches of an agent that plays outside of training."""
    CACHING_DECISIONS = 9
    """Caches that a caching agent compares where it is given no generator."""
    CACHING_TARGETS = 10
    """Caches compared for the value of what follows, while learning; index: update."""
    CACHING_LESSONS = 11
    """Caches compared to teach the actor, while learning; index: update."""
    NEIGHBOUR_SAMPLES = 12
    """Samples of the nearest-neighbour estimator; index: step of the horizon."""
    RANDOM_REFERENCE = 13
    """Decisions of the random policy in the table of `test`; index: batch."""
    BASELINE_CACHING = 14
    """Caching decisions of a baseline that draws."""
    BASELINE_OFFLOADING = 15
    """Offloading decisions of a baseline that draws."""
    CACHE_SEARCH = 16
    """Slots to compare on and starts of the search for the caches of least latency."""
    RIVAL_NETWORKS = 17
    """Requests, positions and fading that a learner to compare with collects."""
    RIVAL_WEIGHTS = 18
    """Weights that such a learner starts with."""
    RIVAL_DRAWS = 19
    """Exploration and batches of such a learner; index: level."""
    RIVAL_ENVIRONMENTS = 20
    """Seeds of the Gymnasium environments of such a learner."""
    BOOTSTRAP = 21
    """How much each member makes of each transition; index: collector."""
    PROCESSES = 22
    """What a further process of networks draws; index: a number of its name."""
    SCENARIOS = 23
    """Constants of networks that differ; index: episode and a number of the field's name."""
    HISTORY = 24
    """Requests before an episode."""
    ADAPTING = 25
    """Slots that weights learn from while an agent is deployed."""


def make_generator(seed: int, use: Use, *index: int) -> torch.Generator:
    """A generator on the CPU for one use of a seed, such as `(seed, Use.TRAINING_NETWORKS, rank)`.

    Different seeds, uses or indices, also of different lengths, give independent streams: the whole state is that of
    numpy's `SeedSequence` with the use and the index as its `spawn_key` (of `torch.manual_seed` the Mersenne Twister
    reads 32 bits only, of which some two among 100,000 agree).

    Raises:
        HadrlError: the seed is not from 0 to 2^64 - 1, or a number of the index not from 0 to 2^32 - 1.
    """
    check_seed("seed", seed)
    for number in index:
        if not 0 <= number < INDEX_END:
            raise HadrlError(
                f"index of {use.name} must be at least 0 and below {INDEX_END}, got {tuple(map(int, index))}"
            )
    sequence = np.random.SeedSequence(entropy=int(seed), spawn_key=(int(use), *map(int, index)))
    words = sequence.generate_state(624, np.uint32)
    words[0] |= 2**31  # never all 0, as numpy does it
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    state[_STATE_WORDS] = torch.from_numpy(words.astype(np.int64)).view(torch.uint8)
    generator.set_state(state)
    return generator


def seed_aside(generator: torch.Generator) -> int:
    """A seed that follows from the state of a generator, which stays as it is."""
    aside = torch.Generator()
    aside.set_state(generator.get_state())
    return int(torch.randint(2**62, (1,), generator=aside))


def check_seed(name: str, seed: int) -> None:
    """Raise a HadrlError that names the field if a seed is no whole number or out of range."""
    if isinstance(seed, bool | np.bool_) or not isinstance(seed, int | np.integer):
        raise HadrlError(f"{name} must be a whole number, got {shown(seed)}")
    if not 0 <= seed < SEED_END:
        raise HadrlError(f"{name} must be at least 0 and below 2^64, got {seed}")


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Let a generator go on from a state that was saved.

    Raises:
        HadrlError: the state is of a generator on another kind of device.
    """
    length = len(generator.get_state())
    if state.numel() != length:
        raise HadrlError(
            f"state of a generator must be that of one on the CPU ({length} bytes), got {state.numel()}"
        )
    generator.set_state(state.cpu())


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
