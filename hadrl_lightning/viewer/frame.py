"""What a slot looks like: the first of the networks as plain data, before a slot is served and after it."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.play import PlayedSlot, slot_scores, task_cost
from hadrl_lightning.simulator import EdgeNetwork, Service, switching_cost, terms
from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.processes import Queues

Array = np.ndarray
"""Of NumPy."""
OUTCOMES = ("hit", "cloud", "device", "dropped", "idle", "asks")
"""What becomes of a user in a slot: served from a cache, by the cloud (past servers or through the one that lacks the
service), on its own device, or dropped; without a task; and, before the slot is served, with one."""


class Users(NamedTuple):
    """The users of a network in a slot."""

    at_m: Float[Array, "user 2"]
    """(x, y), m."""
    before_m: Float[Array, "user 2"]
    """Where they were in the slot before, m; where nobody moves from there the same as `at_m`."""
    service: Int[Array, " user"]
    home: Int[Array, " user"]
    """The server whose radio each uses."""
    target: Int[Array, " user"]
    """Where the task went, as in an `Allocation`; -1 before the slot is served."""
    outcome: Int[Array, " user"]
    """Index in `OUTCOMES`."""
    latency_s: Float[Array, " user"]
    deadline_s: Float[Array, " user"]
    on_time: Bool[Array, " user"]
    energy: Float[Array, " user"]
    """In `Scene.energy_unit`."""
    handed_over: Bool[Array, " user"]
    """Whose home has changed since the slot before."""


class Servers(NamedTuple):
    """The servers of a network in a slot."""

    at_m: Float[Array, "server 2"]
    """(x, y), m."""
    cache: Bool[Array, "server service"]
    new: Bool[Array, "server service"]
    """Of these, what was fetched for this slot."""
    filled: Float[Array, " server"]
    """Which part of its usable cache is taken."""
    tasks: Int[Array, "server outcome"]
    """Tasks that came to each, by what became of them."""
    bandwidth_load: Float[Array, " server"]
    """Sum of the shares: 1 is its capacity."""
    compute_load: Float[Array, " server"]
    backlog_s: Float[Array, " server"] | None
    """Work that is left at the end of the slot, in s of full speed; None where none is carried over."""
    speed: Float[Array, " server"] | None
    """Part of its full speed that a server truly had; None where none slows down."""


class Scene(NamedTuple):
    """A slot of a network."""

    slot: int
    """From 0 on in an episode."""
    num_slots: int
    decision: int
    """The caching decision that holds, from 0 on in an episode; -1 before the first."""
    num_decisions: int
    users: Users
    servers: Servers
    links: tuple[tuple[int, int], ...]
    """Servers that a link joins; none where paths between servers cost nothing."""
    cell_radius_m: float
    buffer_s: float | None
    """Work that a server keeps at most, in s of full speed, where any is carried over."""
    energy_unit: str
    has_devices: bool
    """Whether tasks may stay on users' devices."""
    moves: bool
    """Whether users move from slot to slot, and are not somewhere else in each."""
    idles: bool
    """Whether users may be without a task."""
    weighed: bool
    """Whether preferences weigh more than latency."""
    numbers: dict[str, float]
    """The `SlotScores`, how many `tasks` there were, what it `cost` by the preferences with fetching, how many were
    `dropped`, and how many users changed their home (`handovers`); none before the slot is served."""

    def shown_numbers(self) -> dict[str, str]:
        """What a viewer reads of the slot: its numbers with their units, by what they are called; empty before it."""
        found = self.numbers or defaultdict(float)
        tasks = found["tasks"]
        shown = {
            "Σ latency": f"{found['latency']:.2f} s",
            "of a task": f"{found['latency'] / max(tasks, 1):.3f} s",
            "hits": f"{found['hits']:.0f} of {tasks:.0f}",
            "in time": f"{found['on_time'] * tasks:.0f} of {tasks:.0f}",
            "energy": f"{found['energy']:.3g} {self.energy_unit}",
            "switching": f"{found['switching']:.1f} s",
        }
        if self.weighed:
            shown["cost"] = f"{found['cost']:.2f}"
        if self.servers.backlog_s is not None or self.has_devices:
            shown["dropped"] = f"{found['dropped']:.0f}"
        if self.moves:
            shown["handovers"] = f"{found['handovers']:.0f}"
        return shown if self.numbers else dict.fromkeys(shown, "")


def extent(scenes: Iterable[Scene]) -> Float[Array, "end axis"]:
    """Least and largest (x, y) of users and of cells, m."""
    points = []
    for one in scenes:
        at, radius = one.servers.at_m, one.cell_radius_m
        points += [one.users.at_m, one.users.before_m, at - radius, at + radius]
    everything = np.concatenate(points)
    return np.stack((everything.min(axis=0), everything.max(axis=0)))


class Watcher:
    """Looks at the first of some networks, slot after slot.

    Args:
        network: the networks; it changes nothing in them.
    """

    def __init__(self, network: EdgeNetwork) -> None:
        self._network = network
        self._before: Scene | None = None

    def coming(self) -> Scene:
        """The slot that comes next, in which nothing is decided yet but, where they are, the caches."""
        network = self._network
        if network.slot == 0:
            self._before = None
        held, requests = network.present, network.requests
        idle = held.idle(requests)
        asks = torch.full_like(requests, OUTCOMES.index("asks"))
        outcome = asks if idle is None else asks.masked_fill(idle, OUTCOMES.index("idle"))
        nothing = torch.zeros(requests.shape, dtype=torch.float64)
        loads = torch.zeros(len(requests), network.scenario.num_servers)
        no = nothing > 0
        service = Service(nothing, no, no, nothing, loads, loads, nothing, no, no, nothing)
        deadline = held.deadlines_asked(requests).expand_as(requests)
        target = torch.full_like(requests, -1)
        seen = _Seen(held, requests, network.positions, network.homes, target, outcome, service, deadline)
        return self._scene(seen, network.slot, {})

    def served(self, played: PlayedSlot[Any, Any]) -> Scene:
        """The slot just served; to be asked before the next caching decision."""
        network, service = self._network, played.service
        if network.slot == 1:
            self._before = None
        held = network.held
        known = terms(network.rules, held, played.requests, played.allocation)
        outcome = _outcomes(network, played)
        target, home = played.allocation.server, known.home.expand_as(played.requests)
        seen = _Seen(
            held, played.requests, played.positions, home, target, outcome, service, known.deadline_s
        )
        numbers = {
            name: float(value[0])
            for name, value in slot_scores(service, self._switching(network))._asdict().items()
        }
        numbers["tasks"] = float(service.asked[0].sum())
        wanted = network.scenario.preferences
        numbers["cost"] = (
            float(task_cost(wanted, service)[0].sum()) + wanted.switching_s * numbers["switching"]
        )
        numbers["dropped"] = float((outcome[0] == OUTCOMES.index("dropped")).sum())
        scene = self._scene(seen, network.slot - 1, numbers)
        numbers["handovers"] = float(scene.users.handed_over.sum())
        self._before = scene
        return scene

    def _switching(self, network: EdgeNetwork) -> Tensor:
        """Cost of the decision before the slot just served, where it was the first of its frame, [B]."""
        if (network.slot - 1) % network.scenario.slots_per_decision:
            return torch.zeros(network.num_envs)
        before = torch.zeros_like(network.cache)
        if self._before is not None:
            before[0] = torch.from_numpy(self._before.servers.cache)
        return switching_cost(network.scenario, before, network.cache, network.table)

    def _scene(self, seen: "_Seen", slot: int, numbers: dict[str, float]) -> Scene:
        network = self._network
        processes = network.unfolding.processes
        named = [one for name, one in processes.items() if name in network.scenario.processes]
        moves = any("positions" in one.brings for one in named)
        buffers = [one.buffer_s for one in named if isinstance(one, Queues)]
        scenario = network.scenario
        return Scene(
            slot=slot,
            num_slots=scenario.slots_per_episode,
            decision=network.decision - 1,
            num_decisions=scenario.decisions_per_episode,
            users=self._users(seen, moves),
            servers=self._servers(seen),
            links=_links(network, seen.held),
            cell_radius_m=float(scenario.cell_radius_m),
            buffer_s=float(buffers[0]) if buffers else None,
            energy_unit=network.rules.energy_unit,
            has_devices=seen.held.device_hz is not None,
            moves=moves,
            idles=seen.held.idle(seen.requests) is not None,
            weighed=not scenario.preferences.latency_alone,
            numbers=numbers,
        )

    def _users(self, seen: "_Seen", moves: bool) -> Users:
        at, home, before = _of_first(seen.positions), _of_first(seen.home), self._before
        changes = "handed_over" in self._network.unfolding.slot.more and before is not None
        return Users(
            at_m=at.astype(float),
            before_m=before.users.at_m if moves and before is not None else at.astype(float),
            service=_of_first(seen.requests),
            home=home,
            target=_of_first(seen.target),
            outcome=_of_first(seen.outcome),
            latency_s=_of_first(seen.service.latency.double()),
            deadline_s=_of_first(seen.deadline_s.double()),
            on_time=_of_first(seen.service.on_time),
            energy=_of_first(seen.service.energy.double()),
            handed_over=home != before.users.home if changes and before is not None else home < 0,
        )

    def _servers(self, seen: "_Seen") -> Servers:
        network, held = self._network, seen.held
        num_servers = network.scenario.num_servers
        cache = _of_first(network.cache)
        before = None if self._before is None else self._before.servers
        usable = held.usable_cache_bits.double()
        taken = held.bits_of(network.cache.double()).double() / usable.clamp(min=1)
        full_hz = network.table.compute_hz.double()
        tasks = np.zeros((num_servers, len(OUTCOMES)), dtype=np.int64)
        has_task = seen.outcome != OUTCOMES.index("idle")
        came = _of_first((seen.target >= 0) & (seen.target < num_servers) & has_task)
        np.add.at(tasks, (_of_first(seen.target)[came], _of_first(seen.outcome)[came]), 1)
        carried, processes = network.state.carried, network.unfolding.processes
        work = [carried[name]["backlog"] for name, one in processes.items() if isinstance(one, Queues)]
        slows = "server_speed" in network.unfolding.slot.more
        return Servers(
            at_m=_numbers(held.servers_m, num_servers * 2).reshape(num_servers, 2),
            cache=cache,
            new=cache & ~before.cache if before is not None else cache,
            filled=_numbers(taken, num_servers),
            tasks=tasks,
            bandwidth_load=_numbers(seen.service.bandwidth_load, num_servers),
            compute_load=_numbers(seen.service.compute_load, num_servers),
            backlog_s=_numbers(work[0] / full_hz, num_servers) if work else None,
            speed=_numbers(held.compute_hz.double() / full_hz, num_servers) if slows else None,
        )


class _Seen(NamedTuple):
    """A slot of all networks."""

    held: Constants
    requests: Tensor
    positions: Tensor
    home: Tensor
    target: Tensor
    outcome: Tensor
    service: Service
    deadline_s: Tensor


def _of_first(values: Tensor) -> Any:
    """What is of the first network."""
    return values[0].detach().cpu().numpy()


def _numbers(values: Tensor, size: int) -> Any:
    """The first numbers, in double precision, of what may be of all networks together or of each."""
    return values.detach().cpu().double().flatten()[:size].numpy()


def _outcomes(network: EdgeNetwork, played: PlayedSlot[Any, Any]) -> Int[Tensor, "batch user"]:
    """What became of every user, [B, U]."""
    service, target = played.service, played.allocation.server
    outcome = torch.where(service.hit, OUTCOMES.index("hit"), OUTCOMES.index("cloud"))
    if network.held.device_hz is not None:
        outcome[target == network.scenario.num_servers] = OUTCOMES.index("device")
    outcome[service.dropped] = OUTCOMES.index("dropped")
    outcome[~service.asked] = OUTCOMES.index("idle")
    return outcome


def _links(network: EdgeNetwork, held: Constants) -> tuple[tuple[int, int], ...]:
    """Servers whose quickest path passes no other one: those that a link joins which anyone takes."""
    if held.path_delay_s is None or held.path_s_per_bit is None:
        return ()
    bits = float(held.usual_bits.flatten()[0])
    cost = _of_first(held.path_delay_s.double() + bits * held.path_s_per_bit.double())
    servers = range(len(cost))
    return tuple(
        (one, other)
        for one in servers
        for other in servers
        if one < other
        and not any(
            cost[one, by] + cost[by, other] <= cost[one, other] * (1 + 1e-6)
            for by in servers
            if by not in (one, other)
        )
    )
