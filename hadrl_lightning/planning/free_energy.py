"""Expected free energy of candidate action sequences: what the planner minimises.

A form turns the prediction of one step into two terms, pragmatic (how far from what is wanted) and epistemic (minus
what is learnt), both in the direction that lower is better, so that total = pragmatic + epistemic.
`expected_free_energy` adds the steps of a horizon. A new form is a class with a `step` method and a branch in
`PlannerSettings.make_form`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, isfinite, log
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.planning.information import gaussian_entropy
from hadrl_lightning.planning.measures import NO_DRAWS, Draws, Exploration
from hadrl_lightning.planning.model import Prediction
from hadrl_lightning.typed import typed

Form = Literal["tschantz", "gould", "outcome"]
PreferredReward = Literal["above_best", "published"]
GouldEpistemic = Literal["measure", "entropy"]

PREFERENCE_VARIANCE = 0.5
"""α² of Gould's preferred reward."""
PREFERENCE_FACTOR = 1.5
"""Gould's preferred reward in parts of the best reward seen."""


class FreeEnergy(NamedTuple):
    """Expected free energy of each row, and what it is made of. Lower is better, save for the last two."""

    total: Float[Tensor, "*rows"]
    """pragmatic + epistemic; +inf, the worst, where a prediction or a term is not finite."""

    pragmatic: Float[Tensor, "*rows"]
    """Term of the reward."""

    epistemic: Float[Tensor, "*rows"]
    """Term of exploration, scaled."""

    reward: Float[Tensor, "*rows"]
    """Predicted reward summed over the steps, mean over members, in units of the reward."""

    measure: Float[Tensor, "*rows"]
    """The exploration measure before it is scaled, summed over the steps; 0 where exploration is off."""


@runtime_checkable
class FreeEnergyForm(Protocol):
    """Scores one step."""

    def step(self, prediction: Prediction, draws: Draws, t: int) -> FreeEnergy:
        """Terms of the step t of each row."""


@typed
@dataclass(frozen=True, kw_only=True)
class TschantzForm:
    """−(reward·reward_scale + expl_scale·measure) (Tschantz et al. 2020, arXiv 2002.12636, section 3).

    The scale of exploration applies once (published code: twice, so that 0.1 acts as 0.01).
    """

    exploration: Exploration = Exploration()  # noqa: RUF009 (frozen)
    use_reward: bool = True
    use_exploration: bool = True
    expl_scale: float = 0.1
    reward_scale: float = 1.0

    def step(self, prediction: Prediction, draws: Draws, t: int) -> FreeEnergy:
        """Terms of the step t of each row."""
        reward = prediction.reward_mean.float().mean(dim=0)
        nothing = torch.zeros_like(reward)
        measure = self.exploration.measure(prediction, draws, t) if self.use_exploration else nothing
        pragmatic = -self.reward_scale * reward if self.use_reward else nothing
        return _terms(pragmatic, -self.expl_scale * measure, reward, measure)


@typed
@dataclass(frozen=True, kw_only=True)
class GouldForm:
    """KL[N(predicted reward) ‖ N(preferred reward, 0.5)] less an epistemic term, mean over members (Gould 2023).

    Published: the preferred reward is 1.5·(best reward seen), and the epistemic term is the entropy of each member's
    predicted change, unscaled. Two of its properties are mended unless asked for by name: `preferred_reward` and
    `epistemic`.
    """

    best_reward: float
    """Best reward seen so far."""

    preferred_reward: PreferredReward = "above_best"
    """`above_best`: best + 0.5·|best|, equal to the published 1.5·best where best is 0 or more and above the best where
    it is negative; a predicted reward beyond it costs nothing. `published`: 1.5·best, below the best where that is
    negative, and rewards beyond it cost as much as rewards short of it."""

    epistemic: GouldEpistemic = "measure"
    """`measure`: expl_scale × the measure of `exploration`, which only counts what data can teach. `entropy`: the
    published entropy, which rewards noise too."""

    exploration: Exploration = Exploration()  # noqa: RUF009 (frozen)
    use_reward: bool = True
    use_exploration: bool = True
    expl_scale: float = 0.1
    reward_scale: float = 1.0

    def __post_init__(self) -> None:
        if not isfinite(self.best_reward):
            raise HadrlError(
                "planner.form must be another than gould for an agent that has met no reward to prefer, "
                f"got a best_reward of {self.best_reward}"
            )

    @property
    def target(self) -> float:
        """The preferred reward."""
        if self.preferred_reward == "published":
            return PREFERENCE_FACTOR * self.best_reward
        return self.best_reward + (PREFERENCE_FACTOR - 1) * abs(self.best_reward)

    def step(self, prediction: Prediction, draws: Draws, t: int) -> FreeEnergy:
        """Terms of the step t of each row."""
        reward = prediction.reward_mean.float().mean(dim=0)
        nothing = torch.zeros_like(reward)
        pragmatic = self.reward_scale * self._divergence(prediction) if self.use_reward else nothing
        if not self.use_exploration:
            return _terms(pragmatic, nothing, reward, nothing)
        if self.epistemic == "entropy":
            entropy = gaussian_entropy(prediction.log_var).mean(dim=0)
            return _terms(pragmatic, -entropy, reward, entropy)
        measure = self.exploration.measure(prediction, draws, t)
        return _terms(pragmatic, -self.expl_scale * measure, reward, measure)

    def _divergence(self, prediction: Prediction) -> Float[Tensor, " rows"]:
        """½ (σ²/α² + Δ²/α² − 1 − ln(σ²/α²)), mean over members."""
        log_ratio = prediction.reward_log_var.float() - torch.tensor(PREFERENCE_VARIANCE).log()
        short = self.target - prediction.reward_mean.float()
        if self.preferred_reward == "above_best":
            short = short.clamp(min=0)
        divergence = 0.5 * (log_ratio.exp() + short.square() / PREFERENCE_VARIANCE - 1 - log_ratio)
        return divergence.mean(dim=0)


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
        return _terms(pragmatic, -self.expl_scale * measure, reward, measure)

    def surprise(self, prediction: Prediction) -> Float[Tensor, " rows"]:
        """Expected −ln p of the latencies, summed over users, mean over members; E[latency] = exp(mean + ½ σ²)."""
        latency = (prediction.mean.float() + 0.5 * prediction.log_var.float().exp()).exp()
        num_users = latency.shape[-1]
        return latency.sum(dim=-1).mean(dim=0) / self.latency_scale_s + num_users * log(self.latency_scale_s)


def expected_free_energy(
    predictions: Iterable[Prediction], form: FreeEnergyForm | None = None, draws: Draws = NO_DRAWS
) -> FreeEnergy:
    """Expected free energy of each row: the terms of a form, summed over the steps of the horizon.

    Args:
        predictions: one per step, in the order of the steps, as from `rollout`.
        form: how a step is scored; None: `TschantzForm()`, the published one with its published settings.
        draws: random numbers, for the strategies that need any.

    Returns:
        The terms of each row. Rows whose predictions or terms are not finite get the total +inf, the worst there is.

    Raises:
        ValueError: no prediction, or one of other shapes (a reward [members, rows, 1] would broadcast to wrong sizes).
    """
    form = TschantzForm() if form is None else form
    terms: FreeEnergy | None = None
    finite: Tensor | None = None
    for t, prediction in enumerate(predictions):
        _require_shapes(prediction)
        step = form.step(prediction, draws, t)
        terms = step if terms is None else FreeEnergy(*(a + b for a, b in zip(terms, step)))
        finite = _finite(prediction) if finite is None else finite & _finite(prediction)
    if terms is None or finite is None:
        raise ValueError("predictions must hold at least 1 step, got 0")
    total = terms.total.masked_fill(~(finite & terms.total.isfinite()), torch.inf)
    return terms._replace(total=total)


def _terms(pragmatic: Tensor, epistemic: Tensor, reward: Tensor, measure: Tensor) -> FreeEnergy:
    return FreeEnergy(pragmatic + epistemic, pragmatic, epistemic, reward, measure)


def _require_shapes(prediction: Prediction) -> None:
    shapes = [list(field.shape) for field in prediction]
    if len(shapes[0]) != 3 or shapes[1] != shapes[0] or shapes[2] != shapes[0][:2] or shapes[3] != shapes[2]:
        raise ValueError(
            "prediction must have shapes [members, rows, dims] twice and [members, rows] twice, got "
            + ", ".join(map(str, shapes))
        )


def _finite(prediction: Prediction) -> Tensor:
    """Rows whose whole prediction is finite: sums keep NaN and infinity."""
    each = prediction.mean.float().sum(dim=2) + prediction.log_var.float().sum(dim=2)
    each = each + prediction.reward_mean.float() + prediction.reward_log_var.float()
    return each.sum(dim=0).isfinite()
