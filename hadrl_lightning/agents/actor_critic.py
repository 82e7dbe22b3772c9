"""What caching agents with an actor and a critic share: the order of an update, target models, training alone."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from hadrl_lightning.agents.levels import CachingAgent, Steps
from hadrl_lightning.agents.optimisers import ResumedAdam
from hadrl_lightning.agents.refusals import check_finite, check_item, check_rows
from hadrl_lightning.data.transitions import CachingTransitions, Transitions


@dataclass(frozen=True, kw_only=True)
class ActorCriticSettings:
    """Settings that agents with an actor and a critic share. Published names in brackets.

    Batch size, memory and updates an epoch are settings of `TransitionDataModule`, which draws the batches.
    """

    actor_learning_rate: float = 1e-3
    """Adam's learning rate of the actor (`lr_a`); above 0."""

    critic_learning_rate: float = 2e-3
    """Adam's learning rate of the critic (`lr_c`); above 0."""

    discount: float
    """Weight of the next decision's value (`gamma`); 0 or more and below 1."""

    target_rate: float
    """Share by which the target models follow the trained ones each update (`tau`); above 0, at most 1."""

    hidden_sizes: tuple[int, ...]
    """Widths of hidden layers; each at least 1."""

    def __post_init__(self) -> None:
        for name in ("actor_learning_rate", "critic_learning_rate"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount must be at least 0 and below 1, got {self.discount}")
        if not 0 < self.target_rate <= 1:
            raise ValueError(f"target_rate must be above 0 and at most 1, got {self.target_rate}")
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes must each be at least 1, got {self.hidden_sizes}")


class ActorCriticLosses(NamedTuple):
    """Losses of one update, detached; where ranks share the batch, parts that add up."""

    critic: Float[Tensor, ""]
    """Mean squared error of the value."""

    actor: Float[Tensor, ""]
    """What the actor descends."""


class ActorCritic(LightningModule, CachingAgent):
    """An actor proposes a decision, a critic values it, slow copies of both give targets.

    Trains alone with a plain `Trainer` on a loader of `CachingTransitions` (one gradient update a batch), or
    as a child of `HADRL`, which calls `update`. Optimisation is manual; only the root module logs.

    Episodes end by truncation, never by termination: there is a next state after the last decision too, so
    the target always bootstraps.

    A subclass says what a decision is (`act`, `explore`) and what is learnt: `value`, `target_value`, `actor_loss`.

    Args:
        settings: hyper-parameters.
        actor: proposes.
        critic: values.
    """

    settings: ActorCriticSettings

    def __init__(self, settings: ActorCriticSettings, actor: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings = settings
        self.actor = actor
        self.critic = critic
        self.target_actor = copy.deepcopy(actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(critic).requires_grad_(False)

    @abstractmethod
    def value(self, batch: Transitions) -> Float[Tensor, " own"]:
        """The critic's value of what was done in each of these rows."""

    @abstractmethod
    def target_value(self, batch: Transitions) -> Float[Tensor, " own"]:
        """What the critic should say of this rank's rows, without a gradient."""

    @abstractmethod
    def actor_loss(self, batch: Transitions) -> Float[Tensor, ""]:
        """What the actor descends: this rank's part of it."""

    def critic_loss(self, batch: Transitions) -> Float[Tensor, ""]:
        """Mean squared difference between the critic's value and the target value: this rank's part of it."""
        target, own = self.target_value(batch), self.data_share.rows(batch)
        return self.data_share.weight(len(batch)) * mse_loss(self.value(own), target)

    @torch.no_grad()
    def update_targets(self) -> None:
        """target ← (1 − target_rate)·target + target_rate·trained, for parameters; buffers are copied."""
        for target, trained in ((self.target_actor, self.actor), (self.target_critic, self.critic)):
            for slow, fast in zip(target.parameters(), trained.parameters(), strict=True):
                slow.lerp_(fast, self.settings.target_rate)
            for kept, current in zip(target.buffers(), trained.buffers(), strict=True):
                kept.copy_(current)

    def update(
        self, batch: Transitions, optimizers: Sequence[Steps], backward: Callable[[Tensor], None]
    ) -> ActorCriticLosses:
        """One gradient update in the paper's order: critic, actor at the new critic, target models.

        Args:
            batch: rows `[batch]`.
            optimizers: the actor's, the critic's.
            backward: the root module's `manual_backward`, or `Tensor.backward`.
        """
        actor_optimizer, critic_optimizer = optimizers
        critic_loss = self.critic_loss(batch)
        _descend(critic_loss, critic_optimizer, backward)
        with _frozen(self.critic):  # the actor's gradient passes through the critic and leaves none there
            actor_loss = self.actor_loss(batch)
            _descend(actor_loss, actor_optimizer, backward)
        self.update_targets()
        return ActorCriticLosses(critic_loss.detach(), actor_loss.detach())

    def training_step(self, batch: CachingTransitions, batch_idx: int) -> None:
        """One gradient update; for training without `HADRL`.

        Raises:
            HadrlError: the loader gives something else, of other sizes, or a number that is none.
        """
        check_item(batch, CachingTransitions)
        check_rows(batch)
        check_finite(batch)
        optimizers = self.optimizers()
        assert isinstance(optimizers, list), "there are always the two of configure_optimizers"
        losses = self.update(batch, optimizers, self.manual_backward)
        if self.trainer.lightning_module is self:
            self.log_dict({"caching_agent/critic": losses.critic, "caching_agent/actor": losses.actor})

    def configure_optimizers(self) -> Any:
        """Adam for the actor, Adam for the critic, in this order."""
        return [
            ResumedAdam(self.actor.parameters(), lr=self.settings.actor_learning_rate),
            ResumedAdam(self.critic.parameters(), lr=self.settings.critic_learning_rate),
        ]


def _descend(loss: Tensor, optimizer: Steps, backward: Callable[[Tensor], None]) -> None:
    optimizer.zero_grad()
    backward(loss)
    optimizer.step()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Within, the parameters of the module that are trained need no gradient."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
