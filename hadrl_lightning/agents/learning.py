"""Learning: the steps by which the two levels learn from what was collected, as part of a LightningModule."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.optim import Optimizer

from hadrl_lightning.agents.acting import Acting
from hadrl_lightning.agents.refusals import check_item, check_trainer
from hadrl_lightning.agents.seen import ranges_of_scenario, ranges_of_view
from hadrl_lightning.data import OffloadingTransitions, TrainingBatch
from hadrl_lightning.simulator import OffloadingView, Use, make_generator


class Learning(Acting, LightningModule):
    """Trains a slot model and a caching agent on `TrainingBatch`es. Optimisation is manual."""

    reset_world_model: bool
    """Whether the world model starts anew in every epoch."""

    def setup(self, stage: str) -> None:
        """Refuse what training can't do.

        Raises:
            HadrlError: see `check_trainer`.
        """
        if stage == "fit":
            check_trainer(self.trainer)

    def on_train_start(self) -> None:
        """Note what the scenario brings."""
        self.seen.include(ranges_of_scenario(self.scenario, self.physics))
        if (
            getattr(self.trainer, "datamodule", None) is None
        ):  # of a loader alone nothing was observed by collecting
            with isolate_rng():
                self.world_model.observe_first(self._passes(self.trainer.train_dataloader or ()))

    def _passes(self, batches: Iterable[Any]) -> Iterator[OffloadingTransitions]:
        """The fast level's transitions of all batches."""
        for batch in batches:
            check_item(batch, TrainingBatch)
            yield from batch.offloading or ()

    def observe(self, transitions: OffloadingTransitions) -> None:
        """Take new transitions into the statistics of both levels and into the ranges seen; every rank has to call."""
        self.world_model.observe(transitions)
        self.caching_agent.observe(transitions)
        assert isinstance(transitions.view, OffloadingView)
        self.seen.include(ranges_of_view(transitions.view, self.physics))

    def on_train_epoch_start(self) -> None:
        """Start the world model anew, as published, if that is set."""
        if not self.reset_world_model:
            return
        self.world_model.reset_parameters(make_generator(self.seed, Use.RESETS, self.current_epoch))
        self._optimizers()[0].state.clear()

    def training_step(self, batch: TrainingBatch, batch_idx: int) -> None:
        """Update the world model on every minibatch of the pass, then the caching agent on each of its batches.

        Raises:
            HadrlError: the loader gives something else than a `TrainingBatch`.
        """
        check_item(batch, TrainingBatch)
        world_model_optimizer, *optimizers = self._optimizers()
        losses: dict[str, list[Tensor]] = {}
        for lessons in batch.offloading.map(self.world_model.prepared) if batch.offloading else ():
            loss = self.world_model.loss(lessons)
            world_model_optimizer.zero_grad()
            self.manual_backward(loss.total)
            world_model_optimizer.step()  # which clips in on_before_optimizer_step
            _append(losses, "world_model", loss._asdict())
        for caching in batch.caching:
            update = self.caching_agent.update(caching, optimizers, self.manual_backward)
            _append(losses, "caching_agent", update._asdict())
        for name, values in losses.items():
            self.log(
                f"train/{name}",
                _finite_mean(self._of_all_ranks(name, torch.stack(values))),
                on_step=False,
                on_epoch=True,
                batch_size=1,
                sync_dist=True,
            )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the world model's gradient: here Lightning has undone the scaling that `16-mixed` gives it."""
        if optimizer is self._optimizers()[0].optimizer:
            self.world_model.clip_gradients_of_all()

    def _of_all_ranks(self, name: str, losses: Float[Tensor, " updates"]) -> Float[Tensor, " updates"]:
        """Losses of all members and whole batches, from the parts of this rank."""
        level, _, field = name.partition("/")
        if level == "world_model":
            return self.world_model.of_all_members(field, losses)
        return self.caching_agent.of_all_rows(losses)

    def configure_optimizers(self) -> Any:
        """The world model's, then those of the caching agent."""
        return [self.world_model.configure_optimizers(), *self.caching_agent.configure_optimizers()]

    def _optimizers(self) -> list[LightningOptimizer]:
        optimizers: Any = self.optimizers()  # one by itself is no list
        return optimizers if isinstance(optimizers, list) else [optimizers]


def _finite_mean(losses: Float[Tensor, " updates"]) -> Float[Tensor, ""]:
    """Mean over the updates that were made: `FiniteNumbers` may leave some out."""
    finite = losses.isfinite()
    return torch.where(finite, losses, 0.0).sum() / finite.sum()


def _append(losses: dict[str, list[Tensor]], prefix: str, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        losses.setdefault(f"{prefix}/{name}", []).append(value.detach().float())
