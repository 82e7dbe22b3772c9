"""The reward of the fast level that follows from predicted latencies."""

from math import log, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.play import REWARD_NUMERATOR

_NODES = (0.0, *(sign * sqrt(5 + inner * sqrt(10)) for inner in (-1, 1) for sign in (-1, 1)))
_WEIGHTS = (8 / 15, *((7 - inner * 2 * sqrt(10)) / 60 for inner in (-1, 1) for _ in (-1, 1)))
"""Gauss-Hermite quadrature of five points: the mean of f(z) over a standard normal z is about Σ weight·f(node)."""
_SMALLEST = 1e-12
"""A part of the sum that is nothing counts as so much of the largest latency, so that its logarithm is finite."""


def derived_reward(
    mean: Float[Tensor, "member rows user"], log_var: Float[Tensor, "member rows user"]
) -> tuple[Float[Tensor, "member rows"], Float[Tensor, "member rows"]]:
    """Mean and log-variance of 10⁴ / Σ latency from independent log-normal latencies.

    The sum is the latency that varies most, as it is, plus the rest, taken as a log-normal with the rest's mean and
    variance (Fenton and Wilkinson); the reward is averaged over both by quadrature. Up to a log-variance of 1 a latency
    the mean is within 3 % of what sampling gives and the standard deviation within 20 %, for any number of users; for
    one and two users both are exact but for the quadrature.

    Args:
        mean: means of the log latencies, ln s.
        log_var: their log-variances.
    """
    var = log_var.exp()
    log_latency = mean + 0.5 * var  # of the expected latency
    scale = log_latency.amax(dim=-1, keepdim=True)
    latency = (log_latency - scale).exp()
    spread = latency.square() * var.expm1()
    widest = spread.argmax(dim=-1, keepdim=True)
    rest = latency.scatter(-1, widest, 0.0).sum(dim=-1).clamp(min=_SMALLEST)
    rest_var = (spread.scatter(-1, widest, 0.0).sum(dim=-1) / rest.square()).log1p()

    node = torch.tensor(_NODES, dtype=mean.dtype, device=mean.device)
    weight = torch.tensor(_WEIGHTS, dtype=mean.dtype, device=mean.device)
    one = ((mean - scale).gather(-1, widest) + var.gather(-1, widest).sqrt() * node).exp()
    other = (rest.log() - 0.5 * rest_var)[..., None] + rest_var.sqrt()[..., None] * node
    reward = 1 / (one[..., :, None] + other.exp()[..., None, :])
    both = weight[:, None] * weight
    expected = (both * reward).sum(dim=(-2, -1))
    variance = (both * (reward - expected[..., None, None]).square()).sum(dim=(-2, -1))
    to_units = log(REWARD_NUMERATOR) - scale[..., 0]
    return expected * to_units.exp(), variance.clamp(min=torch.finfo(mean.dtype).tiny).log() + 2 * to_units
