"""Requests, moves and gains of files, slot by slot: networks begin anywhere in the part of the time that is theirs."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hadrl_lightning.move_files import Gains, GainSettings, Moves, MoveSettings
from hadrl_lightning.request_files import ROUNDING, Requests, RequestSettings
from hadrl_lightning.scenario import BITS_PER_BYTE, Scenario
from hadrl_lightning.simulator.constants import Constants, of_each
from hadrl_lightning.simulator.processes.process import Memory, Process, UsualTasks, World
from hadrl_lightning.simulator.processes.usual import counted, requested
from hadrl_lightning.simulator.state import Slot
from hadrl_lightning.trace_files import PARTS, Part, bounds_of

CLOCKS = {"file_time_s": "requests_of_file", "moved_time_s": "moves_of_file"}
"""Entries of the slot that say which time of a file it is, and who brings them."""
TASKS = ("task_bits", "task_cycles", "task_deadlines_s")
"""What a file says of the task of each user, [B, U]; nothing of one who is idle."""


@dataclass(frozen=True)
class RequestsOfFile(RequestSettings, Process):
    """What a file says of who asks for what. Without services in the file, they are drawn by the scenario's popularity.

    With `slot_s` a user who has no request in a slot is idle.
    """

    has_parts = True

    @property
    def by_popularity(self) -> bool:  # type: ignore[override]
        """Where the file does not say what is asked for."""
        return self.services == ()

    @property
    def sets_tasks(self) -> bool:
        """Where users may be idle, or requests have sizes of their own."""
        return self.slot_s is not None or bool(self.own_sizes())

    @property
    def brings(self) -> tuple[str, ...]:  # type: ignore[override]
        """With tasks, where it sets them."""
        return ("requests", "file_time_s", *(TASKS if self.sets_tasks else ()))

    def usual_tasks(
        self, table: Constants, num_users: int, asked: UsualTasks | None = None
    ) -> UsualTasks | None:
        """What the training part has: how many users ask in a slot, and the mean sizes in parts of the usual mean."""
        if not self.sets_tasks:
            return None
        services = table.popularity.shape[-1]
        asking, sums, lacking = _kept(
            self, ("usual", num_users, services), lambda: self._record(num_users, services)
        )
        popularity = table.popularity.cpu()
        means = []
        for name, of_service in (("input_bytes", table.input_bits / BITS_PER_BYTE), ("cycles", table.cycles)):
            size = of_service.cpu().double()
            mean = (popularity * size).sum(-1, keepdim=True)
            usual = (lacking[name] * (mean if self.services == () else size)).sum(-1, keepdim=True)
            means.append(((sums[name] + usual) / mean).view(-1, 1))
        return UsualTasks(asking, *means)

    def _record(self, num_users: int, services: int) -> tuple[Tensor, dict[str, float], dict[str, Tensor]]:
        """Of the training part: the share of users who ask, mean sizes, and the share of each service without them."""
        trace = _kept(self, (num_users, services), lambda: self.load(num_users, services))
        part = bounds_of(trace.num_slots, self.parts, "train")
        asked = max(1, int(trace.starts[part[1]] - trace.starts[part[0]]))
        asking = torch.tensor([[asked / max(1, (part[1] - part[0]) * num_users)]], dtype=torch.float64)
        names = ("input_bytes", "cycles")
        sums = {name: trace.sum(name, *part) / asked for name in names}
        lacking = {name: torch.from_numpy(trace.lacking(name, *part, services) / asked) for name in names}
        return asking, sums, lacking

    def check(self, scenario: Scenario) -> None:
        """Places and services must be as many as are named, and each part longer than an episode."""
        _require_fixed(scenario, "num_users", "num_services")
        for name, names in (("num_users", self.users), ("num_services", self.services)):
            _check_number(scenario, name, names)
        trace = self._trace(scenario)
        _check_parts(self, trace.num_slots, scenario)

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The first requests: from any slot on after which there are enough for an episode."""
        trace = self._trace(world.scenario)
        return self._memory(world, trace, _begun(self, trace.num_slots, world, generator), generator)

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The requests of the next slot of the file."""
        return self._memory(world, self._trace(world.scenario), memory["place"].cpu() + 1, generator)

    def past(self, world: World, memory: Memory, num_slots: int, generator: torch.Generator) -> Memory:
        """How often each service was asked for in the slots of the file before, as far as they are of the part."""
        trace, services = self._trace(world.scenario), world.scenario.num_services
        first = bounds_of(trace.num_slots, self.parts, self.part or "train")[0]
        counts = np.stack(
            [
                trace.counts(max(first, place - num_slots), place, services)
                for place in memory["place"].tolist()
            ]
        )
        if trace.service is None:
            asked = torch.from_numpy(counts[:, 0])
            return {"requests": counted(world, world.table.popularity_cdf, asked, generator)}
        return {"requests": torch.from_numpy(counts).to(world.device, world.dtype)}

    def adjusted(self, table: Constants, slot: Slot, carried: Memory) -> Constants:
        """The tasks of the slot: nothing of users who are idle, and what requests have of their own."""
        if TASKS[0] not in slot.more:
            return table
        return table._replace(**{name: slot.more[name].to(table.input_bits.dtype) for name in TASKS})

    def _trace(self, scenario: Scenario) -> Requests:
        sizes = scenario.num_users, scenario.num_services
        return _kept(self, sizes, lambda: self.load(*sizes))

    def _memory(self, world: World, trace: Requests, place: Tensor, generator: torch.Generator) -> Memory:
        at = place.numpy()
        found = trace.slots(at)
        if trace.service is None:
            draws = torch.rand(found["asks"].shape, generator=generator, dtype=torch.float64)
            requests = requested(world.table, draws)
        else:
            requests = torch.from_numpy(found["service"])
        requests = requests.to(world.device)
        memory = {
            "requests": requests,
            "place": place.to(world.device),
            "file_time_s": torch.from_numpy(trace.times_s[at]).to(world.device),
        }
        if self.sets_tasks:
            memory |= _tasks(world, requests, found)
        return memory


def _tasks(world: World, requests: Tensor, found: dict[str, Any]) -> dict[str, Tensor]:
    """What each user's task is, [B, U]: of its own where the file says so, else that of the service."""
    table, asks = world.table, torch.from_numpy(found["asks"]).to(world.device)
    usual = (table.input_bits, table.cycles, table.deadlines_s)
    names = (("input_bytes", BITS_PER_BYTE), ("cycles", 1), ("deadline_s", 1))
    tasks = {}
    for task, (name, factor), of_service in zip(TASKS, names, usual, strict=True):
        value = of_each(of_service, requests)
        if name in found:
            own = torch.from_numpy(factor * found[name]).to(world.device, world.dtype)
            value = torch.where(own.isnan(), value, own)
        tasks[task] = value if name == "deadline_s" else value * asks
    return tasks


@dataclass(frozen=True)
class MovesOfFile(MoveSettings, Process):
    """Users are where a file says, on straight lines between the times that it has."""

    brings = ("positions", "path_m", "moved_time_s")
    has_parts = True

    def check(self, scenario: Scenario) -> None:
        """Users can't be fixed, and must be known for longer than an episode."""
        _require_fixed(scenario, "num_users")
        if scenario.user_positions_m is not None:
            raise ValueError("user_positions_m must be none where users move, got fixed users")
        _check_number(scenario, "num_users", self.users)
        moves = self._trace(scenario)
        _check_clock(self, scenario, ("file_time_s",), _number(*_known_s(moves), self.slot_s or 1.0))

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """Where users are in the first slot, and how far they came in the slot before it."""
        moves = self._trace(world.scenario)
        memory, time_s = _clock(self, world, None, _known_s(moves), ("file_time_s",), generator)
        return self._memory(world, memory, time_s, moves, moves.at(time_s - (self.slot_s or 1.0)))

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """Where they are a slot later."""
        moves = self._trace(world.scenario)
        before = moves.at(memory["moved_time_s"].cpu().numpy())
        kept, time_s = _clock(self, world, memory, _known_s(moves), ("file_time_s",), generator)
        return self._memory(world, kept, time_s, moves, before)

    def _trace(self, scenario: Scenario) -> Moves:
        return _kept(self, scenario.num_users, lambda: self.load(scenario.num_users))

    def _memory(
        self, world: World, memory: dict[str, Tensor], time_s: Any, moves: Moves, before: Any
    ) -> Memory:
        at = moves.at(time_s)
        path = np.linalg.norm(at - before, axis=-1)
        found = {"positions": torch.from_numpy(at), "path_m": torch.from_numpy(path)}
        given = {name: value.to(world.device, world.dtype) for name, value in found.items()}
        return memory | given | {"moved_time_s": torch.from_numpy(time_s).to(world.device)}


@dataclass(frozen=True)
class GainsOfFile(GainSettings, Process):
    """Links lose what a file says, until the next time that it has."""

    brings = ("link_loss_db",)
    has_parts = True

    def check(self, scenario: Scenario) -> None:
        """Links must be those of the users and servers, and be known for longer than an episode."""
        _require_fixed(scenario, "num_users", "num_servers")
        _check_number(scenario, "num_users", self.users)
        _check_number(scenario, "num_servers", self.servers)
        gains = self._trace(scenario)
        if len(gains.times_s) > 1:
            _check_clock(self, scenario, tuple(CLOCKS), _number(*self._known_s(gains), self.slot_s or 1.0))

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The links of the first slot."""
        return self._memory(world, None, generator)

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The links a slot later."""
        return self._memory(world, memory, generator)

    def adjusted(self, table: Constants, slot: Slot, carried: Memory) -> Constants:
        """The links of the slot."""
        return table._replace(link_loss_db=slot.more["link_loss_db"].to(table.compute_hz.dtype))

    def _trace(self, scenario: Scenario) -> Gains:
        sizes = scenario.num_users, scenario.num_servers
        return _kept(self, sizes, lambda: self.load(*sizes))

    @staticmethod
    def _known_s(gains: Gains) -> tuple[float, float]:
        return float(gains.times_s[0]), float(gains.times_s[-1])

    def _memory(self, world: World, memory: Memory | None, generator: torch.Generator) -> Memory:
        gains = self._trace(world.scenario)
        if len(gains.times_s) > 1:
            kept, time_s = _clock(self, world, memory, self._known_s(gains), tuple(CLOCKS), generator)
        else:
            kept, time_s = {}, np.zeros(world.num_envs)
        return kept | {"link_loss_db": torch.from_numpy(gains.at(time_s)).to(world.device, world.dtype)}


# What they have in common ---------------------------------------------------------------------------------------------

Settings = RequestSettings | MoveSettings | GainSettings
Kept = TypeVar("Kept")


def _kept(process: Process, key: Hashable, make: Callable[[], Kept]) -> Kept:
    """What a process plays, without a look at its file in every slot."""
    kept: dict[Hashable, Kept] = vars(process).setdefault("_kept", {})
    if key not in kept:
        kept[key] = make()
    return kept[key]


def _require_fixed(scenario: Scenario, *names: str) -> None:
    for name in names:
        if name in scenario.ranges:
            raise ValueError(f"{name} must be one number with a file, got a range")


def _check_number(scenario: Scenario, name: str, names: Sequence[str] | None) -> None:
    number = getattr(scenario, name)
    if names and len(names) != number:
        raise ValueError(f"{name} must be {len(names)}, as many as are named for the file, got {number}")


def _check_parts(settings: Settings, num_slots: int, scenario: Scenario) -> None:
    """A part must be longer than an episode, behind which another slot is seen."""
    slots = scenario.slots_per_episode
    parts: tuple[Part, ...] = (settings.part,) if settings.part is not None else PARTS
    for part in parts:
        first, last = bounds_of(num_slots, settings.parts, part)
        if last - first <= slots:
            raise ValueError(
                f"file must have more slots in its {part} part than an episode, {slots}, got {last - first} of the "
                f"{num_slots} slots of {settings.file}"
            )


def _begun(settings: Settings, num_slots: int, world: World, generator: torch.Generator) -> Tensor:
    """In which slot of the file each network begins, [B]."""
    first, last = bounds_of(num_slots, settings.parts, settings.part or "train")
    starts = last - first - world.scenario.slots_per_episode
    return first + torch.randint(starts, (world.num_envs,), generator=generator)


def _known_s(moves: Moves) -> tuple[float, float]:
    """The first and the last time at which all users are known."""
    begins, ends = moves.ends.T
    return moves.first_s + float(begins.max()), moves.first_s + float(ends.min())


def _number(first_s: float, last_s: float, slot_s: float) -> int:
    """Slots from one time to another."""
    return max(0, math.floor((last_s - first_s) / slot_s + ROUNDING) + 1)


def _check_clock(
    settings: MoveSettings | GainSettings, scenario: Scenario, clocks: Sequence[str], number: int
) -> None:
    """There must be a clock to share, or enough slots."""
    if not settings.shares_clock:
        _check_parts(settings, number, scenario)
    elif not {CLOCKS[one] for one in clocks} & set(scenario.processes):
        whose = " or ".join(CLOCKS[one] for one in clocks)
        raise ValueError(f"shares_clock must be false without {whose}, got true")


def _clock(
    settings: MoveSettings | GainSettings,
    world: World,
    memory: Memory | None,
    known_s: tuple[float, float],
    clocks: Sequence[str],
    generator: torch.Generator,
) -> tuple[dict[str, Tensor], Any]:
    """What is remembered of the time, and which time of the file the slot is in each network, in s, [B]."""
    if settings.shares_clock:
        brought = next(world.brought[one] for one in clocks if one in world.brought)
        return {}, brought.cpu().numpy()
    slot_s = settings.slot_s or 1.0
    if memory is None:
        place = _begun(settings, _number(*known_s, slot_s), world, generator)
    else:
        place = memory["place"].cpu() + 1
    return {"place": place.to(world.device)}, known_s[0] + slot_s * place.numpy()
