"""What an agent believes of servers while it is deployed: by which factors they demand more than its model says.

The model knows servers by what views show of them. That one has slowed down, or that its spectrum has halved, no view
shows, but latencies do. So beside every server stands a factor for each part of a latency (its resources, and what is
waited for alone), unknown but for what was measured: a Gaussian of their logarithms, updated after every slot. The
model's weights stay as they are: nothing is forgotten of other networks, and a server that recovers is known again.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.simulator import View

TRUSTED = 0.03
"""Standard deviation of a factor's logarithm before anything was measured: what models are mistaken by."""
CHANGED = 2.0
"""The same after a surprise, when a server may have become some times faster or slower."""
DRIFT = 0.003
"""Standard deviation by which factors change in a slot without a surprise."""
SURPRISE = 4.0
"""What is measured of a server is a surprise so many standard deviations above the mean of what chance brings,
and"""
LEAST_SURPRISE = 0.1
"""only if latencies are off by so much (root mean square of logarithms)."""
OUTLIER = 3.0
"""Errors of more standard deviations than this count as a median would have them: a deep fade is no slow server."""
LEAST_DEVIATION = 0.02
"""Logarithms of latencies are not expected to be better known than this."""
ITERATIONS = 8
"""Gauss–Newton steps of an update, each no longer than"""
LONGEST_STEP = 1.0


@dataclass(eq=False)
class Believed(View):
    """A view, and by which factors the servers of its networks demand more than is told by it."""

    view: View
    log_factor: Float[Tensor, "*rows server part"]
    """Of each resource, and last of what is waited for alone."""


def parted(seen: View | Tensor) -> tuple[View | Tensor, Tensor | None]:
    """A view and the factors beside it, if there are any."""
    return (seen.view, seen.log_factor) if isinstance(seen, Believed) else (seen, None)


@dataclass(eq=False)
class Measured:
    """What a model says of a slot that was served, and what was measured."""

    target: Int[Tensor, "batch user"]
    part: Float[Tensor, "batch user part"]
    """Parts of each user's latency as the model has them, in s."""
    log_variance: Float[Tensor, "batch user"]
    """Of the logarithm of the latency."""
    log_latency: Float[Tensor, "batch user"]
    """ln s; NaN where nothing was measured."""

    @property
    def known(self) -> Bool[Tensor, "batch user"]:
        """Where something was."""
        return self.log_latency.isfinite()


class Belief:
    """Factors of the servers of B networks: the mean and the precision of their logarithms.

    An extended Kalman filter, iterated, for each server by itself: what a user waits for depends on its own server
    alone. A surprise widens what is believed possible, so that a change that nobody announced is followed at once.

    Args:
        num_networks: B.
        num_servers: S.
        num_parts: parts of a latency.
        like: gives device and format.
    """

    def __init__(self, num_networks: int, num_servers: int, num_parts: int, like: Tensor) -> None:
        shape = (num_networks, num_servers, num_parts)
        self.mean: Float[Tensor, "batch server part"] = like.new_zeros(shape, dtype=torch.float64)
        one = torch.eye(num_parts, dtype=torch.float64, device=like.device)
        self.precision: Float[Tensor, "batch server part part"] = (
            (one / TRUSTED**2).expand(*shape, -1).clone()
        )
        self.num_surprises = 0

    @torch.no_grad()
    def update(self, measured: Measured) -> None:
        """Takes in what was measured of a slot; users of whom nothing was count for nothing."""
        known = measured.known
        own = torch.nn.functional.one_hot(measured.target, self.mean.shape[1]).double() * known.unsqueeze(-1)
        part, latency = measured.part.double(), measured.log_latency.double().nan_to_num(0.0)
        variance = measured.log_variance.double().exp().clamp(min=LEAST_DEVIATION**2)
        self._drift()
        fraction, error = self._seen(self.mean, measured.target, part, latency)
        self._widen_where_surprised(own, fraction, error, variance)
        mean, before, precision = self.mean.clone(), self.mean, self.precision
        for _ in range(ITERATIONS):
            fraction, error = self._seen(mean, measured.target, part, latency)
            off = (error.square() / variance).sqrt()
            weight = (OUTLIER / off.clamp(min=OUTLIER)) / variance
            seen = own * weight.unsqueeze(-1)
            curvature = precision + torch.einsum("bus,bup,buq->bspq", seen, fraction, fraction)
            slope = torch.einsum("bus,bup,bu->bsp", seen, fraction, error)
            slope = slope - (precision @ (mean - before).unsqueeze(-1)).squeeze(-1)
            step = torch.linalg.solve(curvature, slope)
            mean = mean + step.clamp(-LONGEST_STEP, LONGEST_STEP)
        self.mean, self.precision = mean, curvature

    def _seen(
        self, mean: Tensor, target: Tensor, part: Tensor, latency: Tensor
    ) -> tuple[Float[Tensor, "batch user part"], Float[Tensor, "batch user"]]:
        """What share of each latency every part is, and by how much the logarithm of the whole is off."""
        log_factor = mean.gather(1, target.unsqueeze(-1).expand(-1, -1, mean.shape[-1]))
        expected = part * log_factor.exp()
        whole = expected.sum(dim=-1, keepdim=True)
        return expected / whole, latency - whole.squeeze(-1).log()

    def _drift(self) -> None:
        one = torch.eye(self.mean.shape[-1], dtype=torch.float64, device=self.mean.device)
        self.precision = torch.linalg.inv(torch.linalg.inv(self.precision) + DRIFT**2 * one)

    def _widen_where_surprised(self, own: Tensor, fraction: Tensor, error: Tensor, variance: Tensor) -> None:
        spread = torch.linalg.inv(self.precision)
        of_user = torch.einsum("bus,bspq->bupq", own, spread)
        doubt = torch.einsum("bup,bupq,buq->bu", fraction, of_user, fraction)
        off = (error.square() / (variance + doubt)).clamp(max=OUTLIER**2)
        number, chance = own.sum(dim=1), torch.einsum("bus,bu->bs", own, off)
        mean_square = torch.einsum("bus,bu->bs", own, error.square()) / number.clamp(min=1)
        surprised = chance > number + SURPRISE * (2 * number).sqrt()
        surprised &= (mean_square > LEAST_SURPRISE**2) & (number > 0)
        one = torch.eye(self.mean.shape[-1], dtype=torch.float64, device=self.mean.device) / CHANGED**2
        self.precision = torch.where(surprised[..., None, None], one, self.precision)
        self.num_surprises += int(surprised.sum())
