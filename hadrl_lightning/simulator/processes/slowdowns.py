"""Servers that slow down: a hidden speed that no view shows, known by what was measured of it."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.decisions import Allocation
from hadrl_lightning.simulator.fields import SERVER, Field
from hadrl_lightning.simulator.processes.process import Memory, Process, World
from hadrl_lightning.simulator.state import Service, Slot

FULL, SLOW, OUT = 0, 1, 2
"""States of a server."""
LEAST_FACTOR = 1e-3
"""No server is slower by more: latencies stay within single precision for all that scenarios allow."""
LIMITS = {
    "slow_factor": (LEAST_FACTOR, 1.0),
    "out_factor": (LEAST_FACTOR, 1.0),
    "slow_part": (0.0, 1.0),
    "out_part": (0.0, 1.0),
    "slow_slots": (1.0, 1e9),
    "out_slots": (1.0, 1e9),
    "telemetry_noise": (0.0, 3.0),
}
"""Least and largest value of each setting."""
OLDEST = 1000.0
"""Age in slots that stands for a measurement as old or older, and for none at all."""


@dataclass(frozen=True)
class SlowServers(Process):
    """Every server is full, slow or out, by a Markov chain of its own: from full to slow or out, and back to full.

    Nobody sees the state: views show what a server has at full speed, and what was measured of it, its `slowdown`.
    References know the truth.
    """

    slow_factor: float = 0.1
    """Speed of a slow server as a part of its full speed."""
    out_factor: float = 0.01
    """Speed of one that is out: next to nothing, so that latencies stay finite."""
    slow_part: float = 0.2
    """Share of the time that a server is slow, in the long run."""
    out_part: float = 0.02
    """Share of the time that a server is out, in the long run."""
    slow_slots: float = 20.0
    """Mean length of a slow time in slots."""
    out_slots: float = 5.0
    """Mean length of an outage in slots."""
    slows_bandwidth: bool = False
    """Whether a server's bandwidth slows down with its compute."""
    telemetry: Literal["used", "all", "none"] = "used"
    """What is measured in a slot: the compute of servers that computed a task in it, of all servers, or of none. Views
    have the same fields whatever is measured."""
    telemetry_noise: float = 0.0
    """Standard deviation of the logarithm of a measurement."""

    brings = ("server_speed", "telemetry_error")
    hidden = True
    fields = {
        "slowdown": Field(axes=(SERVER,), text="slowdown of server {}, as last measured", usual=1.0),
        "slowdown_age": Field(
            axes=(SERVER,),
            text="age of the slowdown of server {}",
            unit="slots",
            scale=10.0,
            high=OLDEST,
            usual=OLDEST,
        ),
    }

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low:g} to {high:g}, got {getattr(self, name)}")
        if self.out_factor > self.slow_factor:
            raise ValueError(
                f"out_factor must be at most slow_factor = {self.slow_factor:g}, got {self.out_factor:g}"
            )
        full = 1 - self.slow_part - self.out_part
        leaving = self.slow_part / self.slow_slots + self.out_part / self.out_slots
        if not (full > 0 and leaving <= full):
            raise ValueError(
                "slow_part must leave a server time to be full: slow_part / slow_slots + out_part / out_slots at most "
                f"1 - slow_part - out_part = {full:.3g}, got {leaving:.3g}"
            )

    # What is drawn ---------------------------------------------------------------------------------------------------

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The speeds of the first slot, as they are in the long run."""
        draws = _draws(world, generator)
        return self._memory(world, _chosen(draws, self.slow_part, self.out_part), generator)

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The speeds of the next slot."""
        state, draws = memory["server_state"].cpu(), _draws(world, generator)
        full = 1 - self.slow_part - self.out_part
        begins = (self.slow_part / self.slow_slots / full, self.out_part / self.out_slots / full)
        ends = torch.where(state == SLOW, 1 / self.slow_slots, 1 / self.out_slots)
        changed = torch.where(draws < ends, FULL, state)
        return self._memory(world, torch.where(state == FULL, _chosen(draws, *begins), changed), generator)

    def changed(self, before: Memory, after: Memory) -> Bool[Tensor, " batch"]:
        """Where a server has slowed down, gone out, or is back."""
        return (after["server_state"] != before["server_state"]).any(dim=1)

    def _memory(self, world: World, state: Int[Tensor, "batch server"], generator: torch.Generator) -> Memory:
        speeds = torch.tensor([1.0, self.slow_factor, self.out_factor], dtype=torch.float64)
        error = torch.zeros(state.shape, dtype=torch.float64)
        if self.telemetry_noise:
            error = self.telemetry_noise * torch.randn(state.shape, generator=generator, dtype=torch.float64)
        return {
            "server_state": state.to(world.device),
            "server_speed": speeds[state].to(world.device, world.dtype),
            "telemetry_error": error.to(world.device, world.dtype),
        }

    # What follows from it --------------------------------------------------------------------------------------------

    def adjusted(self, table: Constants, slot: Slot, carried: Memory) -> Constants:
        """Servers at the speed that they have."""
        speed = slot.more["server_speed"]
        if self.slows_bandwidth:
            table = table._replace(bandwidth_hz=table.bandwidth_hz * speed)
        return table._replace(compute_hz=table.compute_hz * speed)

    def carried(self, table: Constants, batch: int) -> Memory:
        """Nothing is measured yet: servers count as full, by a measurement as old as can be."""
        one = table.compute_hz.new_ones(batch, table.compute_hz.shape[-1])
        return {"slowdown": one, "slowdown_age": OLDEST * one}

    def served(
        self, table: Constants, slot: Slot, carried: Memory, allocation: Allocation, service: Service
    ) -> tuple[Memory, Service]:
        """With what was measured in the slot: by which factor computing took longer than at full speed."""
        if self.telemetry == "none":
            return carried, service
        speed = slot.more["server_speed"]
        measured = torch.ones_like(speed)
        if self.telemetry == "used":
            server = allocation.server.clamp(max=speed.shape[1] - 1)  # no hit is beyond the servers
            hits = service.hit.to(speed.dtype)
            measured = torch.zeros_like(speed).scatter_add_(1, server, hits)
        found, age = slot.more["telemetry_error"].exp() / speed, carried["slowdown_age"] + 1
        return {
            "slowdown": torch.where(measured > 0, found, carried["slowdown"]),
            "slowdown_age": torch.where(measured > 0, 0.0, age.clamp(max=OLDEST)),
        }, service

    def shown(self, table: Constants, slot: Slot, carried: Memory) -> Memory:
        """What was last measured of every server, and how many slots have passed since: 0 for the slot before."""
        return carried


def _draws(world: World, generator: torch.Generator) -> Float[Tensor, "batch server"]:
    shape = (world.num_envs, world.scenario.num_servers)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _chosen(draws: Float[Tensor, "batch server"], slow: float, out: float) -> Int[Tensor, "batch server"]:
    """Slow and out with these chances, else full."""
    return torch.where(draws < slow, SLOW, torch.where(draws < slow + out, OUT, FULL))
