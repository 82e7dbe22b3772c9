"""What every slot has: which service each user asks for, where users are, and what fading does to the channel."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hadrl_lightning.simulator.constants import Constants, points_of_each
from hadrl_lightning.simulator.processes.process import Memory, Process, World
from hadrl_lightning.simulator.radio import rayleigh

FEW_DRAWS = 1024
"""Fewer are searched for one by one: that takes less calls."""
TINY = 1e-300


@dataclass(frozen=True)
class StationaryRequests(Process):
    """Drawn anew in every slot by the scenario's popularity, for each user by itself."""

    brings = ("requests",)
    by_popularity = True

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The first requests."""
        shape = (world.num_envs, world.scenario.num_users)
        draws = torch.rand(shape, generator=generator, dtype=torch.float64)
        return {"requests": requested(world.table, draws).to(world.device)}

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The next requests, whatever the last ones were."""
        return self.initial(world, generator)

    def past(self, world: World, memory: Memory, num_slots: int, generator: torch.Generator) -> Memory:
        """How often each service was asked for."""
        asked = num_slots * world.scenario.num_users
        return {"requests": counted(world, world.table.popularity_cdf, asked, generator)}


def counted(
    world: World, ends: Float[Tensor, "... service"], asked: int | Tensor, generator: torch.Generator
) -> Float[Tensor, "batch service"]:
    """How often each service is asked for in so many requests, [B, K], drawn by where the services end in [0, 1]."""
    ends = ends.expand(world.num_envs, -1)
    left = torch.as_tensor(asked).to(ends).expand(world.num_envs)
    begin, counts = torch.zeros_like(left), []
    for end in ends.unbind(dim=1):  # of those who asked for no service before, so many ask for this one
        part = (end - begin) / (1 - begin).clamp(min=TINY)
        count = torch.binomial(left, part.clamp(0, 1), generator=generator)
        counts.append(count)
        left, begin = left - count, end
    return torch.stack(counts, dim=1).to(world.device, world.dtype)


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


@dataclass(frozen=True)
class CellPositions(Process):
    """Drawn anew in every slot, uniformly over the whole metres of a square around the server of the user's cell."""

    brings = ("positions",)

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The first positions."""
        radius = world.scenario.cell_radius_m
        shape = (world.num_envs, world.scenario.num_users, 2)
        offset = torch.randint(-radius, radius, shape, generator=generator, dtype=torch.int32)
        centre = points_of_each(world.table.servers_m, world.table.cells)
        return {"positions": offset.to(world.device, world.dtype).add_(centre)}

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The next positions, whatever the last ones were."""
        return self.initial(world, generator)


@dataclass(frozen=True)
class FixedPositions(Process):
    """The scenario's `user_positions_m` in every slot; nothing is drawn."""

    brings = ("positions",)

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The positions."""
        fixed = world.table.user_positions_m
        assert fixed is not None
        return {"positions": fixed.expand(world.num_envs, -1, -1).clone()}


@dataclass(frozen=True)
class RayleighFading(Process):
    """Rayleigh(1) factors on the gain, for each user and slot by itself, not known before the slot is served."""

    brings = ("fading",)
    known = False

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The factors of the first slot."""
        shape = (world.num_envs, world.scenario.num_users)
        return {"fading": rayleigh(shape, generator, world.device, world.dtype)}

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The factors of the next slot, whatever the last ones were."""
        return self.initial(world, generator)
