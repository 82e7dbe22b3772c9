"""`CEMPlanning`: acts on the simulated networks at the start of every training epoch."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, distributed

from ..agents import HADRL, CachingObjective, caching_objective
from ..data import OffloadingTransitions, TransitionDataModule
from ..planning import CEMPlanner, Plan, PlannerSettings
from ..simulator import (
    EdgeNetwork,
    Service,
    decode_offloading,
    make_generator,
    offloading_reward,
)

_EXPLORATION = 2
"""Use of the data module's seed, beside its own two."""


class CEMPlanning(Callback):
    """Collects caching decisions with the caching agent and the planner, and stores them in the replay buffers.

    The first epoch collects `seed_decisions` with an untrained actor plus noise at both levels; every later epoch
    `decisions_per_epoch` with the current models. Counts are of each network; `num_envs` networks collect at once.
    Exploration is Gaussian noise on the actions, clipped to [-1, 1], that fades with every decision. Defaults are the
    published ones: 2 seed episodes, learning every 5 decisions from decision 20 on.

    Args:
        seed_decisions: caching decisions of the first epoch.
        decisions_per_epoch: caching decisions of every later epoch.
        caching_warmup_epochs: epochs at first whose caching decisions are explored but not learnt from: what a frame
            earned that an untrained fast level served says little about its caches.
        caching_noise: standard deviation of the noise on caching actions at first.
        caching_noise_decay: factor on it after every caching decision.
        caching_noise_min: what it does not fall below.
        offloading_noise: standard deviation of the noise on offloading actions at first.
        offloading_noise_decay: factor on it after every slot.
        offloading_noise_min: what it does not fall below.
        caching_reward: what the caching agent is rewarded with: `published` (hits and switching cost), `hits` (share of
            requests served from a cache), `latency` (minus the latency of a user in s, mean over users and slots) or
            `hits_and_latency` (hits less `latency_weight` times that latency).
        latency_weight: hits that a second of latency is worth, for `hits_and_latency`.
        planner: planner while collecting, such as a cheaper one; the model's own where not given.

    Exploration draws by the data module's seed; ranks differ.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        seed_decisions: int = 20,
        decisions_per_epoch: int = 5,
        caching_warmup_epochs: int = 0,
        caching_noise: float = 1.0,
        caching_noise_decay: float = 0.9882,
        caching_noise_min: float = 0.0,
        offloading_noise: float = 1.0,
        offloading_noise_decay: float = 0.9995,
        offloading_noise_min: float = 0.0,
        caching_reward: CachingObjective = "published",
        latency_weight: float = 0.05,
        planner: PlannerSettings | None = None,
    ) -> None:
        for name, count in (("seed_decisions", seed_decisions), ("decisions_per_epoch", decisions_per_epoch)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if caching_warmup_epochs < 0:
            raise ValueError(f"caching_warmup_epochs must be at least 0, got {caching_warmup_epochs}")
        self.seed_decisions = seed_decisions
        self.decisions_per_epoch = decisions_per_epoch
        self.caching_warmup_epochs = caching_warmup_epochs
        self.caching_noise = NoiseSchedule(
            "caching_noise", caching_noise, caching_noise_decay, caching_noise_min
        )
        self.offloading_noise = NoiseSchedule(
            "offloading_noise", offloading_noise, offloading_noise_decay, offloading_noise_min
        )
        if not 0 <= latency_weight < float("inf"):
            raise ValueError(f"latency_weight must be at least 0 and finite, got {latency_weight}")
        self.caching_reward: CachingObjective = caching_reward
        self.latency_weight = latency_weight
        self.planner_settings = planner
        self._generator: torch.Generator | None = None
        self._restored: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the generator of exploration on the trainer's device."""
        if stage == "fit" and self._generator is None:
            _, data = _parts(trainer, pl_module)
            key = (data.seed, data.collector, _EXPLORATION)
            self._generator = make_generator(trainer.strategy.root_device, *key)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect what this epoch learns from."""
        module, data = _parts(trainer, pl_module)
        assert self._generator is not None
        if self._restored is not None:
            states = self._restored
            if data.collector < len(states):
                self._generator.set_state(states[data.collector])
            self._restored = None
        seeding = data.decisions == 0
        warming_up = trainer.current_epoch < self.caching_warmup_epochs
        decisions = self.seed_decisions if seeding else self.decisions_per_epoch
        started = time.perf_counter()
        collection = Collection(self, module, data, self._generator, seeding, warming_up)
        module.eval()
        with torch.no_grad(), trainer.strategy.precision_plugin.forward_context():
            for _ in range(decisions):
                collection.frame()
        module.train()
        elapsed = time.perf_counter() - started
        self._log(trainer, module, data, collection, elapsed)

    def state_dict(self) -> dict[str, Any]:
        """Noise levels, and the generator's state of every rank."""
        assert self._generator is not None
        states: list[Any] = [self._generator.get_state()]
        if distributed.is_available() and distributed.is_initialized():
            states = [None] * distributed.get_world_size()
            distributed.all_gather_object(states, self._generator.get_state())
        return {
            "caching_noise": self.caching_noise.level,
            "offloading_noise": self.offloading_noise.level,
            "generators": states,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.caching_noise.level = state_dict["caching_noise"]
        self.offloading_noise.level = state_dict["offloading_noise"]
        self._restored = [state.cpu() for state in state_dict["generators"]]

    def _log(
        self,
        trainer: Trainer,
        module: HADRL,
        data: TransitionDataModule,
        collection: "Collection",
        elapsed: float,
    ) -> None:
        for name, value in collection.means().items():
            module.log(f"collect/{name}", value, batch_size=1, sync_dist=True)
        module.log("collect/caching_noise", self.caching_noise.level, batch_size=1, sync_dist=True)
        module.log("collect/offloading_noise", self.offloading_noise.level, batch_size=1, sync_dist=True)
        module.log("step", float(data.slots * data.num_collectors), batch_size=1, sync_dist=True)
        speed = collection.slots * data.num_collectors / elapsed
        for logger in trainer.loggers:  # the clock differs between equal runs: it stays out of metrics.csv
            if isinstance(logger, TensorBoardLogger):
                logger.log_metrics({"time/slots_per_second": speed}, data.slots * data.num_collectors)


class NoiseSchedule:
    """A standard deviation that fades: level <- max(minimum, level * decay).

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, name: str, level: float, decay: float, minimum: float) -> None:
        for field, value in ((name, level), (f"{name}_min", minimum)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{field} must be at least 0 and finite, got {value}")
        if not 0 < decay <= 1:
            raise ValueError(f"{name}_decay must be greater than 0 and at most 1, got {decay}")
        self.level = level
        self.decay = decay
        self.minimum = minimum

    def fade(self) -> None:
        """One decision later."""
        self.level = max(self.minimum, self.level * self.decay)


class Collection:
    """One epoch's collecting on the networks of a data module, and the means of what was met."""

    def __init__(
        self,
        callback: CEMPlanning,
        module: HADRL,
        data: TransitionDataModule,
        generator: torch.Generator,
        seeding: bool,
        warming_up: bool,
    ) -> None:
        assert data.network is not None
        self.callback = callback
        self.module = module
        self.data = data
        self.network: EdgeNetwork = data.network
        self.generator = generator
        self.seeding = seeding
        self.warming_up = warming_up
        self.planner: CEMPlanner = module.make_planner(callback.planner_settings)
        self.slots = 0
        self._plan: Plan | None = None
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def frame(self) -> None:
        """One caching decision and its slots, in all networks."""
        network, noise = self.network, self.callback.caching_noise
        if network.episode_over:
            network.reset()
        observation = network.caching_observation()
        decision = self.module.decide_caching(network, self.generator, noise.level)
        switching = network.begin_frame(decision.cache)
        services = []
        while not network.frame_over:
            services.append(self._slot())
        self.data.decisions += network.num_envs
        reward = caching_objective(
            self.callback.caching_reward,
            torch.stack([service.hit.to(switching.dtype) for service in services]).mean(dim=(0, 2)),
            torch.stack([service.latency for service in services]).mean(dim=(0, 2)),
            switching,
            network.scenario.num_users,
            self.callback.latency_weight,
        )
        self._add(caching_reward=reward, switching=switching)
        if self.warming_up:
            return
        noise.fade()
        self.data.caching_buffer.add(
            observation=observation,
            action=decision.action,
            reward=reward,
            next_observation=network.caching_observation(),
            cache=decision.cache.flatten(1),
        )

    def means(self) -> dict[str, Tensor]:
        """Mean of everything met, by name."""
        return {name: total / count for name, (total, count) in self._sums.items()}

    def _slot(self) -> Service:
        network, noise = self.network, self.callback.offloading_noise
        observation = network.offloading_observation()
        action = self._offloading_action(observation, noise.level)
        service = network.step(decode_offloading(network.scenario, action, network.physics))
        noise.fade()
        reward = offloading_reward(service.latency)
        transitions = OffloadingTransitions(
            observation, action, reward, network.offloading_observation(), service.latency
        )
        self.data.offloading_buffer.add(**transitions._asdict())
        self.module.world_model.observe(transitions)
        self.data.slots += network.num_envs
        self.slots += network.num_envs
        self._add(
            latency=service.latency.sum(dim=1),
            hit_ratio=service.hit.float(),
            on_time=service.on_time.float(),
            offloading_reward=reward,
        )
        return service

    def _offloading_action(self, observation: Tensor, noise: float) -> Tensor:
        shape = (self.network.num_envs, self.network.scenario.offloading_action_size)
        drawn = torch.randn(shape, generator=self.generator, device=self.network.device)
        if self.seeding:  # an untrained actor decides about 0
            return (noise * drawn).clamp(-1, 1)
        plan = self.module.plan(observation, self.planner, self.generator, self._plan)
        self._plan = plan
        energy = plan.free_energy
        self._add(
            free_energy=energy.total,
            pragmatic=energy.pragmatic,
            epistemic=energy.epistemic,
            elite_spread=plan.elite_spread,
            nonfinite_candidates=plan.num_nonfinite.float(),
        )
        return (plan.action.float() + noise * drawn).clamp(-1, 1)

    def _add(self, **values: Tensor) -> None:
        for name, value in values.items():
            total, count = self._sums.get(name, (torch.zeros((), device=value.device), 0))
            self._sums[name] = (total + value.float().sum(), count + value.numel())


def _parts(trainer: Trainer, pl_module: LightningModule) -> tuple[HADRL, TransitionDataModule]:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(pl_module, HADRL) or not isinstance(data, TransitionDataModule):
        raise TypeError("CEMPlanning collects for HADRL with a TransitionDataModule")
    return pl_module, data
