"""Running mean and standard deviation of a stream of vectors."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.distributed.collectives import summed, this_rank
from hadrl_lightning.distributed.members import MergedOverRanks

RELATIVE_FLOOR = 1e-7
"""A dimension whose standard deviation is below this part of its mean is constant: float32 can't tell it apart."""
ABSOLUTE_FLOOR = 1e-12


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations of some vectors, in float64: what is needed to merge statistics."""

    number: Float[Tensor, ""]
    mean: Float[Tensor, " dim"]
    squares: Float[Tensor, " dim"]
    """Σ(x − mean)²."""


def batch_moments(values: Float[Tensor, "rows dim"]) -> Moments:
    """Moments of the rows; of no rows: all zero."""
    values = values.detach().double()
    number = values.new_tensor(float(len(values)))
    mean = values.sum(dim=0) / number.clamp(min=1)
    return Moments(number, mean, (values - mean).square().sum(dim=0))


def merge(first: Moments, second: Moments) -> Moments:
    """Moments of both sets together (Chan, Golub and LeVeque 1979), without a loss of digits at large means."""
    number = first.number + second.number
    share = second.number / number.clamp(min=1)
    shift = second.mean - first.mean
    return Moments(
        number,
        first.mean + shift * share,
        first.squares + second.squares + shift.square() * first.number * share,
    )


def deviation(moments: Moments) -> Float[Tensor, " dim"]:
    """Standard deviation over n; 1 where constant, and of no vectors."""
    std = (moments.squares / moments.number.clamp(min=1)).sqrt()
    floor = (moments.mean.abs() * RELATIVE_FLOOR).clamp(min=ABSOLUTE_FLOOR)
    return torch.where(std > floor, std, torch.ones_like(std))


def over_ranks(moments: Moments) -> Moments:
    """Moments of the sets of all ranks together, equal on all ranks; without `torch.distributed` the given ones.

    Every rank has to call it; a rank may bring an empty set.
    """
    if this_rank().ranks == 1:
        return moments
    sums = summed(torch.cat((moments.number[None], moments.number * moments.mean)))
    number, mean = sums[0], sums[1:] / sums[0].clamp(min=1)
    squares = moments.squares + moments.number * (moments.mean - mean).square()
    return Moments(number, mean, summed(squares))


class RunningNormaliser(MergedOverRanks):
    """Scales vectors to mean 0 and standard deviation 1 by the statistics of all vectors seen so far.

    A constant dimension gets standard deviation 1, so it becomes 0 and never divides by 0; so does every dimension
    before anything was seen. Statistics are float64 buffers, part of the state dict; results have the dtype of the
    input.

    Weights that were trained behind a normaliser mean something in its scale alone. `freeze` therefore keeps the scale
    as it is while statistics go on being gathered, and `thaw` takes up what was gathered meanwhile.

    Args:
        size: numbers in a vector.

    Raises:
        ValueError: a size below 1.
    """

    count: Float[Tensor, ""]
    running_mean: Float[Tensor, " dim"]
    squares: Float[Tensor, " dim"]
    centre: Float[Tensor, " dim"]
    scale: Float[Tensor, " dim"]
    frozen: Bool[Tensor, ""]

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("running_mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(size, dtype=torch.float64))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))

    @property
    def mean(self) -> Float[Tensor, " dim"]:
        """Mean of what was seen, float64."""
        return self.running_mean

    @property
    def std(self) -> Float[Tensor, " dim"]:
        """Standard deviation of what was seen (over n, not n − 1), float64; 1 where constant."""
        return deviation(self._moments())

    @torch.no_grad()
    def freeze(self) -> None:
        """Keep the scale as it is: something is trained behind it."""
        self.frozen.fill_(True)

    @torch.no_grad()
    def thaw(self) -> None:
        """Let the scale follow what is seen again, and take up what was seen meanwhile."""
        self.frozen.fill_(False)
        self._follow()

    @torch.no_grad()
    def update(self, values: Float[Tensor, "..."], synchronise: bool = True) -> None:
        """Takes in vectors `[..., size]`.

        Args:
            values: any number of vectors, none included.
            synchronise: combine with the vectors of the other ranks of `torch.distributed`, if there are any, so that
                all ranks keep equal statistics; every rank then has to call.

        Raises:
            ValueError: another size, or values that are not finite (they would spoil the statistics for good).
        """
        if values.ndim == 0 or values.shape[-1] != self.size:
            raise ValueError(f"values must have shape [..., {self.size}], got {list(values.shape)}")
        if not values.isfinite().all():
            raise ValueError(f"values must be finite, got {int((~values.isfinite()).sum())} that are not")
        moments = batch_moments(values.reshape(-1, self.size).to(self.running_mean.device))
        apart = synchronise and not self.same_on_all_ranks
        self._store(merge(self._moments(), over_ranks(moments) if apart else moments))

    @torch.no_grad()
    def synchronise(self) -> None:
        """Merges statistics that every rank gathered alone (`update(synchronise=False)` from the start on)."""
        if not self.same_on_all_ranks:
            self._store(over_ranks(self._moments()))

    def normalise(self, values: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """(x − mean) / std, of what was seen before the scale was frozen, if it was."""
        return (values - self.centre.to(values.dtype)) / self.scale.to(values.dtype)

    def denormalise(self, values: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Inverse of `normalise`."""
        return values * self.scale.to(values.dtype) + self.centre.to(values.dtype)

    def denormalise_log_var(self, log_var: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Log-variance of the denormalised variable: log σ² + 2 ln std."""
        return log_var + 2 * self.scale.log().to(log_var.dtype)

    def _moments(self) -> Moments:
        return Moments(self.count.double(), self.running_mean.double(), self.squares.double())

    def _store(self, moments: Moments) -> None:
        self.count.copy_(moments.number)
        self.running_mean.copy_(moments.mean)
        self.squares.copy_(moments.squares)
        if not bool(self.frozen):
            self._follow()

    def _follow(self) -> None:
        self.centre.copy_(self.mean)
        self.scale.copy_(self.std)
