"""What changes by itself in a network: the one protocol of requests, positions, fading, and of what users add."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.decisions import Allocation, extremes
from hadrl_lightning.simulator.fields import Field
from hadrl_lightning.simulator.state import Service, Slot

STATE = torch.float32
"""Number format of what moving users and their links remember, whatever that of the networks: the same in all."""
Memory = Mapping[str, Tensor]
"""What a process knows of every network, [B, …] each. Entries that it `brings` are part of the slot."""


class World(NamedTuple):
    """What a process may look at when it draws."""

    scenario: Scenario
    table: Constants
    num_envs: int
    """B, the networks that are drawn for."""
    device: torch.device
    dtype: torch.dtype
    asked: "UsualTasks | None" = None
    """What tasks usually are by the process that brings requests, where that sets them."""
    brought: Memory = MappingProxyType({})
    """For processes that settings name: entries of the slot, in all networks. Of processes that draw before this one
    they are of the slot that is drawn, of those behind it of the slot before, and in the first slot not there."""


class UsualTasks(NamedTuple):
    """What tasks are like in the long run, of all networks or of each, in double precision on the CPU."""

    asking: Float[Tensor, "batch_or_1 1"]
    """Share of the users who have one in a slot."""
    bits: Float[Tensor, "batch_or_1 1"]
    """Its mean input, in parts of that of its service."""
    cycles: Float[Tensor, "batch_or_1 1"]
    """Its mean cycles, in parts of those of its service."""


class Process:
    """One thing that changes by itself, for B networks at once.

    A subclass is a frozen dataclass whose fields are its settings, checked in `__post_init__`, with a line in
    `PROCESSES`; it overrides what it needs. Draws are made on the CPU by the generator that is given, never depend on
    what was decided, and are made for all networks before ranks take their share. Two policies with the same seed so
    meet the same world.
    """

    brings: ClassVar[tuple[str, ...]] = ()
    """Entries of its memory that are part of the slot: `requests`, `positions` and `fading`, of which it then takes the
    place of the usual process, or others, which are in `Slot.more`."""
    known: ClassVar[bool] = True
    """Whether a slot's draws are made before its decision; else when it is served."""
    hidden: ClassVar[bool] = False
    """Whether no view shows what `adjusted` changes: it holds when a slot is served, and for references, which know the
    truth."""
    order: ClassVar[int] = 0
    """Its place among those that add to the usual ones: who goes by what others change, such as the speed of servers,
    has a larger number. Of equals the order of the settings holds."""
    carries_work: ClassVar[bool] = False
    """Whether a decision counts in later slots too, by the work that it leaves to them."""
    by_popularity: ClassVar[bool] = False
    """Of a process that brings `requests`: whether they are drawn by the scenario's popularity, in every slot alike.
    One of another popularity brings it as `popularity`, [B, K], for references."""
    has_parts: ClassVar[bool] = False
    """Whether a setting `part` says which part of its time is played: one of `train`, `validation` and `test`. Where
    that is none, those who judge set it, and without it training is played."""
    draws_first: ClassVar[bool] = False
    """Whether it draws before all others of a slot, which may go by what it brings."""
    fields: ClassVar[Mapping[str, Field]] = {}
    """Further fields of the view of the fast level, by name, which `shown` fills."""
    targets: ClassVar[tuple[str, ...]] = ()
    """What tasks can be offloaded to beyond the servers, in words, as the physics names them (`Rules.serves_beyond`).
    In views of the fast level they stand behind the servers."""

    @property
    def sets_tasks(self) -> bool:
        """Whether `adjusted` sets sizes of tasks, of which some may be 0: the users have no task then."""
        return False

    def check(self, scenario: Scenario) -> None:
        """Say what does not fit this scenario before anything is played, such as a file with other users.

        Where numbers of servers, users or services are ranges, it is asked for the least and the largest ones too.

        Raises:
            ValueError: it does not fit; users read it after the name of the process, and an OSError too.
        """

    # What is drawn ---------------------------------------------------------------------------------------------------

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The memory in the first slot of an episode."""
        return {}

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The memory in the next slot."""
        return memory

    def past(self, world: World, memory: Memory, num_slots: int, generator: torch.Generator) -> Memory:
        """What is on record of so many slots before an episode: `requests`, how often each service was asked for.

        Counts, [B, K]; nothing where none are kept. `memory` is that of the first slot, in which the past ends.
        """
        return {}

    def usual_tasks(
        self, table: Constants, num_users: int, asked: "UsualTasks | None" = None
    ) -> "UsualTasks | None":
        """What tasks are like in the long run where it `sets_tasks`, for who looks beyond a slot; None: as usual.

        `asked` is the same of another process that brings requests, on top of which this one comes.
        """
        return None

    def changed(self, before: Memory, after: Memory) -> Bool[Tensor, " batch"] | None:
        """Where the world is another one than a slot before, [B], for who asks how long it takes to get over that.

        What goes up and down in every slot, such as fading, is no change. None: there is never one.
        """
        return None

    # What follows from it --------------------------------------------------------------------------------------------

    def adjusted(self, table: Constants, slot: Slot, carried: Memory) -> Constants:
        """The constants that hold in a slot, such as servers that have slowed down, by what is carried into it."""
        return table

    def carried(self, table: Constants, batch: int) -> Memory:
        """What is carried from slot to slot and depends on decisions, such as a backlog, at the start of an episode."""
        return {}

    def served(
        self, table: Constants, slot: Slot, carried: Memory, allocation: Allocation, service: Service
    ) -> tuple[Memory, Service]:
        """What is carried on after a slot was served, and what became of the service by what was carried so far.

        `table` is what held in the slot.
        """
        return carried, service

    def shown(self, table: Constants, slot: Slot, carried: Memory) -> Memory:
        """The `fields` of the view of the fast level; those of servers for further targets too, or as usual there.

        `table` is what holds in the slot, as far as views may show it, with users' homes as `cells`.
        """
        return {}


def check_brought(name: str, process: Process, memory: Memory, world: World) -> None:
    """Refuse what a process has drawn if it is not what it `brings`.

    Raises:
        HadrlError: an entry is missing, has another shape, is not finite, or asks for a service that is not there.
    """
    users = (world.num_envs, world.scenario.num_users)
    shapes = {"requests": users, "positions": (*users, 2), "fading": users}
    for entry in process.brings:
        if entry not in memory:
            raise HadrlError(
                f"processes.{name} must give {entry}, which it brings, got {', '.join(memory) or 'nothing'}"
            )
        found = tuple(memory[entry].shape)
        if found != shapes.get(entry, (world.num_envs, *found[1:])):
            expected = ", ".join(map(str, shapes.get(entry, (world.num_envs, "…"))))
            raise HadrlError(f"processes.{name} must give {entry} of shape [{expected}], got {list(found)}")
        if entry in ("positions", "fading"):
            _check_drawn(name, entry, *extremes(memory[entry]))
    if "requests" in process.brings:
        asked, last = memory["requests"], world.scenario.num_services - 1
        if asked.is_floating_point() or bool(((asked < 0) | (asked > last)).any()):
            ends = (
                f"{asked.min().item():g} to {asked.max().item():g}, {asked.dtype}"
                if asked.numel()
                else asked.dtype
            )
            raise HadrlError(
                f"processes.{name} must give requests of whole numbers from 0 to {last}, got {ends}"
            )


def _check_drawn(name: str, entry: str, least: float, largest: float) -> None:
    """Refuse positions and fading by their least and largest number."""
    wrong = [value for value in (least, largest) if not math.isfinite(value)]
    if wrong:
        raise HadrlError(f"processes.{name} must give {entry} that is finite, got {wrong[0]:g}")
    if entry == "fading" and least < 0:
        raise HadrlError(f"processes.{name} must give fading that is not negative, got {least:g}")


def check_past(name: str, past: Memory, world: World) -> None:
    """Refuse what is no record of requests.

    Raises:
        HadrlError: it is of another shape, or holds something else than counts.
    """
    counts, shape = past["requests"], [world.num_envs, world.scenario.num_services]
    if list(counts.shape) != shape:
        raise HadrlError(
            f"processes.{name} must tell past requests of shape {shape}, got {list(counts.shape)}"
        )
    least, most = extremes(counts)
    if not 0 <= least <= most < math.inf:
        raise HadrlError(
            f"processes.{name} must tell past requests that are finite and not negative, got {least:g} to {most:g}"
        )


def check_shown(
    name: str, process: Process, shown: Memory, scenario: Scenario, batch: int, beyond: int = 0
) -> None:
    """Refuse what a process shows if it is not its `fields`.

    Raises:
        HadrlError: one is missing, is not declared, or has another shape.
    """
    if shown.keys() != process.fields.keys():
        expected, found = (", ".join(one) or "nothing" for one in (process.fields, shown))
        raise HadrlError(f"processes.{name} must show {expected}, got {found}")
    for entry, value in shown.items():
        shape = [batch, *process.fields[entry].shape(scenario)]
        whole = [batch, *replace(process.fields[entry], beyond=beyond).shape(scenario)]
        if list(value.shape) not in (shape, whole):
            raise HadrlError(f"processes.{name} must show {entry} of shape {shape}, got {list(value.shape)}")


def usual_tasks_of(
    processes: Mapping[str, Process], table: Constants, num_users: int
) -> dict[str, UsualTasks]:
    """What tasks are like in the long run by each process that sets them; that of requests comes first."""
    found: dict[str, UsualTasks] = {}
    asked: UsualTasks | None = None
    for name, process in processes.items():
        usual = process.usual_tasks(table, num_users, asked)
        if usual is not None:
            found[name] = usual
            asked = usual if "requests" in process.brings else asked
    return found
