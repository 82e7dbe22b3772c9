"""Which service each user asks for."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.processes.process import Memory, Process, World

FEW_DRAWS = 1024
"""Fewer are searched for one by one: that takes less calls."""


@dataclass(frozen=True)
class StationaryRequests(Process):
    """Drawn anew in every slot by the scenario's popularity, for each user by itself."""

    brings = ("requests",)

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The first requests."""
        shape = (world.num_envs, world.scenario.num_users)
        draws = torch.rand(shape, generator=generator, dtype=torch.float64)
        return {"requests": requested(world.table, draws).to(world.device)}

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The next requests, whatever the last ones were."""
        return self.initial(world, generator)


def requested(table: Constants, draws: Float[Tensor, "batch user"]) -> Int[Tensor, "batch user"]:
    """The service in whose part of [0, 1) each draw lies, in double precision on the CPU, long [B, U]."""
    split, choices = table.popularity_split, table.popularity_choices
    if split is None or choices is None or draws.numel() < FEW_DRAWS:
        ends = table.popularity_cdf
        return torch.searchsorted(ends, draws, right=True).clamp_(max=ends.shape[-1] - 1)
    flat = draws.view(-1)
    part = (flat * len(split)).int()
    above = flat >= split.index_select(0, part)
    return choices.index_select(0, part.mul_(2).add_(above)).view(draws.shape)
