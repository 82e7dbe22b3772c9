"""`TransitionDataModule`: owns the simulator and the replay buffers, streams the batches."""

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from hadrl_lightning.data.replay import ReplayBuffer
from hadrl_lightning.data.sized_replay import SizedReplay
from hadrl_lightning.data.streams import EpisodeStream, TrainingStream
from hadrl_lightning.data.transitions import CachingTransitions, OffloadingTransitions
from hadrl_lightning.distributed import ActingAsOne, members_held, of_each_rank
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.network_files import FILES, SETTINGS, names_files
from hadrl_lightning.scenario import GIB, Physics, Scenario
from hadrl_lightning.simulator import EdgeNetwork, SharedNetworks, Use, check_seed, make_generator, rules
from hadrl_lightning.simulator.network import require_memory
from hadrl_lightning.simulator.processes import processes_of
from hadrl_lightning.typed import typed


@typed
class TransitionDataModule(LightningDataModule):
    """Simulated networks to collect from, replay of both levels, and the streams of a `Trainer`.

    A training batch is a pass over (part of) the fast level's transitions for every ensemble member, and the slow
    level's batches that are due beside it; an epoch has `passes_per_epoch` of them. For validate, test and predict a
    batch is an `EdgeNetwork` whose episode is to be played. `published.yaml` holds the published values.

    Args:
        scenario: constants of the network.
        physics: `strict` obeys capacity, `published` repeats the published arithmetic.
        num_envs: networks that collect in parallel, on each device; with the strategy `ensemble_parallel` on all
            devices together.
        seed: of everything that training draws here; ranks draw differently, but with `ensemble_parallel`, where they
            act as one. It may be that of the validation or the test: training draws other numbers from it.
        offloading_memory: transitions of the fast level remembered, first in first out.
        caching_memory: transitions of the slow level remembered, first in first out (published `memory`).
        memory_bytes: what either of the two memories takes at most; where transitions are large, fewer of them fit,
            as of hundreds of users, these are remembered.
        passes_per_epoch: passes over the fast level's transitions an epoch (published `n_train_epoch_large`).
        batch_size: transitions a world model update and member (published `batch_size_small`).
        samples_per_pass: transitions a pass at most, drawn at random; null: all of them (published).
        bootstrap: whether each member of the ensemble weights each of the fast level's transitions in its own way, for
            good (`bootstrap_weights`), so that members differ where data are few; an ensemble of one does not. Without,
            members differ in their initial weights and the order of the data alone (published).
        caching_updates_per_epoch: gradient updates of the slow level an epoch.
        caching_batch_size: transitions a gradient update of the slow level.
        validation_episodes: episodes of `validate` and of each validation while training.
        test_episodes: episodes of `test`.
        predict_episodes: episodes of `predict`.
        parallel_episodes: of these, how many are played at once.
        validation_seed: seed of the validation episodes.
        test_seed: seed of the test and predict episodes.
        sites: file of the servers' places, `x_m` and `y_m` or `lat` and `lon`, and of their `compute_hz`,
            `bandwidth_hz` and `cache_bytes`. All files are CSV or Parquet, and win over the scenario (docs/files.md).
        users: file of the users' places, in the units of the sites.
        services: file of `name`, `storage_bytes` or `load_s`, `input_bytes`, `cycles`, `deadline_s`, `weight`.
        requests: file of requests: `time_s`, `user`, `service`, and `input_bytes`, `cycles`, `deadline_s` of their own.
            How they come to slots is said by the settings of the process `requests_of_file`.
        moves: file, folder or pattern of moves: `time_s`, `user`, places as sites have them (`moves_of_file`).
        channel: file of gains: `time_s`, `user`, `server`, `gain_db` or `gain` (`gains_of_file`).
        columns: what columns are called in these files: `{requests: {user: uid, time_s: timestamp}}`; by numbers from 0
            in a file without a row of names.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        scenario: Scenario = Scenario(),  # noqa: B008 (frozen)
        physics: Physics = "strict",
        num_envs: int = 16,
        seed: int = 0,
        offloading_memory: int = 500_000,
        caching_memory: int = 500_000,
        memory_bytes: float = 4.0 * GIB,
        passes_per_epoch: int = 7,
        batch_size: int = 16,
        samples_per_pass: int | None = 400,
        bootstrap: bool = True,
        caching_updates_per_epoch: int = 20,
        caching_batch_size: int = 256,
        validation_episodes: int = 10,
        test_episodes: int = 100,
        predict_episodes: int = 1,
        parallel_episodes: int = 50,
        validation_seed: int = 1001,
        test_seed: int = 2002,
        sites: str | None = None,
        users: str | None = None,
        services: str | None = None,
        requests: str | None = None,
        moves: str | None = None,
        channel: str | None = None,
        columns: dict[str, dict[str, Any]] = {},  # noqa: B006 (nothing changes it)
    ) -> None:
        super().__init__()
        at_least_one = {
            "num_envs": num_envs,
            "offloading_memory": offloading_memory,
            "caching_memory": caching_memory,
            "passes_per_epoch": passes_per_epoch,
            "batch_size": batch_size,
            "samples_per_pass": samples_per_pass,
            "caching_batch_size": caching_batch_size,
            "validation_episodes": validation_episodes,
            "test_episodes": test_episodes,
            "predict_episodes": predict_episodes,
            "parallel_episodes": parallel_episodes,
        }
        at_least_zero = {"caching_updates_per_epoch": caching_updates_per_epoch}
        seeds = {"seed": seed, "validation_seed": validation_seed, "test_seed": test_seed}
        for name, number in seeds.items():
            check_seed(name, number)
        if not 1 <= memory_bytes < inf:
            raise ValueError(f"memory_bytes must be at least 1 and finite, got {memory_bytes}")
        for least, group in ((1, at_least_one), (0, at_least_zero)):
            for name, value in group.items():
                if value is not None and value < least:
                    raise ValueError(f"{name} must be at least {least}, got {value}")
        numbers = {**at_least_one, **at_least_zero, **seeds}
        self.settings: dict[str, int | float | None] = {
            **numbers,
            "memory_bytes": memory_bytes,
            "bootstrap": bootstrap,
        }
        """The arguments by name, but for the scenario and its physics."""
        files = (sites, users, services, requests, moves, channel)
        scenario = scenario.with_files({**dict(zip(FILES, files, strict=True)), "columns": columns})
        scenario.require_users()
        rules(physics).check_scenario(scenario)
        processes_of(scenario)  # which have to fit it
        self.scenario = scenario
        self.physics: Physics = physics
        self.num_envs = num_envs
        self.seed = seed
        self.passes_per_epoch = passes_per_epoch
        self.batch_size = batch_size
        self.samples_per_pass = samples_per_pass
        self.bootstrap = bootstrap
        self.caching_updates_per_epoch = caching_updates_per_epoch
        self.caching_batch_size = caching_batch_size
        self.validation_episodes = validation_episodes
        self.test_episodes = test_episodes
        self.predict_episodes = predict_episodes
        self.parallel_episodes = parallel_episodes
        self.validation_seed = validation_seed
        self.test_seed = test_seed
        self.slots = 0
        """Slots collected so far by all networks of this rank; of all ranks where they act as one."""
        self.decisions = 0
        """Caching decisions collected so far by all networks of this rank; of all ranks where they act as one."""
        self.network: EdgeNetwork | None = None
        """The networks that collect; made by `setup("fit")`."""
        replay = SizedReplay if scenario.sizes_vary else ReplayBuffer.within
        self.offloading_buffer: Any = replay(
            memory_bytes, offloading_memory, OffloadingTransitions.none(scenario)
        )
        """What the fast level has met: a `ReplayBuffer`, or of networks of several sizes a `SizedReplay`."""
        self.caching_buffer: Any = replay(memory_bytes, caching_memory, CachingTransitions.none(scenario))
        """What the slow level has met."""
        self._stream: TrainingStream | None = None
        self._restored: dict[str, Any] | None = None

    @staticmethod
    def resolved(settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a data module as plain values, with what files say in the scenario, and without the files.

        Raises:
            HadrlError: a file can't be read or does not fit.
        """
        rest = {name: value for name, value in settings.items() if name not in SETTINGS}
        if not names_files(settings):
            return rest
        return {**rest, "scenario": Scenario.from_data(settings).to_dict()}

    def __str__(self) -> str:
        """The networks, and what was collected of them."""
        ends = {
            name: (size, self.scenario.largest_counts[name])
            for name, size in self.scenario.least_counts.items()
        }
        words = ", ".join(
            f"{name}={least}" if least == most else f"{name}={least} to {most}"
            for name, (least, most) in ends.items()
        )
        return f"{type(self).__name__}(num_envs={self.num_envs}, {words}, physics={self.physics}, slots={self.slots})"

    def setup(self, stage: str) -> None:
        """Make the networks that collect, on the trainer's device."""
        if stage != "fit" or self.network is not None:
            return
        device = self._device()
        generator = make_generator(self.seed, Use.TRAINING_NETWORKS, self.collector)
        networks = SharedNetworks if self._as_one else EdgeNetwork
        try:
            require_memory(self.scenario, self.num_envs)
        except HadrlError as error:
            raise HadrlError(f"data.num_envs: {error}") from error
        self.network = networks(self.scenario, self.physics, self.num_envs, device, generator)

    def train_dataloader(self) -> TrainingStream:
        """Batches drawn from the buffers; the ensemble's size is read from the module that is trained."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        held = members_held(module)
        if self._stream is None:
            generator = make_generator(self.seed, Use.TRAINING_BATCHES, self.collector)
        else:  # asked for again, it goes on
            generator = self._stream.generator
        self._stream = TrainingStream(
            self.offloading_buffer,
            self.caching_buffer,
            generator,
            num_members=module.num_members,
            passes=self.passes_per_epoch,
            batch_size=self.batch_size,
            samples_per_pass=self.samples_per_pass,
            caching_updates=self.caching_updates_per_epoch,
            caching_batch_size=self.caching_batch_size,
            collector=self.collector,
            held=slice(None) if held is None else held.items,
            bootstrap_seed=self._bootstrap_seed(),
        )
        if self._restored is not None:
            self._stream.load_state_dict(self._restored)
            self._restored = None
        return self._stream

    def _bootstrap_seed(self) -> int | None:
        if not self.bootstrap:
            return None
        generator = make_generator(self.seed, Use.BOOTSTRAP, self.collector)
        return int(torch.randint(2**62, (1,), generator=generator))

    def val_dataloader(self) -> EpisodeStream:
        """Networks of the validation episodes."""
        return self.episodes(self.validation_episodes, self.validation_seed, Use.VALIDATION_NETWORKS)

    def test_dataloader(self) -> EpisodeStream:
        """Networks of the test episodes."""
        return self.episodes(self.test_episodes, self.test_seed, Use.TEST_NETWORKS)

    def predict_dataloader(self) -> EpisodeStream:
        """Networks of the episodes whose decisions are written out."""
        return self.episodes(self.predict_episodes, self.test_seed, Use.TEST_NETWORKS)

    def episodes(self, num_episodes: int, seed: int, use: Use) -> EpisodeStream:
        """Networks that stand for `num_episodes` unseen episodes."""
        parallel = min(self.parallel_episodes, num_episodes)
        return EpisodeStream(self.scenario, self.physics, num_episodes, parallel, seed, use, self._device())

    def state_dict(self) -> dict[str, Any]:
        """Networks, buffers, counters and generators of every rank, as a list by rank; one item if they act as one."""
        if self.network is None or self._stream is None:
            return {}
        own = {
            "network": self.network.state_dict(),
            "offloading_buffer": self.offloading_buffer.state_dict(),
            "caching_buffer": self.caching_buffer.state_dict(),
            "stream": self._stream.state_dict(),
            "slots": self.slots,
            "decisions": self.decisions,
        }
        return {"ranks": [own] if self._as_one else of_each_rank(own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint. Where it has fewer ranks than there are now, the new ones start afresh.

        Raises:
            HadrlError: the checkpoint belongs to networks of another size.
        """
        ranks = state_dict.get("ranks", [])
        if self.network is None or self.collector >= len(ranks):
            return
        own = ranks[self.collector]
        try:
            self.network.load_state_dict(own["network"])
            self.offloading_buffer.load_state_dict(own["offloading_buffer"])
            self.caching_buffer.load_state_dict(own["caching_buffer"])
        except ValueError as error:
            raise HadrlError(f"checkpoint must be of the same scenario and num_envs: {error}") from error
        self._restored = own["stream"]
        self.slots, self.decisions = own["slots"], own["decisions"]

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    @property
    def collector(self) -> int:
        """Which of the collectors, that draw differently, this rank is: its number, or 0 where all ranks act as one."""
        return 0 if self.trainer is None or self._as_one else self.trainer.global_rank

    @property
    def num_collectors(self) -> int:
        """Ranks that collect for themselves; 1 where all ranks act as one."""
        return 1 if self.trainer is None or self._as_one else self.trainer.world_size

    @property
    def _as_one(self) -> bool:
        """Whether the ranks share the networks, and each remembers what all collect."""
        return self.trainer is not None and isinstance(self.trainer.strategy, ActingAsOne)
