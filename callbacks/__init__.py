"""Lightning callbacks: `CEMPlanning` acts, `EpisodeEvaluation` judges, the rest serves them."""

from lightning.pytorch import Callback, Trainer

from hadrl_lightning.agents import HADRL
from hadrl_lightning.callbacks.evaluation import EpisodeEvaluation
from hadrl_lightning.callbacks.finite import FiniteNumbers
from hadrl_lightning.callbacks.planning import CEMPlanning
from hadrl_lightning.callbacks.progress import TrainingProgress
from hadrl_lightning.callbacks.resuming import EpochMetrics, RandomState

__all__ = [
    "CEMPlanning",
    "EpisodeEvaluation",
    "EpochMetrics",
    "FiniteNumbers",
    "RandomState",
    "TrainingProgress",
    "default_callbacks",
    "missing_callbacks",
]


def missing_callbacks(trainer: Trainer, module: HADRL) -> list[Callback]:
    """What a Trainer without our callbacks lacks for what it is asked to do: to collect and to judge, as on the command
    line, each with its default settings.
    """
    judging: list[type[Callback]] = [EpisodeEvaluation]
    training: list[type[Callback]] = [CEMPlanning, *judging, RandomState, EpochMetrics, FiniteNumbers]
    given: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    wanted = training if trainer.state.fn == "fit" else judging
    missing = [cls for cls in wanted if not any(isinstance(callback, cls) for callback in given)]
    return [CEMPlanning.for_agent(module) if cls is CEMPlanning else cls() for cls in missing]


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
