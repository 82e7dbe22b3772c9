"""Passes over the data in which every member of an ensemble sees every sample once, in its own order.

And a bootstrap without resampling: how much each member makes of each transition.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hadrl_lightning.data.transitions import Lessons

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""Of the hash SplitMix64 (Steele, Lea and Flood 2014)."""


@dataclass(frozen=True)
class MemberBatches:
    """One pass over `n` transitions for `E` members. Iterating again gives the same batches again."""

    data: Lessons
    """Fields of shape `[n, …]`."""

    order: Int64[Tensor, "member sample"]
    """The order in which each member held here sees the samples: a permutation of 0 … n − 1 per row."""

    batch_size: int
    """Samples per batch and member; the last batch holds the rest."""

    weight: Float[Tensor, "member sample"] | None = None
    """What each member held here makes of each of the n samples; None: all count the same."""

    def __len__(self) -> int:
        return -(-self.order.shape[1] // self.batch_size)

    def __iter__(self) -> Iterator[Lessons]:
        """Yields fields of shape `[E, b, …]`, b = `batch_size` but for the last; with weights if there are any."""
        for index in self.order.split(self.batch_size, dim=1):
            batch = self.data[index]
            yield batch if self.weight is None else replace(batch, weight=self.weight.gather(1, index))

    def map(self, change: Callable[[Any], Lessons]) -> "MemberBatches":
        """The same pass over other rows, one for each of these."""
        return replace(self, data=change(self.data))

    def to(self, device: torch.device | str) -> "MemberBatches":
        """The same pass on another device."""
        weight = None if self.weight is None else self.weight.to(device)
        return MemberBatches(self.data.to(device), self.order.to(device), self.batch_size, weight)


@dataclass(frozen=True)
class SizedBatches:
    """One pass over transitions of networks of several sizes: the batches of each size, in a random order."""

    parts: tuple[MemberBatches, ...]
    """The pass over the transitions of each size."""

    turns: Int64[Tensor, " batch"]
    """The part that each batch is the next one of."""

    def __len__(self) -> int:
        return len(self.turns)

    def __iter__(self) -> Iterator[Lessons]:
        """Yields as `MemberBatches` does; every batch is of one size."""
        batches = [iter(part) for part in self.parts]
        yield from (next(batches[turn]) for turn in self.turns.tolist())

    def map(self, change: Callable[[Any], Lessons]) -> "SizedBatches":
        """The same pass over other rows, one for each of these."""
        return replace(self, parts=tuple(part.map(change) for part in self.parts))

    def to(self, device: torch.device | str) -> "SizedBatches":
        """The same pass on another device."""
        return replace(self, parts=tuple(part.to(device) for part in self.parts))


def member_batches(
    data: Lessons,
    num_members: int,
    batch_size: int,
    generator: torch.Generator,
    max_samples: int | None = None,
    held: slice = slice(None),
    weight: Float[Tensor, "member sample"] | None = None,
) -> MemberBatches:
    """Draws one pass: an independent permutation of the samples for every member.

    (The published batches mix members: each sees about two thirds of the distinct samples an epoch.)

    Args:
        data: fields of shape `[n, …]`.
        num_members: ensemble members E.
        batch_size: samples per batch and member.
        generator: the only source of randomness.
        max_samples: samples a pass at most; the same random distinct ones for all members. None: all.
        held: the members that batches are made for; orders are drawn for all.
        weight: what each of all members makes of each sample, such as `bootstrap_weights`; None: all count the same.

    Raises:
        ValueError: no samples, a count below 1, or weights of another shape.
    """
    for name, count in (
        ("num_members", num_members),
        ("batch_size", batch_size),
        ("max_samples", max_samples),
    ):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    num_samples = len(data)
    if num_samples < 1:
        raise ValueError(f"data must hold at least 1 transition, got {num_samples}")
    if weight is not None and weight.shape != (num_members, num_samples):
        raise ValueError(f"weight must have shape {[num_members, num_samples]}, got {list(weight.shape)}")
    device = data.device

    def permutation() -> Tensor:
        return torch.randperm(num_samples, generator=generator, device=generator.device).to(device)

    if max_samples is not None and max_samples < num_samples:
        subset = permutation()[:max_samples]
        data = data[subset]
        weight = None if weight is None else weight[:, subset]
        num_samples = max_samples
    order = torch.stack([permutation() for _ in range(num_members)])[held]
    return MemberBatches(data, order, batch_size, None if weight is None else weight[held])


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
