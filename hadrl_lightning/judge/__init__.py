"""Judging: scores over episodes, yardsticks, intervals, and the rule that keeps the best weights."""

from hadrl_lightning.judge.intervals import Interval, interval, student
from hadrl_lightning.judge.references import (
    LEAST_KNOWN,
    bounds,
    least_known_policies,
    optimal_hit_ratio,
    optimal_hit_ratio_if_known,
    own_best_known,
    replayed,
)
from hadrl_lightning.judge.scores import (
    BY_EPISODE,
    BestAndLast,
    KeepBest,
    Scoreboard,
    Validation,
    best_and_last,
    by_unit,
    compared_by,
    improves,
    possible,
)
from hadrl_lightning.judge.tables import (
    HEADINGS,
    NONE,
    after_epochs,
    cell,
    convergence_text,
    figures_table,
    validation_text,
)

__all__ = [
    "BY_EPISODE",
    "HEADINGS",
    "LEAST_KNOWN",
    "NONE",
    "BestAndLast",
    "Interval",
    "KeepBest",
    "Scoreboard",
    "Validation",
    "after_epochs",
    "best_and_last",
    "bounds",
    "by_unit",
    "cell",
    "compared_by",
    "convergence_text",
    "figures_table",
    "improves",
    "interval",
    "least_known_policies",
    "optimal_hit_ratio",
    "optimal_hit_ratio_if_known",
    "own_best_known",
    "possible",
    "replayed",
    "student",
    "validation_text",
]
