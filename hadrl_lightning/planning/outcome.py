"""Expected free energy over outcomes: the latency of every user."""

from dataclasses import dataclass
from math import inf, log

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.planning.free_energy import FreeEnergy
from hadrl_lightning.planning.measures import Draws, Exploration
from hadrl_lightning.planning.model import Prediction
from hadrl_lightning.typed import typed


@typed
@dataclass(frozen=True, kw_only=True)
class OutcomeForm:
    """−(reward_scale · expected log preference over latencies + expl_scale · exploration measure).

    For a model whose `Prediction.mean` and `log_var` are of the users' log latencies in ln s. The preference of every
    user is the exponential density ln p(latency) = −latency/scale − ln scale: each second counts the same, so the
    pragmatic value is minus the expected latency summed over users, in units of the scale. With the measure
    `information`, the information gain about the members, both terms are expectations over outcomes in nats; at scales
    of 1 their sum is the expected free energy of active inference (Friston et al. 2015, Cognitive Neuroscience 6, 187).
    """

    latency_scale_s: float = 1.0
    """Mean of the preferred latencies in seconds: what a second is worth against a nat; above 0."""

    expl_scale: float = 1.0
    """Weight of the exploration measure; 0 or more. At 0 it is not computed."""

    exploration: Exploration = Exploration()  # noqa: RUF009 (frozen)
    """The measure, of the predicted log latencies."""

    use_reward: bool = True
    """Whether the preference counts."""

    reward_scale: float = 1.0
    """Weight of the preference; 0 or more."""

    def __post_init__(self) -> None:
        if not 0 < self.latency_scale_s < inf:
            raise ValueError(f"latency_scale_s must be above 0 and finite, got {self.latency_scale_s}")
        for name in ("expl_scale", "reward_scale"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")

    def step(self, prediction: Prediction, draws: Draws, t: int) -> FreeEnergy:
        """Terms of the step t of each row; `reward` is the predicted one."""
        reward = prediction.reward_mean.float().mean(dim=0)
        nothing = torch.zeros_like(reward)
        pragmatic = self.reward_scale * self.surprise(prediction) if self.use_reward else nothing
        if self.expl_scale == 0:
            return FreeEnergy(pragmatic, pragmatic, nothing, reward, nothing)
        measure = self.exploration.measure(prediction, draws, t)
        epistemic = -self.expl_scale * measure
        return FreeEnergy(pragmatic + epistemic, pragmatic, epistemic, reward, measure)

    def surprise(self, prediction: Prediction) -> Float[Tensor, " rows"]:
        """Expected −ln p of the latencies, summed over users, mean over members; E[latency] = exp(mean + ½ σ²)."""
        latency = (prediction.mean.float() + 0.5 * prediction.log_var.float().exp()).exp()
        num_users = latency.shape[-1]
        return latency.sum(dim=-1).mean(dim=0) / self.latency_scale_s + num_users * log(self.latency_scale_s)
