"""Which service each user asks for."""

from dataclasses import dataclass

import torch

from hadrl_lightning.simulator.processes.process import Memory, Process, World


@dataclass(frozen=True)
class StationaryRequests(Process):
    """Drawn anew in every slot by the scenario's popularity, for each user by itself."""

    brings = ("requests",)

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The first requests."""
        shape = (world.num_envs, world.scenario.num_users)
        draws = torch.rand(shape, generator=generator, dtype=torch.float64)
        asked = torch.searchsorted(world.table.popularity_cdf, draws, right=True)
        return {"requests": asked.clamp(max=world.scenario.num_services - 1).to(world.device)}

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The next requests, whatever the last ones were."""
        return self.initial(world, generator)
