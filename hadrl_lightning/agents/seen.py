"""What an agent has seen in training: the range of every number, and which numbers of a use lie outside."""

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.distributed import MergedOverRanks, largest
from hadrl_lightning.ranges import NUMBERS, Ranges, shown
from hadrl_lightning.scenario import Physics
from hadrl_lightning.simulator import CachingView, OffloadingView, View, rules

TOLERANCE = 1e-6
"""Relative: views are in single precision."""
MOST_NAMED = 4
"""Numbers that a warning names."""


def ranges_of_view(view: OffloadingView, physics: Physics) -> Ranges:
    """What views show of these numbers. Capacities `published` shows only less what was taken."""
    columns = {"input of a task": view.input_bits, "cycles of a task": view.cycles}
    if rules(physics).shows_capacity:
        columns |= {"bandwidth_hz": view.bandwidth_hz, "compute_hz": view.compute_hz}
    return _ranges(view, columns)


def ranges_of_caching_view(view: CachingView, usable_bits: Float[Tensor, "*rows server"]) -> Ranges:
    """The same of caching views, with what may be filled of each cache."""
    storage = view.storage_bits.double()
    columns = {
        "usable cache of a server": usable_bits,
        "usable cache / storage of all services": (usable_bits / storage.sum(dim=-1, keepdim=True)).clamp(
            max=1
        ),
        "storage of a service": storage,
    }
    return _ranges(view, columns)


def _ranges(view: View, columns: dict[str, Tensor]) -> Ranges:
    if not len(view):
        return {}
    ends = torch.stack([torch.stack((one.min(), one.max())) for one in columns.values()]).tolist()
    counts = {f"num_{axis}s": (float(length), float(length)) for axis, length in view.sizes().items()}
    return {**counts, **{name: (least, most) for name, (least, most) in zip(columns, ends)}}


class SeenRanges(MergedOverRanks):
    """The least and the largest value of each of `NUMBERS` in training; part of the weights."""

    least: Float[Tensor, " number"]
    most: Float[Tensor, " number"]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("least", torch.full((len(NUMBERS),), torch.inf, dtype=torch.float64))
        self.register_buffer("most", torch.full((len(NUMBERS),), -torch.inf, dtype=torch.float64))

    def include(self, ranges: Ranges) -> None:
        """Take in what was met. Every rank of `torch.distributed` has to call."""
        none = (torch.inf, -torch.inf)
        ends = torch.tensor([ranges.get(name, none) for name in NUMBERS], dtype=torch.float64).to(self.least)
        both = torch.cat((-torch.minimum(self.least, ends[:, 0]), torch.maximum(self.most, ends[:, 1])))
        if not self.same_on_all_ranks:
            both = largest(both)
        self.least.copy_(-both[: len(NUMBERS)])
        self.most.copy_(both[len(NUMBERS) :])

    def ranges(self) -> Ranges:
        """What was seen; nothing of an agent that was never trained."""
        ends = zip(NUMBERS, self.least.tolist(), self.most.tolist())
        return {name: (least, most) for name, least, most in ends if least <= most}

    def extra_repr(self) -> str:
        """The ranges, each in the unit of its number."""
        return "\n".join(f"{name}: {shown(name, ends)}" for name, ends in self.ranges().items()) or "nothing"

    def outside(self, ranges: Ranges) -> str:
        """Which of the ranges go beyond what was seen, in words with both ranges; empty where none does."""
        seen = self.ranges()
        found = [
            f"{name} is {shown(name, ends)} here, {shown(name, seen[name], 'only ')} in training"
            for name, ends in ranges.items()
            if name in seen and not _within(ends, seen[name])
        ]
        more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        return "; ".join(found[:MOST_NAMED]) + more


def _within(ends: tuple[float, float], seen: tuple[float, float]) -> bool:
    slack = [TOLERANCE * abs(end) for end in seen]
    return seen[0] - slack[0] <= ends[0] and ends[1] <= seen[1] + slack[1]
