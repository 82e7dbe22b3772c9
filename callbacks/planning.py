"""`CEMPlanning`: acts on the simulated networks at the start of every training epoch."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from hadrl_lightning.agents import HADRL
from hadrl_lightning.callbacks.collection import Collection, Exploration, NoiseSchedule
from hadrl_lightning.callbacks.finite import FiniteNumbers
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.distributed import of_each_rank
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.play import LATENCY_WEIGHT, CachingObjective
from hadrl_lightning.simulator import Use, make_generator, restore_generator
from hadrl_lightning.typed import typed

CACHING_REWARD: CachingObjective = "hits_and_latency"
COLLECTING = PlannerSettings(
    n_candidates=32,
    informed_candidates=32,
    use_exploration=True,
    strategy="posterior",
    expl_scale=1.0,
    share_steps=0,
    target_sweeps=0,
)
"""A cheap plan while collecting, by one member that is drawn for each slot: what members disagree on is tried. Where
plans are not from sums, the information gain counts instead."""


@typed
class CEMPlanning(Callback):
    """Collects caching decisions with the caching agent and the planner, and stores them in the replay buffers.

    The first epoch collects `seed_decisions` with an untrained actor plus noise at both levels; every later epoch
    `decisions_per_epoch` with the current models. Counts are of each network; `num_envs` networks collect at once.
    Exploration is Gaussian noise on the actions, clipped to [-1, 1], that fades with every decision. `published.yaml`
    holds the published values: 2 seed episodes, learning every 5 decisions from decision 20 on.

    Args:
        seed_decisions: caching decisions of the first epoch.
        decisions_per_epoch: caching decisions of every later epoch.
        caching_warmup_epochs: epochs at first whose caching decisions are explored but not learnt from: what a frame
            earned that an untrained fast level served says little about its caches.
        caching_noise: standard deviation of the noise on caching actions at first.
        caching_noise_decay: factor on it after every caching decision that is learnt from.
        caching_noise_min: what it does not fall below.
        offloading_noise: standard deviation of the noise on offloading actions at first.
        offloading_noise_decay: factor on it after every slot.
        offloading_noise_min: what it does not fall below.
        caching_reward: what a caching agent that learns from frames is rewarded with: `published` (hits and switching
            cost, which a `SetDDPG` learns only with `sees_switching`), `hits` (share of requests served from a cache),
            `latency` (minus the latency of a user in s, mean over users and slots) or `hits_and_latency` (hits less
            `latency_weight` times that latency).
        latency_weight: hits that a second of latency is worth, for `hits_and_latency`.
        planner: planner while collecting, cheaper than the model's own and curious; null: the model's own.

    Exploration draws by the data module's seed; ranks differ.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        seed_decisions: int = 5,
        decisions_per_epoch: int = 10,
        caching_warmup_epochs: int = 3,
        caching_noise: float = 1.0,
        caching_noise_decay: float = 0.9882,
        caching_noise_min: float = 0.4,
        offloading_noise: float = 1.0,
        offloading_noise_decay: float = 0.9,
        offloading_noise_min: float = 0.0,
        caching_reward: CachingObjective = CACHING_REWARD,
        latency_weight: float = LATENCY_WEIGHT,
        planner: PlannerSettings | None = COLLECTING,
    ) -> None:
        for name, count in (("seed_decisions", seed_decisions), ("decisions_per_epoch", decisions_per_epoch)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if caching_warmup_epochs < 0:
            raise ValueError(f"caching_warmup_epochs must be at least 0, got {caching_warmup_epochs}")
        self.seed_decisions = seed_decisions
        self.decisions_per_epoch = decisions_per_epoch
        slow = NoiseSchedule("caching_noise", caching_noise, caching_noise_decay, caching_noise_min)
        fast = NoiseSchedule(
            "offloading_noise", offloading_noise, offloading_noise_decay, offloading_noise_min
        )
        if not 0 <= latency_weight < float("inf"):
            raise ValueError(f"latency_weight must be at least 0 and finite, got {latency_weight}")
        if caching_reward != CACHING_REWARD and latency_weight != LATENCY_WEIGHT:
            raise ValueError(
                f"latency_weight must be {LATENCY_WEIGHT} unless caching_reward is hits_and_latency, "
                f"got {latency_weight}"
            )
        self.exploration = Exploration(slow, fast, caching_warmup_epochs, caching_reward, latency_weight)
        """How it explores now, and what is learnt from."""
        self.planner_settings = planner
        self.slots_per_second: float | None = None
        """Slots of all networks that were last collected in a second."""
        self._generator: torch.Generator | None = None
        self._collection: Collection | None = None
        self._unfinished: dict[str, Any] | None = None
        self._restored: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the generator of exploration."""
        if stage == "fit" and self._generator is None:
            module, data = _parts(trainer, pl_module)
            self.check_model(module)
            self._generator = make_generator(data.seed, Use.EXPLORATION, data.collector)

    @classmethod
    def for_agent(cls, module: HADRL) -> "CEMPlanning":
        """With the defaults, but by the agent's own planner where its world model can't serve the cheaper one."""
        try:
            module.make_planner(COLLECTING)
        except HadrlError:
            return cls(planner=None)
        return cls()

    def check_model(self, module: HADRL) -> None:
        """Raises a HadrlError where the module's levels can't serve what is set here."""
        module.make_planner(self.planner_settings, "planning.planner")
        agent, reward = module.caching_agent, self.exploration.caching_reward
        if not agent.learns_from_frames and reward != CACHING_REWARD:
            raise HadrlError(
                f"planning.caching_reward must be {CACHING_REWARD} with a {type(agent).__name__}, which learns from no "
                f"reward (model.slow_level set does), got {reward}"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from the checkpoint that was loaded."""
        ranks, self._restored = self._restored, []
        _, data = _parts(trainer, pl_module)
        if data.collector < len(ranks):
            assert self._generator is not None
            restore_generator(self._generator, ranks[data.collector]["generator"])
            self._unfinished = ranks[data.collector]["collection"]
        elif ranks and ranks[0]["collection"] is not None:  # a rank that joins keeps in step with the others
            self._unfinished = {**ranks[0]["collection"], "plan": None, "sums": {}}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect what this epoch learns from; a collection that was stopped goes on.

        After every caching decision all callbacks that have a hook `on_frame_end(trainer, pl_module)` are called.
        """
        module, data = _parts(trainer, pl_module)
        assert self._generator is not None
        seeding = not any(of_each_rank(data.decisions))
        epoch = trainer.current_epoch
        finite = FiniteNumbers.of(trainer)
        finite.counts_networks = trainer.global_rank < data.num_collectors
        planner = module.make_planner(self.planner_settings)
        collection = Collection(
            module, data, planner, self.exploration, self._generator, finite, epoch, seeding
        )
        if self._unfinished is not None:
            collection.load_state_dict(self._unfinished)
        self._collection, self._unfinished = collection, None
        started, slots = time.perf_counter(), collection.slots
        module.eval()
        with torch.no_grad(), trainer.strategy.precision_plugin.forward_context():
            while collection.frames < self._decisions(collection):
                collection.frame()
                self._tell(trainer, module)
        module.train()
        self._collection = None
        collected = (collection.slots - slots) * data.num_collectors
        self.slots_per_second = speed = collected / (time.perf_counter() - started)
        self._log(trainer, module, data, collection, speed)

    @property
    def collecting(self) -> tuple[int, int] | None:
        """Caching decisions so far and in the end of the collecting that is under way; None while there is none."""
        collection = self._collection
        return None if collection is None else (collection.frames, self._decisions(collection))

    def _decisions(self, collection: Collection) -> int:
        return self.seed_decisions if collection.seeding else self.decisions_per_epoch

    def _tell(self, trainer: Trainer, module: LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            hook = getattr(callback, "on_frame_end", None)
            if hook is not None:
                hook(trainer, module)

    def state_dict(self) -> dict[str, Any]:
        """How far noise has faded; of every rank the generator's state and the collection that is under way.

        Nothing where it has never collected, as after a test.
        """
        if self._generator is None:
            return {}
        own = {
            "generator": self._generator.get_state(),
            "collection": self._collection.state_dict() if self._collection is not None else None,
        }
        return {
            "caching_fades": self.exploration.caching_noise.num_fades,
            "offloading_fades": self.exploration.offloading_noise.num_fades,
            "ranks": of_each_rank(own),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.exploration.caching_noise.num_fades = state_dict["caching_fades"]
        self.exploration.offloading_noise.num_fades = state_dict["offloading_fades"]
        self._restored = state_dict["ranks"]

    def _log(
        self,
        trainer: Trainer,
        module: HADRL,
        data: TransitionDataModule,
        collection: Collection,
        speed: float,
    ) -> None:
        for name, value in collection.means().items():
            module.log(f"collect/{name}", value, batch_size=1, sync_dist=True)
        module.log(
            "collect/caching_noise", self.exploration.caching_noise.level, batch_size=1, sync_dist=True
        )
        module.log(
            "collect/offloading_noise", self.exploration.offloading_noise.level, batch_size=1, sync_dist=True
        )
        module.log("step", float(data.slots * data.num_collectors), batch_size=1, sync_dist=True)
        for logger in trainer.loggers:  # the clock differs between equal runs: it stays out of metrics.csv
            if isinstance(logger, TensorBoardLogger):
                logger.log_metrics({"time/slots_per_second": speed}, data.slots * data.num_collectors)


def _parts(trainer: Trainer, pl_module: LightningModule) -> tuple[HADRL, TransitionDataModule]:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(pl_module, HADRL) or not isinstance(data, TransitionDataModule):
        raise TypeError("CEMPlanning collects for HADRL with a TransitionDataModule")
    return pl_module, data
