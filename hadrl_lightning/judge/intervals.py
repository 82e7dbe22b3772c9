"""Confidence intervals of means over trainings (seeds) and test episodes, and of ratios between policies."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
"""Of confidence, where nothing else is said."""
_ANGLES = 4000


class Interval(NamedTuple):
    """A mean and what it lies between; `low` and `high` are NaN where one value says nothing of its spread."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half of its width; NaN where there is none."""
        return (self.high - self.low) / 2

    @property
    def cut(self) -> bool:
        """Whether the mean is clearly not in its middle, as what lies beyond an end is not possible."""
        return abs((self.low + self.high) / 2 - self.mean) > 0.01 * self.half + 1e-6 * abs(self.mean)

    def within(self, least: float, most: float) -> "Interval":
        """The interval without what is below `least` or above `most`."""
        return Interval(self.mean, max(self.low, least), min(self.high, most))


def interval(values: ArrayLike, reference: ArrayLike | None = None, level: float = LEVEL) -> Interval:
    """Student's interval of the mean of `values`, or of the mean over seeds of its ratio to `reference`.

    Seeds and episodes are both drawn at random, and all seeds meet the same episodes. Half of the width is the root of
    the sum of two squares: of Student's half width over the seeds' means, and of that over the episodes' means. With
    one seed the episodes alone are left, which do not say how far another training would end from this one. Episodes
    that have no such value with any seed, which then is not a number, are left out.

    Args:
        values: [seeds, episodes], or [seeds] for a quantity that has no episodes.
        reference: of the same shape, or with 1 seed for all; met on the same episodes.
        level: of confidence, in (0, 1).

    Raises:
        ValueError: no values, or other shapes.
    """
    table = _table(values)
    if table.size == 0:
        raise ValueError(f"values must not be empty, got shape {list(table.shape)}")
    below = table if reference is None else _table(reference)
    if below.shape[1] != table.shape[1] or below.shape[0] not in (1, table.shape[0]):
        raise ValueError(
            f"reference must have the shape of values {list(table.shape)}, got {list(below.shape)}"
        )
    there = ~np.isnan(table).all(axis=0)
    if not there.any():
        return Interval(math.nan, math.nan, math.nan)
    table = table[:, there]
    if reference is not None:
        table = _ratios(table, below[:, there])
    mean, squares = float(table.mean()), 0.0
    if table.size == 1:
        return Interval(mean, math.nan, math.nan)
    for axis in (0, 1):
        size = table.shape[axis]
        if size > 1:
            variance = float(table.mean(axis=1 - axis).var(ddof=1)) / size
            squares += t_quantile(0.5 + level / 2, size - 1) ** 2 * variance
    half = math.sqrt(squares)
    return Interval(mean, mean - half, mean + half)


def student(mean: float, error: float, degrees: int, level: float = LEVEL) -> Interval:
    """Student's interval of an estimate with its standard error, for degrees of freedom from 1 on."""
    half = t_quantile(0.5 + level / 2, degrees) * error
    return Interval(mean, mean - half, mean + half)


@lru_cache(maxsize=4096)
def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's distribution, for a probability of at least 0.5 and degrees of freedom from 1 on.

    A variate of it is sqrt(degrees) tan(angle), where the density of the angle is proportional to cos^(degrees - 1).
    """
    widest = min(math.pi / 2, 12 / math.sqrt(degrees))
    angles = np.linspace(0, widest, _ANGLES)
    density = np.cos(angles) ** (degrees - 1)
    share = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp(2 * probability - 1, share / share[-1], angles)
    return math.sqrt(degrees) * math.tan(float(angle))


def _ratios(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Contributions of seeds and episodes to the ratio: their mean over episodes is each seed's ratio of means.

    A seed's ratio r is one of means; what an episode adds to it is, to first order, (value - r reference) / mean
    reference, in which all that both share of its luck drops out.
    """
    means = reference.mean(axis=1, keepdims=True)
    ratio = values.mean(axis=1, keepdims=True) / means
    return ratio + (values - ratio * reference) / means


def _table(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array
