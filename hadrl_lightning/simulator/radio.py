"""The uplink: path loss, fading and spectral efficiency."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hadrl_lightning.simulator.constants import Constants, points_of_each

MIN_SPECTRAL_EFFICIENCY = 1e-6
"""bit/s/Hz. A Rayleigh draw can be 0 and would make a latency infinite; no link is worse than this."""
MAX_SNR = 1e30
"""A user within a hair of its server would have an infinite gain, and 0 fading times that is not a number."""


def path_loss_db(table: Constants, distance_m: Float[Tensor, "batch user"]) -> Float[Tensor, "batch user"]:
    """Path loss 128.1 + 37.6 log10(d / km) in dB; a distance of 0 counts as `min_distance_m` (paper, channel model)."""
    return _loss_db(table, distance_m.square())


def link_efficiency(
    table: Constants,
    homes: Int[Tensor, "... user"],
    positions: Float[Tensor, "batch user 2"],
    fading: Float[Tensor, "batch user"],
) -> Float[Tensor, "batch user"]:
    """Spectral efficiency log2(1 + gain * power / noise) of each user's link to its home server, in bit/s/Hz.

    Args:
        table: gives powers and the path loss.
        homes: the server whose radio each user uses, [U] or [B, U].
        positions: (x, y) of the users in metres, [B, U, 2].
        fading: factor on the linear gain, [B, U].
    """
    ends = zip(positions.unbind(-1), points_of_each(table.servers_m, homes).unbind(-1), strict=True)
    x, y = (user - server for user, server in ends)
    snr_db = table.power_over_noise_db - _loss_db(table, torch.addcmul(x * x, y, y))
    snr = fading * torch.exp(snr_db * (math.log(10) / 10)).clamp(max=MAX_SNR)
    return (torch.log1p(snr) * (1 / math.log(2))).clamp(min=MIN_SPECTRAL_EFFICIENCY)


def _loss_db(table: Constants, squared_m2: Float[Tensor, "batch user"]) -> Float[Tensor, "batch user"]:
    """Path loss by the square of the distance, by arithmetic alone: `where` takes many times as long for many users."""
    squared_m2 = torch.addcmul(squared_m2, 1 - squared_m2.sign(), table.min_distance_m.square())
    return torch.addcmul(
        table.path_loss_constant_db, torch.log10(squared_m2 * 1e-6), table.path_loss_slope_db / 2
    )


def rayleigh(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Rayleigh(1) draws on `device`, made on the CPU from draws in double precision whatever `dtype` they have."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return rayleigh_quantile(uniform, dtype).to(device)


def rayleigh_quantile(
    uniform: Float[Tensor, "*shape"], dtype: torch.dtype = torch.float64
) -> Float[Tensor, "*shape"]:
    """sqrt(-2 ln(1 - u)) for u in [0, 1) in double precision: finite and above 0 for all that `torch.rand` can draw.

    `torch.rand` draws multiples of 2^-53, from 0 to 1 - 2^-53. 0 counts as the step after it, so that no link is dead:
    one such user would outweigh the latency of all others. The logarithm is taken in double precision, the root in the
    format that is asked for.
    """
    return uniform.clamp(min=2**-53).neg_().log1p_().to(dtype).mul_(-2).sqrt_()
