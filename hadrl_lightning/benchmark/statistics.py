"""Bootstrap confidence intervals over seeds and test episodes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and its percentile interval; `low` and `high` are NaN where there is nothing to resample."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: ArrayLike, reference: ArrayLike | None = None, level: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """Percentile bootstrap of the mean of `values`, or of its ratio to the mean of `reference`.

    Seeds and episodes are resampled independently of each other (both are random factors, and all seeds and policies
    meet the same episodes); value and reference keep the same draws, as they are paired. An axis of length 1 adds
    nothing to the interval. The draws are the same in every call.

    Args:
        values: [seeds, episodes], or [seeds] for a quantity that has no episodes.
        reference: of the same shape, or with 1 seed for all.
        level: of confidence, in (0, 1).
        resamples: number of resamples.

    Raises:
        ValueError: no values, or other shapes.
    """
    table = _table(values)
    below = None if reference is None else _table(reference)
    if table.size == 0:
        raise ValueError(f"values must not be empty, got shape {list(table.shape)}")
    if below is not None and (below.shape[1] != table.shape[1] or below.shape[0] not in (1, table.shape[0])):
        raise ValueError(
            f"reference must have the shape of values {list(table.shape)}, got {list(below.shape)}"
        )
    if below is not None:
        below = np.broadcast_to(below, table.shape)
    mean = float(table.mean() if below is None else table.mean() / below.mean())
    if table.size == 1:
        return Interval(mean, float("nan"), float("nan"))
    generator = np.random.default_rng(0)
    by_seed, by_episode = (_weights(size, resamples, generator) for size in table.shape)
    drawn = np.einsum("rs,se,re->r", by_seed, table, by_episode, optimize=True)
    if below is not None:
        drawn = drawn / np.einsum("rs,se,re->r", by_seed, below, by_episode, optimize=True)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def _table(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array


def _weights(size: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of `size` entries is drawn, as a share, [resamples, size]."""
    return generator.multinomial(size, np.full(size, 1 / size), size=resamples) / size
