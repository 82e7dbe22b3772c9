"""What models of the fast level share: how they train alone, and the reward that follows from latencies."""

from math import log, sqrt
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.optim import Optimizer

from hadrl_lightning.agents.levels import SlotModel
from hadrl_lightning.agents.optimisers import ResumedAdam
from hadrl_lightning.agents.refusals import check_finite, check_item
from hadrl_lightning.data.transitions import OffloadingTransitions
from hadrl_lightning.play import REWARD_NUMERATOR

_NODES = (0.0, *(sign * sqrt(5 + inner * sqrt(10)) for inner in (-1, 1) for sign in (-1, 1)))
_WEIGHTS = (8 / 15, *((7 - inner * 2 * sqrt(10)) / 60 for inner in (-1, 1) for _ in (-1, 1)))
"""Gauss-Hermite quadrature of five points: the mean of f(z) over a standard normal z is about Σ weight·f(node)."""
_SMALLEST = 1e-12
"""A part of the sum that is nothing counts as so much of the largest latency, so that its logarithm is finite."""


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


class TransitionModel(LightningModule, SlotModel):
    """Base of models that learn from `OffloadingTransitions`, by Adam and behind normalisers whose scale stays.

    It trains alone. Only the root module logs. A subclass has the attribute `settings`.
    """

    settings: LearningSettings

    @property
    def grad_clip_norm(self) -> float:
        """That of the settings."""
        return self.settings.grad_clip_norm

    def keep_scale(self) -> None:
        """From the first gradient on the scale of inputs and outputs stays: what was learnt holds in it alone."""
        if self.training and torch.is_grad_enabled():
            for normaliser in self.normalisers:
                normaliser.freeze()

    def rescale(self) -> None:
        """Take up the scale of all that was seen: for weights that are drawn anew."""
        for normaliser in self.normalisers:
            normaliser.thaw()

    def on_train_start(self) -> None:
        """Fits the normalisers to the train dataloader, if nothing was observed before."""
        with isolate_rng():
            self.observe_first(self.trainer.train_dataloader or ())

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
    losses: Float[Tensor, "member rows *numbers"],
    weight: Float[Tensor, "member_or_1 rows"] | None,
    counts: Bool[Tensor, "member_or_1 rows column"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over numbers and rows, each row times its weight if it has one; sum over members.

    With `counts` over those of the numbers alone that count, whose first dimension behind the rows it is.

    Raises:
        ValueError: weights of another shape.
    """
    if counts is not None:
        part = counts.to(losses.dtype)
        part = part / part.mean(dim=(1, 2), keepdim=True).clamp(min=1 / part[0].numel())
        losses = losses * part.view(*part.shape, *[1] * (losses.ndim - 3))
    by_row = losses.flatten(2).mean(dim=2)
    if weight is not None:
        if weight.shape[-1] != by_row.shape[1] or len(weight) not in (1, len(by_row)):
            rows = by_row.shape[1]
            raise ValueError(
                f"weight must have shape [{len(by_row)}, {rows}] or [1, {rows}], got {list(weight.shape)}"
            )
        by_row = by_row * weight
    return by_row.mean(dim=1).sum()


def derived_reward(
    mean: Float[Tensor, "member rows user"], log_var: Float[Tensor, "member rows user"]
) -> tuple[Float[Tensor, "member rows"], Float[Tensor, "member rows"]]:
    """Mean and log-variance of 10⁴ / Σ latency from independent log-normal latencies.

    The sum is the latency that varies most, as it is, plus the rest, taken as a log-normal with the rest's mean and
    variance (Fenton and Wilkinson); the reward is averaged over both by quadrature. Up to a log-variance of 1 a latency
    the mean is within 3 % of what sampling gives and the standard deviation within 20 %, for any number of users; for
    one and two users both are exact but for the quadrature.

    Args:
        mean: means of the log latencies, ln s.
        log_var: their log-variances.
    """
    var = log_var.exp()
    log_latency = mean + 0.5 * var  # of the expected latency
    scale = log_latency.amax(dim=-1, keepdim=True)
    latency = (log_latency - scale).exp()
    spread = latency.square() * var.expm1()
    widest = spread.argmax(dim=-1, keepdim=True)
    rest = latency.scatter(-1, widest, 0.0).sum(dim=-1).clamp(min=_SMALLEST)
    rest_var = (spread.scatter(-1, widest, 0.0).sum(dim=-1) / rest.square()).log1p()

    node = torch.tensor(_NODES, dtype=mean.dtype, device=mean.device)
    weight = torch.tensor(_WEIGHTS, dtype=mean.dtype, device=mean.device)
    one = ((mean - scale).gather(-1, widest) + var.gather(-1, widest).sqrt() * node).exp()
    other = (rest.log() - 0.5 * rest_var)[..., None] + rest_var.sqrt()[..., None] * node
    reward = 1 / (one[..., :, None] + other.exp()[..., None, :])
    both = weight[:, None] * weight
    expected = (both * reward).sum(dim=(-2, -1))
    variance = (both * (reward - expected[..., None, None]).square()).sum(dim=(-2, -1))
    to_units = log(REWARD_NUMERATOR) - scale[..., 0]
    return expected * to_units.exp(), variance.clamp(min=torch.finfo(mean.dtype).tiny).log() + 2 * to_units
