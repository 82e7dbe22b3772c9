"""Planning by active inference: expected free energy, information gain, cross-entropy method."""

from hadrl_lightning.planning.cem import CEMPlanner, PlanFunction, plan_alone
from hadrl_lightning.planning.free_energy import (
    FreeEnergy,
    FreeEnergyForm,
    GouldForm,
    OutcomeForm,
    TschantzForm,
    expected_free_energy,
)
from hadrl_lightning.planning.information import information_bounds, information_gain
from hadrl_lightning.planning.measures import (
    MEASURES,
    Draws,
    Exploration,
    Measure,
    Moment,
    needs_uniform,
)
from hadrl_lightning.planning.model import PlanningModel, Prediction, rollout
from hadrl_lightning.planning.proposal import (
    CategoricalProposal,
    GaussianProposal,
    Plan,
    plan_from_state,
    plan_state,
)
from hadrl_lightning.planning.refine import RefinementSettings, refine
from hadrl_lightning.planning.settings import PlannerSettings

__all__ = [
    "MEASURES",
    "CEMPlanner",
    "CategoricalProposal",
    "Draws",
    "Exploration",
    "FreeEnergy",
    "FreeEnergyForm",
    "GaussianProposal",
    "GouldForm",
    "Measure",
    "Moment",
    "OutcomeForm",
    "Plan",
    "PlanFunction",
    "PlannerSettings",
    "PlanningModel",
    "Prediction",
    "RefinementSettings",
    "TschantzForm",
    "expected_free_energy",
    "information_bounds",
    "information_gain",
    "needs_uniform",
    "plan_alone",
    "plan_from_state",
    "plan_state",
    "refine",
    "rollout",
]
