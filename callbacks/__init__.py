"""Lightning callbacks: `CEMPlanning` acts, `EpisodeEvaluation` judges, the rest serves them."""

from lightning.pytorch import Callback

from .epoch_metrics import EpochMetrics
from .evaluation import EpisodeEvaluation
from .finite import FiniteNumbers
from .planning import CEMPlanning
from .progress import TrainingProgress
from .random_state import RandomState

__all__ = [
    "CEMPlanning",
    "EpisodeEvaluation",
    "EpochMetrics",
    "FiniteNumbers",
    "RandomState",
    "TrainingProgress",
    "default_callbacks",
]


def default_callbacks() -> dict[str, type[Callback]]:
    """The callbacks of every run, by the key of their settings on the command line."""
    return {
        "planning": CEMPlanning,
        "evaluation": EpisodeEvaluation,
        "progress": TrainingProgress,
        "random_state": RandomState,
        "epoch_metrics": EpochMetrics,
        "nonfinite": FiniteNumbers,
    }
