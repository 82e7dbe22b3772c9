"""How much the next observation would tell about which member of the ensemble is right.

The members' predictions are the components of a mixture with equal weights. Information gain is the mutual information
of component and outcome, entropy of the mixture − mean entropy of the components: it lies between 0, where the members
agree, and ln(members), where their predictions don't overlap.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Estimator = Literal["bounded", "nearest_neighbour"]
ESTIMATORS = get_args(Estimator)

NEIGHBOUR = 2
"""Neighbour whose distance the published estimator uses; it needs one member more."""
MIN_DISTANCE = 1e-15
MIN_LOG_VAR = math.log(1e-8)
"""Floors of the published estimator."""


class InformationBounds(NamedTuple):
    """Guaranteed bounds of the information gain of each row, nats."""

    lower: Float[Tensor, " rows"]
    upper: Float[Tensor, " rows"]


def information_gain(
    mean: Float[Tensor, "..."],
    log_var: Float[Tensor, "..."],
    estimator: Estimator = "bounded",
    generator: torch.Generator | None = None,
) -> Float[Tensor, " rows"]:
    """Information gain of each row about which member is right, nats.

    `bounded`: the middle of the pairwise bounds of `information_bounds`, clipped to [0, ln members]. It is exact at
    both ends, errs by at most half of the distance of the bounds between, and needs no samples.

    `nearest_neighbour` (published by Tschantz et al.): entropy of the mixture by Kozachenko and Leonenko's estimate
    from one sample of each member, less the members' mean entropy. With 20 samples in 100 dimensions it is far off
    and not confined to [0, ln members]; it is there to reproduce. The noise of the samples is the same for all rows,
    so that a row's value does not depend on the rows beside it. The logarithm of the unit ball's volume is used,
    which no number of dimensions makes underflow.

    Args:
        mean: means of the members, `[members, rows, dims]`.
        log_var: log-variances, the same shape.
        estimator: `bounded` or `nearest_neighbour`.
        generator: source of the samples of `nearest_neighbour`, which needs one.

    Raises:
        ValueError: wrong shapes, an unknown estimator, no generator or fewer than 3 members for `nearest_neighbour`.
    """
    if mean.ndim != 3 or mean.shape != log_var.shape:
        found = f"{list(mean.shape)} and {list(log_var.shape)}"
        raise ValueError(f"mean and log_var must both have shape [members, rows, dims], got {found}")
    mean, log_var = _at_least_float32(mean), _at_least_float32(log_var)
    if estimator == "bounded":
        bounds = information_bounds(mean, log_var)
        return ((bounds.lower + bounds.upper) / 2).clamp(0, math.log(len(mean)))
    if estimator != "nearest_neighbour":
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator}")
    if generator is None:
        raise ValueError("generator must be given for the estimator nearest_neighbour, got None")
    return _nearest_neighbour_gain(mean, log_var, generator)


def information_bounds(
    mean: Float[Tensor, "member rows dim"], log_var: Float[Tensor, "member rows dim"]
) -> InformationBounds:
    """Pairwise bounds of Kolchinsky and Tracey (2017, Entropy 19, 361): −mean_i ln mean_j exp(−D(i, j)).

    D is the Bhattacharyya distance (Chernoff's with α = ½) for the lower bound, KL divergence for the upper. Both are
    the same in whatever unit a dimension is measured: here in the members' mean standard deviation.
    """
    unit = log_var.mean(dim=0)
    log_var = log_var - unit
    mean = (mean - mean.mean(dim=0)) * (-0.5 * unit).exp()
    return InformationBounds(
        _pairwise_gain(_bhattacharyya(mean, log_var)), _pairwise_gain(_kullback_leibler(mean, log_var))
    )


def gaussian_entropy(log_var: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape"]:
    """Differential entropy of normal distributions with diagonal covariance, nats."""
    log_var = _at_least_float32(log_var)
    return 0.5 * (log_var + math.log(2 * math.pi * math.e)).sum(dim=-1)


def _pairwise_gain(distance: Float[Tensor, "member member rows"]) -> Float[Tensor, " rows"]:
    log_mean = torch.logsumexp(-distance, dim=1) - math.log(len(distance))
    return -log_mean.mean(dim=0)


def _bhattacharyya(
    mean: Float[Tensor, "member rows dim"], log_var: Float[Tensor, "member rows dim"]
) -> Float[Tensor, "member member rows"]:
    """Σ ¼ Δ²/(σ_i² + σ_j²) + ½ ln((σ_i² + σ_j²)/(2 σ_i σ_j)) over dimensions, one member against the rest at a time."""
    half_var, log_std = 0.5 * log_var.exp(), 0.5 * log_var.sum(dim=-1)

    def to_others(i: int) -> Tensor:
        both = half_var[i] + half_var[i + 1 :]
        apart = (mean[i] - mean[i + 1 :]).square().div_(both).sum(dim=-1)
        return 0.125 * apart + 0.5 * (_sum_of_logs(both) - log_std[i] - log_std[i + 1 :])

    return _of_pairs(mean, to_others).clamp(min=0)


def _sum_of_logs(value: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows"]:
    """Over the dimensions, of numbers about 1: those of four of their products, as logarithms take long."""
    for _ in range(2):
        half = value.shape[-1] // 2
        rest = value[..., 2 * half :]
        value = value[..., :half] * value[..., half : 2 * half]
        value = torch.cat((value, rest), dim=-1) if rest.shape[-1] else value
    return value.log().sum(dim=-1)


def _of_pairs(
    mean: Float[Tensor, "member rows dim"], to_others: Callable[[int], Tensor]
) -> Float[Tensor, "member member rows"]:
    """A distance between members, 0 from each to itself, from what is asked once for every pair: of i to i + 1, …"""
    distance = mean.new_zeros(len(mean), *mean.shape[:2])
    for i in range(len(mean) - 1):
        distance[i, i + 1 :] = distance[i + 1 :, i] = to_others(i)
    return distance


def _kullback_leibler(
    mean: Float[Tensor, "member rows dim"], log_var: Float[Tensor, "member rows dim"]
) -> Float[Tensor, "member member rows"]:
    """KL(i ‖ j) = ½ Σ [(σ_i² + Δ²)/σ_j² − 1 + ln σ_j² − ln σ_i²], as products over the dimensions."""
    var, square = log_var.exp(), mean.square()
    precision = 1 / var
    with torch.autocast(mean.device.type, enabled=False):
        product = _over_dims(var + square, precision) - 2 * _over_dims(mean, mean * precision)
    log_det = log_var.sum(dim=-1)
    by_second = (square * precision).sum(dim=-1) + log_det - mean.shape[-1]
    distance = 0.5 * (product + by_second - log_det[:, None])
    diagonal = torch.eye(len(mean), dtype=torch.bool, device=mean.device)[..., None]
    return distance.clamp(min=0).masked_fill(diagonal, 0)


def _over_dims(
    first: Float[Tensor, "member rows dim"], second: Float[Tensor, "member rows dim"]
) -> Float[Tensor, "member member rows"]:
    """Products of each member's numbers with each other's, summed over the dimensions."""
    return torch.bmm(first.transpose(0, 1), second.permute(1, 2, 0)).permute(1, 2, 0)


def _nearest_neighbour_gain(
    mean: Float[Tensor, "member rows dim"],
    log_var: Float[Tensor, "member rows dim"],
    generator: torch.Generator,
) -> Float[Tensor, " rows"]:
    num_members, _, num_dims = mean.shape
    if num_members <= NEIGHBOUR:
        raise ValueError(f"members must be at least {NEIGHBOUR + 1} for nearest_neighbour, got {num_members}")
    noise = torch.randn((num_members, 1, num_dims), generator=generator, device=generator.device).to(mean)
    sample = (0.5 * log_var).exp() * noise + mean
    apart = _of_pairs(sample, lambda i: torch.linalg.vector_norm(sample[i] - sample[i + 1 :], dim=-1))
    distance = _second_least(apart).clamp(min=MIN_DISTANCE)
    log_volume = 0.5 * num_dims * math.log(math.pi) - math.lgamma(0.5 * num_dims + 1)
    digamma = torch.digamma(torch.tensor(float(NEIGHBOUR))).item()
    of_mixture = math.log(num_members - 1) - digamma + log_volume + num_dims * distance.log().mean(dim=0)
    return of_mixture - gaussian_entropy(log_var.clamp(min=MIN_LOG_VAR)).mean(dim=0)


def _second_least(
    distance: Float[Tensor, "member member rows"],
) -> Float[Tensor, "member rows"]:
    """Of every member to the others: the distance of its second neighbour."""
    least = torch.full_like(distance[0], torch.inf)
    second = least
    for i, far in enumerate(distance.unbind(0)):
        far = far.index_fill(0, torch.tensor(i, device=far.device), torch.inf)  # not to itself
        least, second = torch.minimum(least, far), torch.minimum(second, torch.maximum(least, far))
    return second


def _at_least_float32(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))
