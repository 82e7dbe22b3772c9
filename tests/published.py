"""The published planner and collection, made smaller: for tests of flat models and of the arithmetic of plans."""

from typing import Any

from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.config_files import load_config
from hadrl_lightning.planning import PlannerSettings


def published_planner(**changes: Any) -> PlannerSettings:
    """The planner of `published.yaml` with other numbers; the information gain by its bounds."""
    settings = load_config("published.yaml")["model"]["planner"]
    return PlannerSettings(**{**settings, "information_estimator": "bounded", **changes})


def published_collection(**changes: Any) -> CEMPlanning:
    """The collection of `published.yaml` with other numbers."""
    return CEMPlanning(**{**load_config("published.yaml")["planning"], **changes})
