"""How the processes of B networks unfold from slot to slot."""

import zlib
from dataclasses import field, make_dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.fields import USER, Field, fields_of, number
from hadrl_lightning.simulator.processes import (
    USUAL,
    Memory,
    Process,
    UsualTasks,
    World,
    check_brought,
    check_past,
    processes_of,
    targets_beyond,
    usual_tasks_of,
)
from hadrl_lightning.simulator.randomness import Use, make_generator, restore_generator, seed_aside
from hadrl_lightning.simulator.state import Slot
from hadrl_lightning.simulator.views import OffloadingView


@lru_cache(maxsize=64)
def offloading_view_of(scenario: Scenario) -> type[OffloadingView]:
    """The class of the fast level's views: with the fields that the scenario's processes add, if they add any.

    Raises:
        ValueError: two fields have the same name.
    """
    further: dict[str, Field] = {}
    idle_users = False
    taken = {one.name for one in fields_of(OffloadingView)}
    for name, process in processes_of(scenario, check=False).items():
        for entry, declared in process.fields.items():
            if entry in taken or entry in further:
                raise ValueError(f"processes.{name} must show a field of a new name, got {entry}")
            further[entry] = declared
        idle_users |= process.sets_tasks
    if scenario.preferences.missed:
        if "deadline_s" in further:
            raise ValueError(
                "preferences.missed needs the name deadline_s, got a process that shows a field of it"
            )
        further["deadline_s"] = Field(
            axes=(USER,), text="deadline of user {}", unit="s", in_token=False, in_vector=False, usual=0.0
        )
    beyond = len(targets_beyond(scenario))
    if not (further or beyond or idle_users):
        return OffloadingView
    return _view_with(tuple(further.items()), beyond, idle_users)


@lru_cache(maxsize=64)
def _view_with(further: tuple[tuple[str, Field], ...], beyond: int, idle_users: bool) -> type[OffloadingView]:
    """The class of views with further fields and targets, of users who may be idle: one for networks of any sizes."""
    declared_fields = [
        (entry, Tensor, field(metadata=number(*one.axes, **_without_axes(one)))) for entry, one in further
    ]
    more = {"__doc__": OffloadingView.__doc__, "beyond": beyond, "idle_users": idle_users}
    return make_dataclass(
        OffloadingView.__name__, declared_fields, bases=(OffloadingView,), namespace=more, eq=False
    )


def _without_axes(declared: Field) -> dict[str, Any]:
    return {name: value for name, value in vars(declared).items() if name not in ("axes", "name")}


class Unfolding:
    """The processes of some networks, what they remember, and the slot that they bring about.

    Processes of requests, positions and fading draw from the generator of the networks, one after the other. Every
    further process has a stream of its own, spawned from it, so that it changes nothing of the others' draws.

    Args:
        world: the networks.
        generator: of the networks.
        rows: the networks that are simulated here; draws are made for all.
    """

    def __init__(self, world: World, generator: torch.Generator, rows: slice = slice(None)) -> None:
        self.world = world
        self.generator = generator
        self.rows = rows
        self.processes: dict[str, Process] = processes_of(world.scenario)
        self._drawing = sorted(self.processes.items(), key=lambda one: not one[1].draws_first)
        self.memory: dict[str, Memory] = {}
        self._streams: dict[str, torch.Generator] = {}
        self._usual: dict[str, UsualTasks] = {}
        self.slot: Slot
        """What is the case in the networks simulated here.

        What is drawn when a slot is served stays from the slot before until then.
        """
        self.changed: Tensor
        """Where the world is another one than in the slot before, by what is known of the coming slot: bool [B], of all
        networks. Nowhere in the first slot."""
        self.spawn()

    def spawn(self) -> None:
        """Give each further process a stream by the state that the networks' generator has now."""
        further = [name for name, one in self.processes.items() if not set(one.brings) & set(USUAL)]
        if not further:
            return
        seed = seed_aside(self.generator)
        self._streams = {
            name: make_generator(seed, Use.PROCESSES, zlib.crc32(name.encode())) for name in further
        }

    def begin(self, scenario: Scenario, table: Constants) -> None:
        """Draw what is known of the first slot of an episode of networks of a scenario, with these constants."""
        self._usual = usual_tasks_of(self.processes, table, scenario.num_users)
        asked = next(
            (one for name, one in self._usual.items() if "requests" in self.processes[name].brings), None
        )
        self.world = self.world._replace(scenario=scenario, table=table, asked=asked)
        self.memory = {}
        self._draw(known=True)

    def past_requests(self) -> Tensor | None:
        """How often each service was asked for before the episode, [B, K]; None where that is not on record."""
        slots = self.world.scenario.history_slots
        generator = make_generator(seed_aside(self.generator), Use.HISTORY) if slots else None
        for name, process in self.processes.items():
            if generator is not None and "requests" in process.brings:
                past = process.past(self.world, self.memory[name], slots, generator)
                if "requests" not in past:
                    return None
                if name in self.world.scenario.processes:
                    check_past(name, past, self.world)
                counts = self._of_tasks(name, past["requests"], generator)
                return counts.to(self.world.device, self.world.dtype)
        return None

    def _of_tasks(self, told_by: str, counts: Tensor, generator: torch.Generator) -> Tensor:
        """What was asked for by those who had a task, of what a process tells that users would have asked for."""
        for name, usual in self._usual.items():
            if name != told_by:  # whose record is of tasks
                counts = counts.cpu().double()
                counts = torch.binomial(counts, usual.asking.expand_as(counts), generator=generator)
        return counts

    def serve(self) -> None:
        """Draw what is not known before a slot is served."""
        self._draw(known=False)

    def advance(self) -> None:
        """Draw what is known of the next slot."""
        self._draw(known=True)

    def foreseen(self) -> Slot:
        """The coming slot as it will be when it is served, for references that know the future."""
        return self.coming(1)[0]

    def coming(self, slots: int) -> list[Slot]:
        """So many coming slots (1 at least) as they will be when they are served."""
        memory, generators = dict(self.memory), [self.generator, *self._streams.values()]
        states = [generator.get_state() for generator in generators]
        now = self.slot, self.changed
        found = []
        for index in range(slots):
            if index:
                self.advance()
            self.serve()
            found.append(self.slot)
        self.memory, (self.slot, self.changed) = memory, now
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        return found

    def slot_of(self, rows: slice) -> Slot:
        """What is the case in some of all networks."""
        brought = self._brought()
        if rows != slice(None):
            brought = {entry: value[rows] for entry, value in brought.items()}
        usual = {entry: brought.pop(entry) for entry in USUAL if entry in brought}
        return Slot(**usual, more=brought)

    def _brought(self) -> dict[str, Tensor]:
        """Entries of the slot, as far as they are drawn, in all networks."""
        brought: dict[str, Tensor] = {}
        for name, memory in self.memory.items():
            entries = self.processes[name].brings
            brought.update({entry: memory[entry] for entry in entries if entry in memory})
        return brought

    def _draw(self, known: bool) -> None:
        if known:
            self.changed = self._nowhere()
        for name, process in self._drawing:
            if process.known != known:
                continue
            named = name in self.world.scenario.processes
            world = self.world._replace(brought=self._brought()) if named else self.world
            generator = self._streams.get(name, self.generator)
            before = self.memory.get(name)
            if before is None:
                self.memory[name] = process.initial(world, generator)
            else:
                self.memory[name] = process.advance(world, before, generator)
                found = process.changed(before, self.memory[name]) if known else None
                if found is not None:
                    self.changed = self.changed | found.to(self.world.device)
            if named:
                check_brought(name, process, self.memory[name], world)
        self.slot = self.slot_of(self.rows)

    def _nowhere(self) -> Tensor:
        return torch.zeros(self.world.num_envs, dtype=torch.bool, device=self.world.device)

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, and the streams of further processes."""
        return {
            "memory": {
                name: {entry: value.clone() for entry, value in one.items()}
                for name, one in self.memory.items()
            },
            "streams": {name: stream.get_state() for name, stream in self._streams.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what was saved.

        Raises:
            ValueError: it belongs to another number of networks or users, or to other processes.
        """
        saved = state_dict["memory"]
        if not set(saved) <= set(self.processes):
            raise ValueError(f"processes must be {', '.join(saved)}, got {', '.join(self.processes)}")
        for name, one in self.memory.items():
            for entry, value in one.items():
                found = saved.get(name, {}).get(entry, value)
                if found.shape != value.shape:
                    raise ValueError(f"{entry} must have shape {list(value.shape)}, got {list(found.shape)}")
        self.memory = {
            name: {entry: value.to(self.world.device, copy=True) for entry, value in one.items()}
            for name, one in saved.items()
        }
        self.slot, self.changed = self.slot_of(self.rows), self._nowhere()
        for name, state in state_dict["streams"].items():
            restore_generator(self._streams[name], state)
