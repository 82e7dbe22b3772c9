"""What the loops of a `Trainer` read: batches for training, networks to play for the rest."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hadrl_lightning.data.passes import MemberBatches, SizedBatches, bootstrap_weights, member_batches
from hadrl_lightning.data.replay import ReplayBuffer
from hadrl_lightning.data.sized_replay import SizedReplay
from hadrl_lightning.data.transitions import CachingTransitions, OffloadingTransitions
from hadrl_lightning.distributed import of_each_rank
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import EdgeNetwork, Use, make_generator, restore_generator
from hadrl_lightning.simulator.processes import for_part
from hadrl_lightning.trace_files import Part

PART_OF: dict[Use, Part] = {Use.VALIDATION_NETWORKS: "validation", Use.TEST_NETWORKS: "test"}
"""Which part of the time of files is meant for a use."""


class TrainingBatch(NamedTuple):
    """What one training step learns from."""

    offloading: MemberBatches | SizedBatches | None
    """A pass over the fast level's transitions for every ensemble member; none while nothing is collected."""
    caching: list[CachingTransitions]
    """Fields [batch, ...]: one item a gradient update of the slow level, each of networks of one size."""


class TrainingStream:
    """Yields `passes` batches an epoch, drawn when asked for, so that each sees what was collected until then.

    The updates of the slow level are spread evenly over the passes. The position and the generator are its state: an
    iteration after `load_state_dict` goes on where the saved one stood. Where ranks share the members, `held` are those
    of this rank; draws are made for all `num_members`. With a `bootstrap_seed` each member weights each transition of
    the fast level in its own way (`bootstrap_weights`); without, all count the same. Ranks that collect for themselves
    may hold different numbers of transitions (some were skipped, or a rank joined later): each takes as many as the
    rank that has the fewest, so that all make the same number of updates.

    Of networks of several sizes (`SizedReplay`) each batch is of one size: the transitions of every size are divided
    at random into batches, and as many of all these as a pass takes are drawn.
    """

    def __init__(
        self,
        offloading: ReplayBuffer[OffloadingTransitions] | SizedReplay[OffloadingTransitions],
        caching: ReplayBuffer[CachingTransitions] | SizedReplay[CachingTransitions],
        generator: torch.Generator,
        *,
        num_members: int,
        passes: int,
        batch_size: int,
        samples_per_pass: int | None,
        caching_updates: int,
        caching_batch_size: int,
        collector: int = 0,
        held: slice = slice(None),
        bootstrap_seed: int | None = None,
    ) -> None:
        self.offloading = offloading
        self.caching = caching
        self.generator = generator
        self.num_members = num_members
        self.passes = passes
        self.batch_size = batch_size
        self.samples_per_pass = samples_per_pass
        self.caching_updates = caching_updates
        self.caching_batch_size = caching_batch_size
        self.collector = collector
        self.held = held
        self.bootstrap_seed = bootstrap_seed
        self.position = 0

    def __len__(self) -> int:
        return self.passes

    def __iter__(self) -> Iterator[TrainingBatch]:
        self.position %= self.passes  # a loop that has its last batch does not ask for the end
        while self.position < self.passes:
            self.position += 1
            yield TrainingBatch(self._offloading_pass(), self._caching_batches(self.position))

    def _offloading_pass(self) -> MemberBatches | SizedBatches | None:
        if isinstance(self.offloading, SizedReplay):
            return self._sized_pass(self.offloading)
        every_rank_has = min(of_each_rank(len(self.offloading)))
        if every_rank_has == 0:
            return None
        samples = min(every_rank_has, self.samples_per_pass or every_rank_has)
        index = torch.randperm(len(self.offloading), generator=self.generator)[:samples]
        return self._member_batches(self.offloading.gather(index), self.offloading.numbers(index))

    def _sized_pass(self, replay: SizedReplay[OffloadingTransitions]) -> SizedBatches | None:
        batches = torch.tensor([-(-len(part) // self.batch_size) for part in replay.parts], dtype=torch.int64)
        number = min(of_each_rank(int(batches.sum())))
        if number == 0:
            return None
        if self.samples_per_pass is not None:
            number = min(number, -(-self.samples_per_pass // self.batch_size))
        drawn = torch.randperm(int(batches.sum()), generator=self.generator)[:number]
        ends = batches.cumsum(0)
        of_part = torch.searchsorted(ends, drawn, right=True)
        place = drawn - (ends - batches)[of_part]
        parts = []
        used = of_part.unique().tolist()
        for one in used:
            buffer = replay.parts[one]
            divided = torch.randperm(len(buffer), generator=self.generator).split(self.batch_size)
            chosen = sorted(place[of_part == one].tolist())
            found = buffer.gather(torch.cat([divided[batch] for batch in chosen]))
            parts.append(self._member_batches(found.rows, found.number))
        return SizedBatches(tuple(parts), torch.searchsorted(torch.tensor(used), of_part))

    def _member_batches(self, data: OffloadingTransitions, numbers: Tensor) -> MemberBatches:
        weight = None
        if self.bootstrap_seed is not None:
            weight = bootstrap_weights(numbers, self.num_members, self.bootstrap_seed)
        return member_batches(
            data, self.num_members, self.batch_size, self.generator, held=self.held, weight=weight
        )

    def _caching_batches(self, position: int) -> list[CachingTransitions]:
        if min(of_each_rank(len(self.caching))) == 0:
            return []
        due = (
            self.caching_updates * position // self.passes
            - self.caching_updates * (position - 1) // self.passes
        )
        return [self.caching.sample(self.caching_batch_size, self.generator) for _ in range(due)]

    def state_dict(self) -> dict[str, Any]:
        """Position within the epoch and the generator's state, of this collector."""
        return {
            "position": self.position % self.passes,
            "generator": self.generator.get_state(),
            "collector": self.collector,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved position.

        The generator of another collector is passed over: resuming in mid-epoch, Lightning hands every rank the state
        of rank 0, when the data module has restored that of each already. The position is the same on all.
        """
        self.position = state_dict["position"]
        if state_dict["collector"] == self.collector:
            restore_generator(self.generator, state_dict["generator"])


class EpisodeStream:
    """Yields freshly seeded networks, `parallel` at a time, that stand for `num_episodes` unseen episodes.

    The same seed and use (`Use.VALIDATION_NETWORKS` or `Use.TEST_NETWORKS`) give the same requests, positions and
    fading, whoever plays and on whatever device.
    """

    def __init__(
        self,
        scenario: Scenario,
        physics: Physics,
        num_episodes: int,
        parallel: int,
        seed: int,
        use: Use,
        device: torch.device | str = "cpu",
    ) -> None:
        self.scenario = for_part(scenario, PART_OF.get(use, "train"))
        """That of the networks: files are played in the part of their time that is meant for this use."""
        self.physics: Physics = physics
        self.num_episodes = num_episodes
        self.parallel = parallel
        self.seed = seed
        self.use = use
        self.device = device

    def __len__(self) -> int:
        return -(-self.num_episodes // self.parallel)

    def __iter__(self) -> Iterator[EdgeNetwork]:
        for index in range(len(self)):
            yield self.networks(index)

    def scenarios(self) -> tuple[Scenario, ...]:
        """The scenario of all networks, or where it has ranges that of the network of every episode."""
        if not self.scenario.ranges:
            return (self.scenario,)
        found: list[Scenario] = []
        for network in self:
            network.reset()
            found += network.scenarios
        return tuple(found)

    def networks(self, index: int) -> EdgeNetwork:
        """The networks of batch `index`, as new: whoever plays them meets the same draws."""
        size = min(self.parallel, self.num_episodes - index * self.parallel)
        generator = make_generator(self.seed, self.use, index)
        return EdgeNetwork(self.scenario, self.physics, size, self.device, generator)
