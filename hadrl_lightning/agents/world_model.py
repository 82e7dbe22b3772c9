"""The flat world model of the fast level: an ensemble of dynamics models and a reward model."""

from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hadrl_lightning.agents.levels import SLOT_MODELS
from hadrl_lightning.agents.transition_model import TransitionModel, over_members
from hadrl_lightning.data.transitions import OffloadingTransitions
from hadrl_lightning.nn.normaliser import RunningNormaliser
from hadrl_lightning.nn.perceptrons import DynamicsEnsemble, RewardModel, gaussian_nll
from hadrl_lightning.planning.model import Prediction
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import Seen, offloading_view_of, to_vector, vector_size
from hadrl_lightning.typed import typed


@typed
@dataclass(frozen=True, kw_only=True)
class WorldModelSettings:
    """Settings of the world model; the defaults and names are the published ones."""

    ensemble_size: int = 20
    """Dynamics models in the ensemble; at least 1."""

    hidden_size: int = 400
    """Width of the hidden layers of the dynamics models (three) and of the reward model (two); at least 1."""

    learning_rate: float = 1e-3
    """Adam's learning rate; above 0."""

    adam_epsilon: float = 1e-8
    """Adam's epsilon; above 0."""

    grad_clip_norm: float = 1000.0
    """Norm that the gradient of all parameters together is clipped to; above 0."""

    min_log_var: float = -5.0
    """Lower bound of the log-variance of the normalised change; below `max_log_var`."""

    max_log_var: float = -1.0
    """Upper bound of the log-variance of the normalised change."""

    normalise_reward: bool = True
    """Whether the reward model learns the reward scaled to mean 0 and standard deviation 1 (published: as it is)."""

    def __post_init__(self) -> None:
        for name in ("ensemble_size", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "adam_epsilon", "grad_clip_norm"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if not -inf < self.min_log_var < self.max_log_var < inf:
            raise ValueError(
                f"min_log_var must be below max_log_var ({self.max_log_var}), both finite, got {self.min_log_var}"
            )


class WorldModelLoss(NamedTuple):
    """Losses of one batch. Only `total` carries a gradient worth following; the errors are detached."""

    total: Float[Tensor, ""]
    """dynamics + reward."""

    dynamics: Float[Tensor, ""]
    """Gaussian negative log-likelihood of the normalised change, mean over batch and dimensions, sum over members."""

    reward: Float[Tensor, ""]
    """Gaussian negative log-likelihood of the reward, mean over the batch."""

    dynamics_error: Float[Tensor, ""]
    """Root mean squared error of the normalised change."""

    reward_error: Float[Tensor, ""]
    """Root mean squared error of the reward, in units of the reward."""


class RolloutState(NamedTuple):
    """Where the rows of a plan are. At the start all candidates of a network share its observation, as do members."""

    observation: Float[Tensor, "members_or_1 rows_or_networks observation"]
    """Normalised."""
    num_candidates: int
    """Rows that share one observation in turn: candidates per network at the start, 1 later."""


@SLOT_MODELS.register("flat")
class WorldModel(TransitionModel):
    """Predicts what is seen next, by an ensemble, and the reward of what is seen and an action; views become vectors.

    Trains alone with a plain `Trainer` on a loader of `OffloadingTransitions`, `[b, …]` for all members or `[members,
    b, …]`, or as a child of `HADRL`, which calls `observe` and `loss`; only the root module logs. Is a `PlanningModel`:
    each member rolls its own trajectory, next observation = observation + its mean change.

    Departures from the published code: the reward model learns by likelihood, so that its variance means something
    (published: squared error of a sampled reward, which drives the variance to its floor); it is asked for the reward
    of (s_t, a_t), which it was trained on, not of the states after; it learns the normalised reward unless
    `normalise_reward` is off.

    Args:
        observation_size: numbers in the vector of an offloading view.
        action_size: numbers in an offloading action.
        settings: hyper-parameters.
        generator: source of the initial parameters; None: the global one.

    Raises:
        ValueError: a size below 1.
    """

    Settings = WorldModelSettings
    settings_group = "world_model"
    settings: WorldModelSettings

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        settings: WorldModelSettings = WorldModelSettings(),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("observation_size", observation_size), ("action_size", action_size)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.observation_size = observation_size
        self.action_size = action_size
        self.settings = settings
        self.dynamics = DynamicsEnsemble(
            settings.ensemble_size,
            observation_size,
            action_size,
            settings.hidden_size,
            (settings.min_log_var, settings.max_log_var),
            generator,
        )
        self.reward = RewardModel(observation_size, action_size, settings.hidden_size, generator=generator)
        self.observation_normaliser = RunningNormaliser(observation_size)
        self.action_normaliser = RunningNormaliser(action_size)
        self.change_normaliser = RunningNormaliser(observation_size)
        self.reward_normaliser = RunningNormaliser(1)

    @classmethod
    def made_for(
        cls, scenario: Scenario, physics: Physics, settings: WorldModelSettings, generator: torch.Generator
    ) -> "WorldModel":
        """See `Level`."""
        sizes = (vector_size(offloading_view_of(scenario), scenario), scenario.offloading_action_size)
        return cls(*sizes, settings, generator=generator)

    @property
    def num_members(self) -> int:
        """Members of the ensemble held here."""
        return len(self.dynamics.first.weight)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew; what was observed (normalisers, best reward) stays. Optimisers are the caller's."""
        self.rescale()
        self.dynamics.reset_parameters(generator)
        self.reward.reset_parameters(generator)

    # --- what was seen -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(self, transitions: OffloadingTransitions, synchronise: bool = True) -> None:
        """Takes transitions, `[…, n, …]`, into the normalisers and the best reward seen; each transition once.

        Args:
            transitions: new ones only: what was observed before still counts.
            synchronise: combine with what the other ranks of `torch.distributed` bring; every rank then has to call.

        Raises:
            ValueError: wrong sizes, or values that are not finite.
        """
        before, after = _vectors(transitions)
        self.observation_normaliser.update(before, synchronise)
        self.action_normaliser.update(transitions.action, synchronise)
        self.change_normaliser.update(after - before, synchronise)
        self.reward_normaliser.update(transitions.reward[..., None], synchronise)
        self.keep_best_reward(transitions.reward, synchronise)

    # --- learning ------------------------------------------------------------------------------------------------

    def loss(self, transitions: OffloadingTransitions) -> WorldModelLoss:
        """Negative log-likelihood of the transitions, constants left out; weights count for the ensemble alone.

        Args:
            transitions: fields `[b, …]`, the same for all members, or `[members, b, …]`.

        Raises:
            ValueError: fields of other shapes.
        """
        batch = self._by_member(transitions)
        self.keep_scale()
        before, after = _vectors(batch)
        observation = self.observation_normaliser.normalise(before)
        action = self.action_normaliser.normalise(batch.action)
        change = self.change_normaliser.normalise(after - before)
        reward = self._normalised_reward(batch.reward)

        mean, log_var = self.dynamics(observation, action)
        dynamics = over_members(gaussian_nll(mean, log_var, change), batch.weight)
        reward_mean, reward_log_var = self.reward(observation, action)
        part = self.held.fraction
        reward_loss = part * gaussian_nll(reward_mean, reward_log_var, reward).mean()

        with torch.no_grad():
            dynamics_error = (part * (mean - change).square().mean()).sqrt()
            scale = self.reward_normaliser.scale[0].to(reward) if self.settings.normalise_reward else 1.0
            reward_error = (part * (reward_mean - reward).square().mean()).sqrt() * scale
        return WorldModelLoss(
            dynamics + reward_loss, dynamics.detach(), reward_loss.detach(), dynamics_error, reward_error
        )

    def check_rows(self, transitions: OffloadingTransitions) -> None:
        """Refuse transitions of other shapes."""
        self._by_member(transitions)

    def _by_member(self, transitions: OffloadingTransitions) -> OffloadingTransitions:
        """Rows `[members, b]`, or `[1, b]` for a batch that all members share, with vectors in place of views."""
        before, after = _vectors(transitions)
        lead = list(transitions.reward.shape)
        members = [] if len(lead) == 1 else [self.num_members]
        expected = (self.observation_size, self.action_size, self.observation_size)
        given = (before, transitions.action, after)
        matching = all(list(field.shape) == [*lead, size] for field, size in zip(given, expected))
        if len(lead) not in (1, 2) or lead[:-1] != members or not matching:
            raise ValueError(
                f"transitions must have shape [b, …] or [{self.num_members}, b, …] with {self.observation_size} "
                f"observed and {self.action_size} acted numbers, got view {list(given[0].shape)}, "
                f"action {list(given[1].shape)}, reward {lead}, next_view {list(given[2].shape)}"
            )
        batch = replace(transitions, view=before, next_view=after)
        return batch if members else batch[None]

    def _normalised_reward(self, reward: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        if not self.settings.normalise_reward:
            return reward
        return self.reward_normaliser.normalise(reward[..., None])[..., 0]

    # --- planning ------------------------------------------------------------------------------------------------

    def start(
        self, view: Seen, num_candidates: int, members: Int[Tensor, " m"] | None = None
    ) -> RolloutState:
        """The state of `num_candidates` rows for every network, network-major."""
        return RolloutState(self.observation_normaliser.normalise(to_vector(view))[None], num_candidates)

    def step(
        self,
        state: RolloutState,
        action: Float[Tensor, "rows action"],
        members: Int[Tensor, " m"] | None = None,
    ) -> tuple[Prediction, RolloutState]:
        """What the members (None: all) predict of the actions in the state, and where each gets to."""
        num_members = self.num_members if members is None else len(members)
        before = state.observation
        normal_action = self.action_normaliser.normalise(action)[None]
        mean, log_var = self.dynamics(before, normal_action, members)
        if state.num_candidates > 1:
            before = before.repeat_interleave(state.num_candidates, dim=1)
        reward_mean, reward_log_var = self.predict_reward(before, normal_action)
        prediction = Prediction(
            mean, log_var, reward_mean.expand(num_members, -1), reward_log_var.expand(num_members, -1)
        )
        change, scale = self.change_normaliser, self.observation_normaliser.scale
        after = torch.addcmul(before, mean, (change.scale / scale).to(before)) + (change.centre / scale).to(
            before
        )
        return prediction, RolloutState(after, 1)

    def predict_reward(
        self,
        observation: Float[Tensor, "members_or_1 rows observation"],
        action: Float[Tensor, "1 rows action"],
    ) -> tuple[Float[Tensor, "members_or_1 rows"], Float[Tensor, "members_or_1 rows"]]:
        """Mean and log-variance of the reward, in its own units, from normalised observations and actions."""
        mean, log_var = self.reward(observation, action)
        if not self.settings.normalise_reward:
            return mean, log_var
        scale = self.reward_normaliser
        return scale.denormalise(mean[..., None])[..., 0], scale.denormalise_log_var(log_var[..., None])[
            ..., 0
        ]


def _vectors(transitions: OffloadingTransitions) -> tuple[Tensor, Tensor]:
    """What was seen before and after a slot, as vectors."""
    return to_vector(transitions.view), to_vector(transitions.next_view)
