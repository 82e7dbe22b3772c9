"""What a model of the offloading level needs to train alone, and to share what it saw over ranks."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.optim import Optimizer

from hadrl_lightning.agents.loader_items import check_finite, check_item
from hadrl_lightning.agents.optimisers import ResumedAdam
from hadrl_lightning.data.transitions import OffloadingTransitions
from hadrl_lightning.distributed.collectives import largest, summed
from hadrl_lightning.distributed.members import clip_gradients, members_held
from hadrl_lightning.distributed.shares import Share
from hadrl_lightning.nn.normaliser import RunningNormaliser
from hadrl_lightning.planning.free_energy import Form


class LearningSettings(Protocol):
    """Settings that training needs."""

    @property
    def learning_rate(self) -> float:
        """Adam's learning rate."""

    @property
    def adam_epsilon(self) -> float:
        """Adam's epsilon."""

    @property
    def grad_clip_norm(self) -> float:
        """Norm that the gradient is clipped to."""


class TransitionModel(LightningModule):
    """Base of models that learn from `OffloadingTransitions`.

    It trains alone, and keeps the best reward seen.

    A subclass has the attribute `settings` and the methods `loss`, `observe` and `reset_parameters`. Every
    `RunningNormaliser` among its modules is merged over ranks. Only the root module logs.

    Where ranks share the members of the ensemble, losses are *parts*: of the members held here, to be added up over
    ranks; errors are roots of parts of a mean square (`of_all_members`).
    """

    settings: LearningSettings
    best_reward: Float[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("best_reward", torch.tensor(-torch.inf))
        self.register_load_state_dict_pre_hook(_keeping_scale)

    @abstractmethod
    def loss(self, transitions: OffloadingTransitions) -> tuple[Tensor, ...]:
        """Losses of a batch; the first, `total`, carries the gradient."""

    @abstractmethod
    def observe(self, transitions: OffloadingTransitions, synchronise: bool = True) -> None:
        """Takes transitions into the normalisers."""

    @abstractmethod
    def _by_member(self, transitions: OffloadingTransitions) -> OffloadingTransitions:
        """Rows with a dimension of members in front; refuses other shapes."""

    def check_planner(self, form: Form, plan_horizon: int) -> None:
        """Raises a ValueError that begins with the setting's name where a planner asks what the model can't tell."""
        if form == "outcome":
            raise ValueError(
                f"form must not be outcome with a {type(self).__name__}, which predicts no latencies, got {form}"
            )

    @property
    def held(self) -> Share:
        """The members of the ensemble held here."""
        held = members_held(self)
        assert held is not None, "a world model is an ensemble"
        return held

    def of_all_members(self, name: str, parts: Float[Tensor, "*batches"]) -> Float[Tensor, "*batches"]:
        """A field of the losses for all members, from the parts of those held here; every rank has to call it."""
        if self.held.is_whole:
            return parts
        return summed(parts.square()).sqrt() if name.endswith("_error") else summed(parts)

    def clip_gradients_of_all(self) -> Tensor:
        """Clips the gradient of all members, wherever they are, to `grad_clip_norm`; returns its norm before."""
        return clip_gradients(self, self.settings.grad_clip_norm)

    @property
    def normalisers(self) -> list[RunningNormaliser]:
        """All running statistics."""
        return [module for module in self.modules() if isinstance(module, RunningNormaliser)]

    def keep_scale(self) -> None:
        """From the first gradient on the scale of inputs and outputs stays: what was learnt holds in it alone."""
        if self.training and torch.is_grad_enabled():
            for normaliser in self.normalisers:
                normaliser.freeze()

    def rescale(self) -> None:
        """Take up the scale of all that was seen: for weights that are drawn anew."""
        for normaliser in self.normalisers:
            normaliser.thaw()

    def synchronise(self) -> None:
        """Merges what every rank observed alone (`observe(synchronise=False)` from the start on)."""
        for normaliser in self.normalisers:
            normaliser.synchronise()
        self.share_best_reward()

    def keep_best_reward(self, reward: Float[Tensor, "*rows"], synchronise: bool) -> None:
        """Raises the best reward seen to the largest of these, on all ranks if they are synchronised."""
        if reward.numel():
            best = reward.max().to(self.best_reward)
            self.best_reward.copy_(torch.maximum(self.best_reward, best))
        if synchronise:
            self.share_best_reward()

    def share_best_reward(self) -> None:
        """Gives every rank the best reward of all."""
        self.best_reward.copy_(largest(self.best_reward))

    def on_train_start(self) -> None:
        """Fits the normalisers to the train dataloader, if nothing was observed before."""
        with isolate_rng():
            self.observe_first(self.trainer.train_dataloader or ())

    def observe_first(self, batches: Iterable[OffloadingTransitions]) -> None:
        """Fits the normalisers to these batches, if nothing was observed before; every rank has to call.

        Raises:
            HadrlError: an item is no `OffloadingTransitions`, or holds a number that is none.
        """
        if any(normaliser.count > 0 for normaliser in self.normalisers):
            return
        for batch in batches:
            check_item(batch, OffloadingTransitions)
            check_finite(batch)
            self._by_member(batch)
            self.observe(batch.to(self.device), synchronise=False)
        self.synchronise()

    def training_step(self, batch: OffloadingTransitions, batch_idx: int) -> Tensor:
        """Loss of a batch; for training without `HADRL`.

        Raises:
            HadrlError: the loader gives something else, or a number that is none.
        """
        check_item(batch, OffloadingTransitions)
        check_finite(batch)
        losses: Any = self.loss(batch)
        if self.trainer.lightning_module is self:
            terms = {
                f"world_model/{name}": self.of_all_members(name, value.detach())
                for name, value in losses._asdict().items()
            }
            self.log_dict(terms, batch_size=batch.reward.shape[-1])
        return losses.total

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips to `grad_clip_norm`, unless the trainer was given a value of its own."""
        if gradient_clip_val is None and not self.held.is_whole:
            self.clip_gradients_of_all()
            return
        value = self.settings.grad_clip_norm if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, value, gradient_clip_algorithm or "norm")

    def configure_optimizers(self) -> Any:
        """Adam over all parameters."""
        return ResumedAdam(self.parameters(), lr=self.settings.learning_rate, eps=self.settings.adam_epsilon)


def over_members(
    losses: Float[Tensor, "member rows *numbers"], transitions: OffloadingTransitions
) -> Float[Tensor, ""]:
    """Mean over numbers and rows, each row times its weight if it has one; sum over members.

    Raises:
        ValueError: weights of another shape than the rewards.
    """
    by_row = losses.flatten(2).mean(dim=2)
    if transitions.weight is not None:
        if transitions.weight.shape != transitions.reward.shape:
            expected, found = list(transitions.reward.shape), list(transitions.weight.shape)
            raise ValueError(f"weight must have shape {expected} as the reward, got {found}")
        by_row = by_row * transitions.weight
    return by_row.mean(dim=1).sum()


def _keeping_scale(model: TransitionModel, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Weights of older versions, which don't tell, were trained if they have seen anything."""
    for name, module in model.named_modules(prefix=prefix.removesuffix(".")):
        if isinstance(module, RunningNormaliser) and f"{name}.count" in state_dict:
            state_dict.setdefault(f"{name}.frozen", state_dict[f"{name}.count"] > 0)
