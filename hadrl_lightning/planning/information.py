"""How much the next observation would tell about which member of the ensemble is right.

The members' predictions are the components of a mixture with equal weights. Information gain is the mutual information
of component and outcome, entropy of the mixture − mean entropy of the components: it lies between 0, where the members
agree, and ln(members), where their predictions don't overlap.
"""

import math
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

    D is the Bhattacharyya distance (Chernoff's with α = ½) for the lower bound, KL divergence for the upper.
    """
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
    num_members, num_rows, _ = mean.shape
    var = log_var.exp()
    distance = mean.new_zeros(num_members, num_members, num_rows)
    for i in range(num_members - 1):
        both = var[i] + var[i + 1 :]
        apart = (mean[i] - mean[i + 1 :]).square().div_(both).mul_(0.5)
        apart.add_((both * 0.5).log_()).sub_((log_var[i] + log_var[i + 1 :]).mul_(0.5))
        distance[i, i + 1 :] = distance[i + 1 :, i] = 0.5 * apart.sum(dim=-1)
    return distance.clamp_(min=0)


def _kullback_leibler(
    mean: Float[Tensor, "member rows dim"], log_var: Float[Tensor, "member rows dim"]
) -> Float[Tensor, "member member rows"]:
    """KL(i ‖ j) = ½ Σ [(σ_i² + Δ²)/σ_j² − 1 + ln σ_j² − ln σ_i²], as products over the dimensions."""
    centred = mean - mean.mean(dim=0)  # only differences matter; small numbers keep their digits
    mean = centred.transpose(0, 1)
    log_var = log_var.transpose(0, 1)
    precision = (-log_var).exp()
    with torch.autocast(mean.device.type, enabled=False):
        product = torch.bmm(log_var.exp() + mean.square(), precision.transpose(1, 2))
        product = torch.baddbmm(product, mean, (mean * precision).transpose(1, 2), alpha=-2)
    by_second = (mean.square() * precision + log_var - 1).sum(dim=-1)
    distance = 0.5 * (product + by_second[:, None, :] - log_var.sum(dim=-1)[:, :, None])
    diagonal = torch.eye(distance.shape[1], dtype=torch.bool, device=distance.device)
    return distance.clamp(min=0).masked_fill(diagonal, 0).permute(1, 2, 0)


def _nearest_neighbour_gain(
    mean: Float[Tensor, "member rows dim"],
    log_var: Float[Tensor, "member rows dim"],
    generator: torch.Generator,
) -> Float[Tensor, " rows"]:
    num_members, _, num_dims = mean.shape
    if num_members <= NEIGHBOUR:
        raise ValueError(f"members must be at least {NEIGHBOUR + 1} for nearest_neighbour, got {num_members}")
    noise = torch.randn((num_members, 1, num_dims), generator=generator, device=generator.device).to(mean)
    sample = (mean + noise * (0.5 * log_var).exp()).transpose(0, 1)
    difference = torch.cdist(sample, sample, compute_mode="donot_use_mm_for_euclid_dist")
    distance = (
        difference.sort(dim=-1).values[..., NEIGHBOUR].clamp(min=MIN_DISTANCE)
    )  # 0 is the sample itself
    log_volume = 0.5 * num_dims * math.log(math.pi) - math.lgamma(0.5 * num_dims + 1)
    digamma = torch.digamma(torch.tensor(float(NEIGHBOUR))).item()
    of_mixture = math.log(num_members - 1) - digamma + log_volume + num_dims * distance.log().mean(dim=-1)
    return of_mixture - gaussian_entropy(log_var.clamp(min=MIN_LOG_VAR)).mean(dim=0)


def _at_least_float32(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))
