"""Settings of the planner."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from hadrl_lightning.planning.free_energy import (
    Form,
    FreeEnergyForm,
    GouldEpistemic,
    GouldForm,
    OutcomeForm,
    PreferredReward,
    TschantzForm,
)
from hadrl_lightning.planning.information import NEIGHBOUR, Estimator
from hadrl_lightning.planning.measures import MEASURES, Exploration
from hadrl_lightning.planning.refine import RefinementSettings
from hadrl_lightning.typed import typed

Search = Literal["sums", "samples"]
ProposalKind = Literal["gaussian", "categorical"]

_OF_FORM = {"gould": ("preferred_reward", "gould_epistemic"), "outcome": ("latency_scale_s",)}
"""Settings that one form alone has."""


@typed
@dataclass(frozen=True, kw_only=True)
class PlannerSettings:
    """Settings of the planner; the defaults are those of the agent's decisions, for structured models.

    Most names are the published ones; `published.yaml` holds the published values.
    """

    search: Search = "sums"
    """How the plan of a slot is found. `sums`: from what the model has learnt of sharing, without drawing candidates,
    where that is possible: with a model that knows sharing (`SetWorldModel` with the encoder `shared_resources`), for
    the form `outcome` with `use_reward`, a horizon of 1, and plans that are refined and explore nothing, or explore by
    the strategy `posterior`; elsewhere, and with `samples` everywhere, by the cross-entropy method and the refinement
    of what it found. What is set for these does not matter with `sums`, but for `planning_members` (those that choose
    the targets), `start_margin`, `latency_scale_s`, `reward_scale` and `max_rows`."""

    plan_horizon: int = 1
    """Slots planned ahead; at least 1. Requests of the next slot don't depend on this one (published: 20)."""

    n_candidates: int = 64
    """Candidate sequences per network and iteration; at least 1 (published: 700)."""

    top_candidates: int = 8
    """Best candidates that the proposal is refit to; at least 1, at most `n_candidates` (published: 70)."""

    optimisation_iters: int = 2
    """Rounds of drawing, scoring and refitting; at least 1 (published: 7)."""

    form: Form = "outcome"
    """Form of the expected free energy: `tschantz` (published), `gould`, or `outcome`, which is over the
    users' latencies and needs a model that predicts them (`SetWorldModel`)."""

    strategy: str = "information"
    """Exploration measure: `information`, `variance`, `disagreement`, `random` (not where plans are refined), `none`,
    or one of your own as `my_module.my_measure`. with `posterior` each plan from sums follows one member,
    drawn anew, as if it were right, and so tries what members disagree on (Thompson sampling), whatever `expl_scale`;
    a plan that is not from sums is measured by `information`."""

    information_estimator: Estimator = "bounded"
    """Strategy `information` only. Estimate of the information gain: `bounded` (within 0 and ln members) or
    `nearest_neighbour` (published)."""

    use_reward: bool = True
    """Whether the reward counts."""

    use_exploration: bool = False
    """Whether the exploration measure counts (published: it does, also in decisions that are judged)."""

    expl_scale: float = 0.1
    """Weight of the exploration measure; applied once (the published code applies it twice); 0 or more."""

    reward_scale: float = 1.0
    """Weight of the reward; 0 or more."""

    preferred_reward: PreferredReward = "above_best"
    """Form `gould` only. `above_best`: best reward + half its size, rewards beyond it cost nothing. `published`:
    1.5·best reward, whatever its sign, and rewards beyond it cost too."""

    gould_epistemic: GouldEpistemic = "measure"
    """Form `gould` only. `measure`: expl_scale × exploration measure. `entropy`: the published entropy of the predicted
    change, unscaled, which rewards noise too."""

    latency_scale_s: float = 1.0
    """Form `outcome` only: mean of the preferred latencies in seconds, what a second is worth against a nat; above
    0."""

    proposal: ProposalKind = "categorical"
    """What candidates are drawn from. `gaussian`: normal distributions for all of an action (published).
    `categorical`: a categorical over servers for each user's target, normal distributions for the shares."""

    informed_candidates: int = 64
    """Proposal `categorical` with form `outcome` only: random candidates from whose predicted latencies each user's
    first preference among servers is read; 0: all servers are equally likely at first."""

    share_steps: int = 10
    """Gradient steps on the continuous part of the plan that was found, through all members; again after sweeps over
    targets; for a horizon of 1. 0: none."""

    share_step_size: float = 0.2
    """Step size of that descent (Adam's) at first; it falls to a fifth over the steps; above 0."""

    target_sweeps: int = 2
    """Sweeps in which every user's every target is tried, and the best changes are made together as far as that helps;
    for a horizon of 1. 0: none."""

    joint_changes: int = 8
    """Users at most whose target changes in a sweep; at least 1."""

    move_margin: float = 0.002
    """What each change of a target in a sweep must save, in parts of the free energy; 0 or more. Above 0 users don't
    move for nothing, and about the same view leads to about the same decision."""

    start_margin: float = 0.01
    """Sweeps start from the usual decision too (each user at a server of its own unless it likes another better); what
    the planner found is taken where it ends better by this, in parts of the free energy; 0 or more."""

    initial_std: float = 1.0
    """Standard deviation of the first round; above 0."""

    min_std: float = 0.0
    """What no standard deviation falls below in later rounds; 0 or more (published: 0)."""

    clip_actions: bool = True
    """Whether candidates are clipped to [-1, 1] before they are scored."""

    warm_start: bool = False
    """Whether a plan starts from that of the slot before, shifted by one step, within an episode (published: no); for
    horizons of 2 and more, as nothing is left of a plan of one slot."""

    planning_members: int | None = 2
    """Members drawn for each iteration, the same for all candidates so that the ranking is fair; none: all
    (published)."""

    max_rows: int = 8192
    """Rows (networks x candidates x members) the model sees at once, with `sums` pairs of a user and a server that it
    describes at once: bounds the memory of a plan and changes no result beyond rounding; at least the members used, all
    where plans are refined. Some thousands suit the caches of a CPU, a GPU likes more. With `sums` some 100 bytes for
    each pair of one network are held besides."""

    def __post_init__(self) -> None:
        for name in ("plan_horizon", "n_candidates", "top_candidates", "optimisation_iters", "max_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.top_candidates > self.n_candidates:
            raise ValueError(
                f"top_candidates must be at most n_candidates ({self.n_candidates}), got {self.top_candidates}"
            )
        for name in ("expl_scale", "reward_scale", "min_std"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if not 0 < self.initial_std < inf:
            raise ValueError(f"initial_std must be above 0 and finite, got {self.initial_std}")
        if self.planning_members is not None and not 1 <= self.planning_members <= self.max_rows:
            raise ValueError(
                f"planning_members must be at least 1 and at most max_rows ({self.max_rows}), "
                f"got {self.planning_members}"
            )
        if not 0 < self.latency_scale_s < inf:
            raise ValueError(f"latency_scale_s must be above 0 and finite, got {self.latency_scale_s}")
        if self.informed_candidates < 0:
            raise ValueError(f"informed_candidates must be at least 0, got {self.informed_candidates}")
        if self.informed_candidates and (self.form, self.proposal) != ("outcome", "categorical"):
            raise ValueError(
                f"informed_candidates must be 0 unless form is outcome and proposal categorical, "
                f"got {self.informed_candidates}"
            )
        MEASURES.find(self.strategy, "strategy")
        self._refuse_what_has_no_effect()
        if self.refines and self.plan_horizon != 1:
            raise ValueError(f"plan_horizon must be 1 where plans are refined, got {self.plan_horizon}")
        if self.refines and self.needs_uniform:
            raise ValueError(
                f"strategy must not be {self.strategy} where plans are refined: it has no slope, got {self.strategy}"
            )
        if self.warm_start and self.plan_horizon == 1:
            raise ValueError(
                "warm_start must be false where plan_horizon is 1: nothing is left to go on from"
            )

    def _refuse_what_has_no_effect(self) -> None:
        """Settings of another form must have their defaults."""
        of_others = {f"unless form is {form}": names for form, names in _OF_FORM.items() if form != self.form}
        if self.form == "gould" and self.gould_epistemic == "entropy":
            of_others["where gould_epistemic is entropy"] = (
                "strategy",
                "information_estimator",
                "expl_scale",
            )
        for where, names in of_others.items():
            for name in names:
                value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
                if value != default:
                    raise ValueError(f"{name} must be {default} {where}, got {value}")

    def members_used(self, num_members: int) -> int:
        """Members that score an iteration's candidates, of a model that has `num_members`.

        Raises:
            ValueError: it has fewer than `planning_members`, or `max_rows` is below what is needed at once.
        """
        used = num_members if self.planning_members is None else self.planning_members
        if used > num_members:
            raise ValueError(
                f"planning_members must be at most the members of the model ({num_members}), got {used}"
            )
        if self.use_exploration and self.information_estimator == "nearest_neighbour":
            if self.follows_draws:
                raise ValueError(
                    "information_estimator must be bounded with the strategy posterior, which follows one member, "
                    "got nearest_neighbour"
                )
            if self.strategy == "information" and used <= NEIGHBOUR:
                raise ValueError(
                    f"planning_members must be at least {NEIGHBOUR + 1} for the information_estimator "
                    f"nearest_neighbour, got {used}"
                )
        if self.refines and self.max_rows < num_members:
            raise ValueError(
                f"max_rows must be at least the members of the model ({num_members}) where plans are refined, "
                f"got {self.max_rows}"
            )
        if self.max_rows < used:
            raise ValueError(f"max_rows must be at least the members used ({used}), got {self.max_rows}")
        return used

    @property
    def refines(self) -> bool:
        """Whether anything happens after the cross-entropy method."""
        return self.share_steps > 0 or self.target_sweeps > 0

    @property
    def refinement(self) -> RefinementSettings:
        """What happens after the cross-entropy method."""
        return RefinementSettings(
            share_steps=self.share_steps,
            share_step_size=self.share_step_size,
            target_sweeps=self.target_sweeps,
            joint_changes=self.joint_changes,
            move_margin=self.move_margin,
            start_margin=self.start_margin,
        )

    @property
    def by_sums(self) -> bool:
        """Whether plans follow from what a model knows of sharing, if it does."""
        weighs = self.use_exploration and self.expl_scale > 0 and not self.follows_draws
        possible = self.form == "outcome" and self.plan_horizon == 1 and self.use_reward and not weighs
        return self.search == "sums" and possible and (self.refines or self.follows_draws)

    @property
    def follows_draws(self) -> bool:
        """Whether plans explore by following one member that is drawn."""
        return self.use_exploration and self.strategy == "posterior"

    @property
    def exploration(self) -> Exploration:
        """The exploration measure as set."""
        return Exploration(strategy=self.strategy, estimator=self.information_estimator)

    @property
    def needs_uniform(self) -> bool:
        """Whether plans are scored by a measure that needs uniform numbers."""
        return self.use_exploration and self.exploration.needs_uniform

    def make_form(self, best_reward: float | None = None) -> FreeEnergyForm:
        """The free energy as set.

        Args:
            best_reward: best reward seen so far; the form `gould` needs it.

        Raises:
            ValueError: the form `gould` without a finite best reward.
        """
        if self.form == "tschantz":
            return TschantzForm(
                exploration=self.exploration,
                use_reward=self.use_reward,
                use_exploration=self.use_exploration,
                expl_scale=self.expl_scale,
                reward_scale=self.reward_scale,
            )
        if self.form == "outcome":
            return OutcomeForm(
                latency_scale_s=self.latency_scale_s,
                expl_scale=self.expl_scale if self.use_exploration else 0.0,
                exploration=self.exploration,
                use_reward=self.use_reward,
                reward_scale=self.reward_scale,
            )
        if best_reward is None:
            raise ValueError("best_reward must be given for the form gould, got None")
        return GouldForm(
            best_reward=best_reward,
            preferred_reward=self.preferred_reward,
            epistemic=self.gould_epistemic,
            exploration=self.exploration,
            use_reward=self.use_reward,
            use_exploration=self.use_exploration,
            expl_scale=self.expl_scale,
            reward_scale=self.reward_scale,
        )
