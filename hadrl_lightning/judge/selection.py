"""The one rule by which a training keeps its best weights, whoever trains and whoever asks."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hadrl_lightning.scenario import Scenario


def improves(value: float, best: float | None, mode: str = "min") -> bool:
    """Whether a validation is better than the best one so far (`min` or `max`); what is not a number never is."""
    if math.isnan(value):
        return False
    return best is None or (value < best if mode == "min" else value > best)


def compared_by(scenario: Scenario) -> str:
    """The figure by which validations of a scenario are compared.

    A sum of latencies in s is ruled by the slowest networks: where networks differ each counts alike by its logarithm.
    """
    return "log_latency" if scenario.ranges else "latency"


class Validation(NamedTuple):
    """What a validation found, and when."""

    slots: float
    """Slots trained on by then, over all networks."""
    latency: float
    """Summed over users, mean over slots, s."""
    hit_ratio: float
    on_time: float
    epoch: int = 0
    """Epochs trained by then; 0 for a learner that has none."""
    caching_learnt: bool = True
    """Whether the caching agent had learnt anything by then: it waits for the fast level (`caching_warmup_epochs`)."""
    log_latency: float | None = None
    """Mean over networks of the logarithm of their latency, where networks differ; else None."""

    @property
    def compared(self) -> float:
        """The number that says which validation is best, the least: see `compared_by`."""
        return self.latency if self.log_latency is None else self.log_latency

    @property
    def told(self) -> float:
        """The same as a latency in s: where networks differ, the geometric mean over them."""
        return self.latency if self.log_latency is None else math.exp(self.log_latency)


class BestAndLast(NamedTuple):
    """The validation whose weights are kept, and the last one."""

    best: Validation
    last: Validation

    @property
    def rise(self) -> float:
        """How much longer the last one's latency is, as a share: what a training loses that does not converge."""
        return self.last.told / self.best.told - 1


def best_and_last(validations: Sequence[Validation]) -> BestAndLast | None:
    """By the rule of `improves`; None where nothing was validated."""
    best: Validation | None = None
    for one in validations:
        if improves(one.compared, best.compared if best else None):
            best = one
    return BestAndLast(best, validations[-1]) if best is not None else None


class KeepBest:
    """Keeps a copy of what the best validation was made with."""

    def __init__(self) -> None:
        self.kept: Any = None
        self._best: float | None = None

    def __call__(self, validation: Validation, snapshot: Callable[[], Any]) -> None:
        """Copy `snapshot()` if `validation` is the best so far."""
        if improves(validation.compared, self._best):
            self._best = validation.compared
            self.kept = copy.deepcopy(snapshot())
