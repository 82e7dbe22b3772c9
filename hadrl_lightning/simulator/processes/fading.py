"""What the channel does beyond the path loss."""

from dataclasses import dataclass

import torch

from hadrl_lightning.simulator.processes.process import Memory, Process, World
from hadrl_lightning.simulator.radio import rayleigh


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
