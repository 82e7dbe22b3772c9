"""Where the users are."""

from dataclasses import dataclass

import torch

from hadrl_lightning.simulator.constants import points_of_each
from hadrl_lightning.simulator.processes.process import Memory, Process, World


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
