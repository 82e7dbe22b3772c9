"""Tasks that arrive by chance, and work that carries over: backlogs of servers, finite buffers, drops."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.scenario.checks import check_number
from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.decisions import Allocation, sum_per_server
from hadrl_lightning.simulator.fields import SERVER, Field
from hadrl_lightning.simulator.processes.process import Memory, Process, UsualTasks, World
from hadrl_lightning.simulator.state import Service, Slot

LIMITS: Mapping[str, tuple[float, float]] = {
    "load": (1e-3, 10.0),
    "tasks_per_slot": (1e-3, 100.0),
    "on_slots": (1.0, 1e9),
    "off_slots": (1.0, 1e9),
    "slot_s": (1e-6, 1e6),
    "buffer_s": (1e-6, 1e6),
    "dropped_s": (1e-6, 1e6),
}
"""Least and largest value of each setting."""
WORK = torch.float64
"""Number format of work in cycles and of counts, whatever that of the networks: nothing is lost of long episodes."""
MOST_FILLED = 1 + 1e-9
"""A buffer may hold so much of what it holds: what sums are rounded by."""


@dataclass(frozen=True)
class Queues(Process):
    """Users have a task in a slot by chance, and what servers don't finish in a slot they go on with in the next.

    A task that is computed at a server waits for the work that was left there at the start of the slot. Views show that
    as seconds of the server's full speed, and tasks of idle users as ones of no bits and no cycles.
    """

    arrivals: Literal["every", "bernoulli", "poisson", "bursts"] = "poisson"
    """Tasks of a user in a slot: one always; one or none; a Poisson number of the same service, which go together as
    one task so many times as large; or such a number while the user is on, and none while it is off."""
    load: float | None = 0.9
    """Cycles that are asked for in a second, on average, as a part of the compute of all servers."""
    tasks_per_slot: float | None = None
    """Mean number of tasks of a user in a slot, where there is no `load` that it follows from."""
    on_slots: float = 5.0
    """Mean time that a user is on, in slots."""
    off_slots: float = 10.0
    """Mean time that a user is off, in slots."""
    slot_s: float = 1.0
    """Length of a slot in s."""
    buffer_s: float = 5.0
    """Work that a server keeps at most, in s of its full speed."""
    late: Literal["kept", "dropped"] = "kept"
    """What servers do with tasks that will miss their deadline."""
    dropped_s: float = 10.0
    """What a dropped task counts as, in s."""

    brings = ("tasks",)
    order = 2
    carries_work = True
    fields = {"backlog_s": Field(axes=(SERVER,), text="backlog of server {}", unit="s", usual=0.0)}

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, least=low, most=high)
        if self.buffer_s < self.slot_s:
            raise ValueError(
                f"buffer_s must be at least slot_s = {self.slot_s:g}, the work of a slot, got {self.buffer_s:g}"
            )
        if self.arrivals == "every":
            if self.load is not None or self.tasks_per_slot not in (None, 1):
                name = "tasks_per_slot" if self.load is None else "load"
                raise ValueError(
                    f"{name} must be null with arrivals every, a task of every user in every slot, "
                    f"got {getattr(self, name):g}"
                )
        elif (self.load is None) == (self.tasks_per_slot is None):
            found = "neither" if self.load is None else f"{self.load:g} and {self.tasks_per_slot:g}"
            raise ValueError(f"load or tasks_per_slot must be given, and the other be null, got {found}")

    @property
    def sets_tasks(self) -> bool:
        """It does."""
        return True

    def check(self, scenario: Scenario) -> None:
        """Who has one task at most can't have more on average; by a load of a file's requests only play tells."""
        if self.arrivals != "bernoulli" or (
            self.load is not None and "requests_of_file" in scenario.processes
        ):
            return
        for one in scenario.corners():
            users = one.num_users
            cycles = sum(part * size for part, size in zip(one.popularity_vector, one.cycles, strict=True))
            compute = sum(one.compute_per_server_hz)
            self._check_chance(self._mean_tasks(compute, users * cycles) if users else 0.0)

    def _check_chance(self, mean: float) -> None:
        if mean <= 1:
            return
        if self.load is None:
            raise ValueError(f"tasks_per_slot must be at most 1 with arrivals bernoulli, got {mean:g}")
        raise ValueError(
            f"load must be at most {self.load / mean:.3g} with arrivals bernoulli, a task of a user and slot at most, "
            f"got {self.load:g}: {mean:.3g} tasks"
        )

    def _mean_tasks(self, compute_hz: float, cycles: float) -> float:
        """Mean number of tasks of a user in a slot, where so many cycles are asked for if all users have one."""
        if self.load is None:
            return self.tasks_per_slot or 1.0
        if not cycles:
            raise HadrlError(
                "processes.queues: load must be null where no task has cycles, got " + f"{self.load:g}"
            )
        return self.load * self.slot_s * compute_hz / cycles

    def _mean(
        self, table: Constants, num_users: int, asked: UsualTasks | None
    ) -> Float[Tensor, "batch_or_1 1"]:
        """The same of each network, in double precision on the CPU, of what users ask for."""
        compute = table.compute_hz.cpu().double().sum(dim=-1, keepdim=True)
        size = table.usual_cycles.unsqueeze(-1)
        if asked is not None:
            size = size * asked.asking * asked.cycles
        pairs = zip(*(one.flatten().tolist() for one in torch.broadcast_tensors(compute, size)), strict=True)
        means = [self._mean_tasks(hz, max(num_users, 1) * cycles) for hz, cycles in pairs]
        return torch.tensor(means, dtype=torch.float64).unsqueeze(1)

    @property
    def _on_part(self) -> float:
        """Share of the time that a user is on."""
        return self.on_slots / (self.on_slots + self.off_slots) if self.arrivals == "bursts" else 1.0

    def usual_tasks(self, table: Constants, num_users: int, asked: UsualTasks | None = None) -> UsualTasks:
        """How many users have a task, and how many tasks these have."""
        mean, on = self._mean(table, num_users, asked), self._on_part
        if self.arrivals in ("every", "bernoulli"):
            asking = mean
        else:
            asking = on * -torch.expm1(-mean / on)
        return UsualTasks(asking, mean / asking, mean / asking)

    # What is drawn ---------------------------------------------------------------------------------------------------

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The tasks of the first slot."""
        mean = self._mean(world.table, world.scenario.num_users, world.asked)
        if self.arrivals == "bernoulli":
            try:
                self._check_chance(float(mean.max()))
            except ValueError as error:
                raise HadrlError(f"processes.queues: {error}") from error
        on = None
        if self.arrivals == "bursts":
            on = _draws(world, generator) < self._on_part
        return self._arrived(world, mean.expand(world.num_envs, -1), on, generator)

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The tasks of the next slot."""
        on = None
        if self.arrivals == "bursts":
            before, draws = memory["on"].cpu(), _draws(world, generator)
            on = torch.where(before, draws >= 1 / self.on_slots, draws < 1 / self.off_slots)
        return self._arrived(world, memory["mean"].cpu(), on, generator)

    def _arrived(
        self,
        world: World,
        mean: Float[Tensor, "batch 1"],
        on: Bool[Tensor, "batch user"] | None,
        generator: torch.Generator,
    ) -> Memory:
        shape = (world.num_envs, world.scenario.num_users)
        if self.arrivals == "every":
            tasks = torch.ones(shape, dtype=torch.float64)
        elif self.arrivals == "bernoulli":
            tasks = (_draws(world, generator) < mean).double()
        else:
            tasks = torch.poisson((mean / self._on_part).expand(shape), generator=generator)
        memory = {"mean": mean.to(world.device)}
        if on is not None:
            tasks, memory["on"] = tasks * on, on.to(world.device)
        return {**memory, "tasks": tasks.to(world.device, world.dtype)}

    # What follows from it --------------------------------------------------------------------------------------------

    def adjusted(self, table: Constants, slot: Slot, carried: Memory) -> Constants:
        """The sizes of tasks, and the work before them."""
        tasks, (bits, cycles) = slot.more["tasks"], table.sizes(slot.requests)
        return table._replace(
            task_bits=bits * tasks,
            task_cycles=cycles * tasks,
            waiting_s=(carried["backlog"] / table.compute_hz).to(table.compute_hz.dtype),
        )

    def carried(self, table: Constants, batch: int) -> Memory:
        """Work and room of every server, [B, S] in cycles; what became of tasks and of work so far, [B]."""
        room = (self.buffer_s * table.compute_hz.to(WORK)).expand(batch, -1).clone()
        nothing = room.new_zeros(batch)
        counts = ("arrived", "admitted", "dropped", "late", "admitted_cycles", "served_cycles")
        return {"backlog": torch.zeros_like(room), "room": room} | dict.fromkeys(counts, nothing)

    def served(
        self, table: Constants, slot: Slot, carried: Memory, allocation: Allocation, service: Service
    ) -> tuple[Memory, Service]:
        """Tasks that servers take up or drop, and the work that is left at the end of the slot."""
        backlog, asked = carried["backlog"], service.asked
        server = allocation.server.clamp(max=backlog.shape[1] - 1)  # no hit is beyond the servers
        cycles = table.cycles_asked(slot.requests).to(WORK)
        if table.offloaded_share is not None:
            cycles = table.offloaded_share.to(WORK) * cycles
        wanted = service.hit & service.on_time if self.late == "dropped" else service.hit
        # Of users of one server, who share its band: so many bits take longer, the less is had of it.
        sent = table.bits_asked(slot.requests) / (allocation.bandwidth_share * service.spectral_efficiency)
        before = _work_before(cycles * wanted, server, sent, backlog.shape[1]) + backlog.gather(1, server)
        admitted = wanted & (before + cycles <= MOST_FILLED * carried["room"].gather(1, server))
        dropped = service.hit & ~admitted
        service = service._replace(
            latency=service.latency.masked_fill(dropped, self.dropped_s),
            hit=admitted,
            on_time=service.on_time & ~dropped,
            dropped=service.dropped | dropped,
        )
        new = sum_per_server(cycles * admitted, server, backlog.shape[1])
        done = torch.minimum(backlog + new, self.slot_s * table.compute_hz.to(WORK))
        late = (cycles + sent > 0) & ~service.on_time & ~dropped  # and not dropped by others
        found = {"arrived": asked, "admitted": admitted, "dropped": dropped, "late": late}
        found |= {"admitted_cycles": new, "served_cycles": done}
        counts = {name: carried[name] + value.sum(dim=-1) for name, value in found.items()}
        return {"backlog": backlog + new - done, "room": carried["room"]} | counts, service

    def shown(self, table: Constants, slot: Slot, carried: Memory) -> Memory:
        """How long the work that is left takes at the speed that views show."""
        assert table.waiting_s is not None
        return {"backlog_s": table.waiting_s}


def _draws(world: World, generator: torch.Generator) -> Float[Tensor, "batch user"]:
    shape = (world.num_envs, world.scenario.num_users)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _work_before(
    work: Float[Tensor, "batch user"],
    server: Tensor,
    when: Float[Tensor, "batch user"],
    num_servers: int,
) -> Float[Tensor, "batch user"]:
    """Work of those users of each user's server who come before it: sooner, or as soon and of a lower index."""
    order = when.argsort(dim=1, stable=True)
    order = order.gather(1, server.gather(1, order).argsort(dim=1, stable=True))
    of_server = sum_per_server(work, server, num_servers)
    before = (of_server.cumsum(dim=1) - of_server).gather(1, server)
    ordered = work.gather(1, order)
    until = torch.zeros_like(work).scatter_(1, order, ordered.cumsum(dim=1) - ordered)
    return until - before
