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
        table: gives powers, and the path loss by distance or of every link (`Constants.link_loss_db`).
        homes: the server whose radio each user uses, [U] or [B, U].
        positions: (x, y) of the users in metres, [B, U, 2].
        fading: factor on the linear gain, [B, U].
    """
    if table.link_loss_db is None:
        ends = zip(positions.unbind(-1), points_of_each(table.servers_m, homes).unbind(-1), strict=True)
        x, y = (user - server for user, server in ends)
        loss_db = _loss_db(table, torch.addcmul(x * x, y, y))
    else:
        loss_db = at_home(table.link_loss_db, homes)
    return efficiency_of(table.power_over_noise_db - loss_db, fading)


def reported_efficiency(
    table: Constants, homes: Int[Tensor, "... user"], positions: Float[Tensor, "batch user 2"]
) -> Float[Tensor, "batch user"]:
    """What phones report of their link to the home server, in bit/s/Hz: the link, fading aside, if nothing else."""
    if table.reported_efficiency is not None:
        return at_home(table.reported_efficiency, homes)
    return link_efficiency(table, homes, positions, positions.new_ones(positions.shape[:-1]))


def efficiency_of(snr_db: Tensor, fading: Tensor) -> Tensor:
    """Spectral efficiency at a ratio of power to noise in dB, times a factor, in bit/s/Hz."""
    snr = fading * torch.exp(snr_db * (math.log(10) / 10)).clamp(max=MAX_SNR)
    return (torch.log1p(snr) * (1 / math.log(2))).clamp(min=MIN_SPECTRAL_EFFICIENCY)


def losses_db(
    table: Constants, positions: Float[Tensor, "batch user 2"]
) -> Float[Tensor, "batch user server"]:
    """Path loss of each user's link to every server, by distance or as the links have it, in dB."""
    if table.link_loss_db is not None:
        return table.link_loss_db
    columns = ("min_distance_m", "path_loss_constant_db", "path_loss_slope_db")
    single = {name: value.unsqueeze(-1) for name in columns if (value := getattr(table, name)).ndim}
    return _loss_db(table._replace(**single), squared_distances_m2(table.servers_m, positions))


def squared_distances_m2(
    servers_m: Float[Tensor, "*servers 2"], positions: Float[Tensor, "batch user 2"]
) -> Float[Tensor, "batch user server"]:
    """Squares of the distances of users from servers: axis by axis, which takes a fraction of the time."""
    x, y = (
        user.unsqueeze(-1) - server.unsqueeze(-2)
        for user, server in zip(positions.unbind(-1), servers_m.unbind(-1), strict=True)
    )
    return torch.addcmul(x * x, y, y)


def at_home(
    links: Float[Tensor, "batch user server"], homes: Int[Tensor, "... user"]
) -> Float[Tensor, "batch user"]:
    """Of numbers of every link that of each user's link to its home server."""
    return links.gather(-1, homes.expand(links.shape[:-1]).unsqueeze(-1)).squeeze(-1)


def _loss_db(table: Constants, squared_m2: Float[Tensor, "*links"]) -> Float[Tensor, "*links"]:
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
