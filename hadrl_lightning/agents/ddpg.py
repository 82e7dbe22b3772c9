"""Deep deterministic policy gradient for the caching level (Lillicrap et al. 2016, arXiv 1509.02971)."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Optimizer

from hadrl_lightning.agents.loader_items import check_finite, check_item, check_rows
from hadrl_lightning.agents.optimisers import ResumedAdam
from hadrl_lightning.data.transitions import CachingTransitions, Transitions
from hadrl_lightning.distributed.members import SharesRows
from hadrl_lightning.nn.actor_critic import HIDDEN_SIZES, Actor, Critic
from hadrl_lightning.simulator import Seen, to_vector
from hadrl_lightning.typed import typed


@typed
@dataclass(frozen=True, kw_only=True)
class DDPGSettings:
    """Settings of the caching agent; the defaults are the published ones. Published names in brackets.

    Batch size, memory and updates an epoch are settings of `TransitionDataModule`, which draws the batches.
    """

    actor_learning_rate: float = 1e-3
    """Adam's learning rate of the actor (`lr_a`); above 0."""

    critic_learning_rate: float = 2e-3
    """Adam's learning rate of the critic (`lr_c`); above 0."""

    discount: float = 0.95
    """Weight of the next decision's value (`gamma`); 0 or more and below 1."""

    target_rate: float = 0.005
    """Share by which the target networks follow the trained ones each update (`tau`); above 0, at most 1."""

    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES
    """Widths of the hidden layers of actor and critic; each at least 1."""

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


class DDPGLosses(NamedTuple):
    """Losses of one update, detached; where ranks share the batch, parts that add up."""

    critic: Float[Tensor, ""]
    """Mean squared error of the value."""

    actor: Float[Tensor, ""]
    """Minus the critic's mean value of the actor's decisions."""


class DDPG(LightningModule, SharesRows):
    """The caching agent: an actor proposes a decision, a critic values it, slow copies of both give targets.

    Trains alone with a plain `Trainer` on a loader of `CachingTransitions` (one gradient update a batch), or
    as a child of `HADRL`, which calls `update`. Optimisation is manual; only the root module logs.
    Exploration noise is the business of whoever collects.

    Episodes end by truncation, never by termination: there is a next state after the last decision too, so
    the target always bootstraps, r + discount·Q′(s′, μ′(s′)).

    Its networks see vectors: a view becomes one here (`read`). The numbers enter as they come, as published, although
    some of the published ones are large (remaining cache in 10⁹ bit, up to some 1400): networks that normalise can be
    passed in.

    Variants pass other networks (`actor`: what is seen → action; `critic`: what is seen, what is done → value; of any
    size) and override what they see (`read`), how a decision is made (`decide`), what the critic takes as done
    (`executed`), and `actor_loss`.

    Args:
        observation_size: numbers in the vector of a caching view.
        action_size: numbers in a caching action, servers × services.
        settings: hyper-parameters.
        actor: replaces the published actor.
        critic: replaces the published critic.
        generator: source of the initial parameters of the published networks; None: the global one.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        settings: DDPGSettings = DDPGSettings(),
        *,
        actor: nn.Module | None = None,
        critic: nn.Module | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("observation_size", observation_size), ("action_size", action_size)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.automatic_optimization = False
        self.observation_size = observation_size
        self.action_size = action_size
        self.settings = settings
        sizes = (observation_size, action_size, settings.hidden_sizes)
        self.actor = Actor(*sizes, generator) if actor is None else actor
        self.critic = Critic(*sizes, generator) if critic is None else critic
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)

    def read(self, seen: Seen) -> Any:
        """What actor and critic see: the one place where a view becomes a vector.

        Raises:
            ValueError: it is of another size.
        """
        vector = to_vector(seen)
        if vector.ndim == 0 or vector.shape[-1] != self.observation_size:
            found = list(vector.shape)
            raise ValueError(f"observation must have shape [..., {self.observation_size}], got {found}")
        return vector

    def forward(self, seen: Seen) -> Float[Tensor, "..."]:
        """As `act`, but with gradients."""
        return self.decide(self.read(seen), self.actor, self.critic)

    @torch.no_grad()
    def act(self, seen: Seen, generator: torch.Generator | None = None) -> Float[Tensor, "..."]:
        """The decision without exploration: action `[..., action_size]` in [−1, 1].

        Args:
            seen: a view, or the vector of one, `[..., observation_size]`.
            generator: variants that search may draw from it.

        Raises:
            ValueError: something of another size.
        """
        return self(seen)

    @torch.no_grad()
    def explore(self, seen: Seen, noise: float, generator: torch.Generator) -> Float[Tensor, "batch action"]:
        """The decision plus Gaussian noise of standard deviation `noise`, clipped to [−1, 1], as published."""
        action = self(seen)
        drawn = torch.randn(action.shape, generator=generator, device=generator.device)
        return (action + noise * drawn.to(action)).clamp(-1, 1)

    def decide(self, read: Any, actor: nn.Module, critic: nn.Module) -> Float[Tensor, "*rows action"]:
        """The decision of an actor and a critic, trained or target ones, on what was `read`.

        Published: the actor's, as it is.
        """
        return actor(read)

    def executed(self, batch: Any) -> Tensor:
        """What the critic takes as done. Published: the raw action, not the cache that it decoded to."""
        return batch.action

    @torch.no_grad()
    def target_value(self, batch: Transitions) -> Float[Tensor, " own"]:
        """r + discount·Q′(s′, μ′(s′)) by the target networks, bootstrapped at every transition of this rank."""
        own = self.data_share.rows(batch)
        following = self.read(own.next_view)
        next_action = self.decide(following, self.target_actor, self.target_critic)
        return own.reward + self.settings.discount * self.target_critic(following, next_action)

    def critic_loss(self, batch: Transitions) -> Float[Tensor, ""]:
        """Mean squared difference between the critic's value and the target value: this rank's part of it."""
        target, own = self.target_value(batch), self.data_share.rows(batch)
        weight = self.data_share.weight(len(batch))
        return weight * mse_loss(self.critic(self.read(own.view), self.executed(own)), target)

    def actor_loss(self, batch: Transitions) -> Float[Tensor, ""]:
        """Minus the critic's mean value of the actor's action: this rank's part of it."""
        seen, weight = self.read(self.data_share.rows(batch).view), self.data_share.weight(len(batch))
        return -weight * self.critic(seen, self.actor(seen)).mean()

    @torch.no_grad()
    def update_targets(self) -> None:
        """target ← (1 − target_rate)·target + target_rate·trained, for parameters; buffers are copied."""
        for target, trained in ((self.target_actor, self.actor), (self.target_critic, self.critic)):
            for slow, fast in zip(target.parameters(), trained.parameters(), strict=True):
                slow.lerp_(fast, self.settings.target_rate)
            for kept, current in zip(target.buffers(), trained.buffers(), strict=True):
                kept.copy_(current)

    def update(
        self,
        batch: Transitions,
        actor_optimizer: Optimizer | LightningOptimizer,
        critic_optimizer: Optimizer | LightningOptimizer,
        backward: Callable[[Tensor], None],
    ) -> DDPGLosses:
        """One gradient update in the paper's order: critic, actor at the new critic, target networks.

        Args:
            batch: rows `[batch]`; for the published networks any `Transitions` do.
            actor_optimizer: holds the actor's parameters.
            critic_optimizer: holds the critic's parameters.
            backward: the root module's `manual_backward`, or `Tensor.backward`.
        """
        critic_loss = self.critic_loss(batch)
        _descend(critic_loss, critic_optimizer, backward)
        with _frozen(self.critic):  # the actor's gradient passes through the critic and leaves none there
            actor_loss = self.actor_loss(batch)
            _descend(actor_loss, actor_optimizer, backward)
        self.update_targets()
        return DDPGLosses(critic_loss.detach(), actor_loss.detach())

    def training_step(self, batch: CachingTransitions, batch_idx: int) -> None:
        """One gradient update; for training without `HADRL`.

        Raises:
            HadrlError: the loader gives something else, of other sizes, or a number that is none.
        """
        check_item(batch, CachingTransitions)
        check_rows(batch, self.action_size)
        check_finite(batch)
        optimizers = self.optimizers()
        assert isinstance(optimizers, list), "there are always the two of configure_optimizers"
        actor_optimizer, critic_optimizer = optimizers
        losses = self.update(batch, actor_optimizer, critic_optimizer, self.manual_backward)
        if self.trainer.lightning_module is self:
            self.log_dict({"ddpg/critic_loss": losses.critic, "ddpg/actor_loss": losses.actor})

    def configure_optimizers(self) -> Any:
        """Adam for the actor, Adam for the critic, in this order."""
        return [
            ResumedAdam(self.actor.parameters(), lr=self.settings.actor_learning_rate),
            ResumedAdam(self.critic.parameters(), lr=self.settings.critic_learning_rate),
        ]


def _descend(
    loss: Tensor, optimizer: Optimizer | LightningOptimizer, backward: Callable[[Tensor], None]
) -> None:
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
