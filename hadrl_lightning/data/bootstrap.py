"""A bootstrap without resampling: how much each member of an ensemble makes of each transition."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""Of the hash SplitMix64 (Steele, Lea and Flood 2014)."""


def bootstrap_weights(
    number: Int64[Tensor, " sample"], num_members: int, seed: int
) -> Float[Tensor, "member sample"]:
    """Weights of the Bayesian bootstrap (Rubin 1981): independent, exponential with mean 1.

    A weight is a function of seed, member and the transition's number alone: it stays the same in every pass, after a
    resume, and wherever the member is held. So each member learns from its own reweighting of all that was seen, and
    where data are few the members differ.

    Args:
        number: of each transition, as of `ReplayBuffer.numbers`.
        num_members: members of the whole ensemble. A single one has nothing to differ from: its weights are 1.
        seed: any whole number from 0 to 2⁶⁴ − 1.
    """
    if num_members == 1:
        return torch.ones(1, len(number), device=number.device)
    with np.errstate(over="ignore"):  # arithmetic is modulo 2⁶⁴
        key = _scrambled(np.uint64(seed) + np.arange(1, num_members + 1, dtype=np.uint64) * _STEP)
        drawn = _scrambled(key[:, None] + (number.cpu().numpy().astype(np.uint64) + np.uint64(1)) * _STEP)
    uniform = ((drawn >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # within (0, 1)
    return torch.from_numpy(-np.log(uniform)).float().to(number.device)


def _scrambled(value: np.ndarray) -> np.ndarray:
    for shift, factor in zip((30, 27), _FACTORS):
        value = (value ^ (value >> np.uint64(shift))) * factor
    return value ^ (value >> np.uint64(31))
