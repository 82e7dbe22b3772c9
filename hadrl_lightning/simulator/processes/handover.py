"""The home of users who move: the server of the best mean link."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hadrl_lightning.scenario.checks import check_number
from hadrl_lightning.simulator.constants import Constants, of_each
from hadrl_lightning.simulator.decisions import Allocation
from hadrl_lightning.simulator.fields import SERVER, USER, Field
from hadrl_lightning.simulator.processes.process import Memory, Process, World
from hadrl_lightning.simulator.radio import at_home, losses_db
from hadrl_lightning.simulator.slot import Service, Slot


@dataclass(frozen=True)
class Handover(Process):
    """The home is the server of the best mean link, once that is better than the link to the home by the hysteresis.

    The mean link has what is known of it before small-scale fading: path loss, and shadowing where there is any.
    """

    hysteresis_db: float = 3.0
    """By which another server's link must be better, dB."""
    handover_s: float = 0.05
    """What a change of the home adds to the latency of the user's task in the slot that follows it, s."""

    brings = ("homes", "handed_over")
    fields = {
        "home": Field(
            axes=(USER,),
            text="home of user {}",
            first=1,
            dtype=torch.long,
            whole=True,
            of=SERVER,
            in_token=False,
            usual=0.0,
        ),
        "handed_over": Field(
            axes=(USER,), text="handover of user {}", dtype=torch.bool, whole=True, usual=0.0
        ),
    }

    def __post_init__(self) -> None:
        check_number("hysteresis_db", self.hysteresis_db, least=0.0, most=1000.0)
        check_number("handover_s", self.handover_s, least=0.0, most=1e6)

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The best server, which is nothing to wait for."""
        homes = self._losses(world).argmin(dim=-1)
        return {"homes": homes, "handed_over": torch.zeros_like(homes, dtype=torch.bool)}

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The best server, where it is better by the hysteresis."""
        losses, before = self._losses(world), memory["homes"]
        least, best = losses.min(dim=-1)
        better = at_home(losses, before) - least > self.hysteresis_db
        return {"homes": torch.where(better, best, before), "handed_over": better}

    def adjusted(self, table: Constants, slot: Slot) -> Constants:
        """Homes under any physics."""
        return table._replace(cells=slot.more["homes"], published_homes=slot.more["homes"])

    def carried(self, table: Constants, batch: int) -> Memory:
        """Handovers so far in the episode, [B]."""
        return {"handovers": table.compute_hz.new_zeros(batch)}

    def served(
        self, table: Constants, slot: Slot, carried: Memory, allocation: Allocation, service: Service
    ) -> tuple[Memory, Service]:
        """Those who changed wait."""
        change = slot.more["handed_over"].to(service.latency.dtype)
        delayed = service.delayed(self.handover_s * change, of_each(table.deadlines_s, slot.requests))
        return {"handovers": carried["handovers"] + change.sum(dim=-1)}, delayed

    def shown(self, table: Constants, slot: Slot, carried: Memory) -> Memory:
        """What a phone knows: its server, and whether that is new."""
        return {"home": slot.more["homes"], "handed_over": slot.more["handed_over"]}

    def _losses(self, world: World) -> Tensor:
        table = world.table._replace(link_loss_db=world.brought.get("link_loss_db"))
        return losses_db(table, world.brought["positions"])
