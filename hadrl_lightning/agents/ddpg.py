"""Deep deterministic policy gradient for the slow level (Lillicrap et al. 2016, arXiv 1509.02971)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hadrl_lightning.agents.actor_critic import ActorCritic, ActorCriticSettings
from hadrl_lightning.agents.levels import CACHING_AGENTS
from hadrl_lightning.data.transitions import Transitions
from hadrl_lightning.nn.perceptrons import HIDDEN_SIZES, Actor, Critic
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import CachingView, Seen, to_vector, vector_size
from hadrl_lightning.typed import typed


@typed
@dataclass(frozen=True, kw_only=True)
class DDPGSettings(ActorCriticSettings):
    """Settings of the caching agent; the defaults are the published ones. Published names in brackets."""

    discount: float = 0.95
    """Weight of the next decision's value (`gamma`); 0 or more and below 1."""

    target_rate: float = 0.005
    """Share by which the target models follow the trained ones each update (`tau`); above 0, at most 1."""

    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES
    """Widths of the hidden layers of actor and critic; each at least 1."""


@CACHING_AGENTS.register("flat")
class DDPG(ActorCritic):
    """The published caching agent.

    Its models see vectors: a view becomes one here (`read`). The numbers enter as they come, as published, although
    some of the published ones are large (remaining cache in 10⁹ bit, up to some 1400): models that normalise can be
    passed in.

    Args:
        observation_size: numbers in the vector of a caching view.
        action_size: numbers in a caching action, servers × services.
        settings: hyper-parameters.
        actor: replaces the published actor.
        critic: replaces the published critic.
        generator: source of the initial parameters of the published models; None: the global one.

    Raises:
        ValueError: a size below 1.
    """

    Settings = DDPGSettings
    settings_group = "ddpg"

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
        for name, size in (("observation_size", observation_size), ("action_size", action_size)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        sizes = (observation_size, action_size, settings.hidden_sizes)
        super().__init__(
            settings,
            actor=Actor(*sizes, generator) if actor is None else actor,
            critic=Critic(*sizes, generator) if critic is None else critic,
        )
        self.observation_size = observation_size

    @classmethod
    def made_for(
        cls, scenario: Scenario, physics: Physics, settings: DDPGSettings, generator: torch.Generator
    ) -> "DDPG":
        """See `Level`."""
        sizes = (vector_size(CachingView, scenario), scenario.caching_action_size)
        return cls(*sizes, settings, generator=generator)

    def read(self, seen: Seen) -> Float[Tensor, "*rows number"]:
        """What actor and critic see: the one place where a view becomes a vector.

        Raises:
            ValueError: it is of another size.
        """
        vector = to_vector(seen)
        if vector.ndim == 0 or vector.shape[-1] != self.observation_size:
            found = list(vector.shape)
            raise ValueError(f"observation must have shape [..., {self.observation_size}], got {found}")
        return vector

    def forward(self, seen: Seen) -> Float[Tensor, "*rows action"]:
        """As `act`, but with gradients."""
        return self.actor(self.read(seen))

    @torch.no_grad()
    def act(self, seen: Seen, generator: torch.Generator | None = None) -> Float[Tensor, "*rows action"]:
        """The decision without exploration: the actor's, as it is.

        Args:
            seen: a view, or the vector of one, `[..., observation_size]`.
            generator: not used.

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

    def value(self, batch: Transitions) -> Float[Tensor, " own"]:
        """Of the raw action, not of the cache that it decoded to, as published."""
        return self.critic(self.read(batch.view), batch.action)

    @torch.no_grad()
    def target_value(self, batch: Transitions) -> Float[Tensor, " own"]:
        """r + discount·Q′(s′, μ′(s′)) by the target models, bootstrapped at every transition of this rank."""
        own = self.data_share.rows(batch)
        following = self.read(own.next_view)
        next_action = self.target_actor(following)
        return own.reward + self.settings.discount * self.target_critic(following, next_action)

    def actor_loss(self, batch: Transitions) -> Float[Tensor, ""]:
        """Minus the critic's mean value of the actor's action: this rank's part of it."""
        seen, weight = self.read(self.data_share.rows(batch).view), self.data_share.weight(len(batch))
        return -weight * self.critic(seen, self.actor(seen)).mean()
