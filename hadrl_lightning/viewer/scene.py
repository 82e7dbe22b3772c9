"""What a slot of one network looks like, as plain data: where users are, who served them, what servers hold and do.

Servers, users and services are numbered from 0 on, as everywhere. Nothing here draws, and nothing needs matplotlib.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hadrl_lightning.play import Frame, PlayedSlot, Policies, SlotScores, by_policy, slot_scores
from hadrl_lightning.scenario.scenario import BITS_PER_BYTE, GIB
from hadrl_lightning.simulator import EdgeNetwork
from hadrl_lightning.simulator.constants import Constants

Status = Literal["server", "cloud", "device", "dropped", "idle", "waiting"]
"""Of a user: who served its task (`server`: from a cache), `idle` without a task, `waiting` before the slot."""
Points = tuple[tuple[float, float], ...]


class Sites(NamedTuple):
    """What of a network stays as it is for an episode."""

    servers_m: Points
    """(x, y) of each server, m."""
    radius_m: float
    """Of a cell, which is a square of twice that on a side, m."""
    storage_gib: tuple[float, ...]
    """What each service takes in a cache, GiB."""
    cache_gib: tuple[float, ...]
    """What each server may hold, GiB."""
    num_users: int
    num_slots: int
    """Of an episode."""
    slots_per_decision: int
    energy_unit: str
    """J, or what the physics counts in its place."""
    statuses: tuple[Status, ...]
    """Those that a user can have in a slot that is over."""
    has_backlog: bool
    """Work waits at servers."""
    has_speed: bool
    """Servers slow down."""


class UserScene(NamedTuple):
    """A user in a slot."""

    x_m: float
    y_m: float
    service: int
    """Asked for."""
    home: int
    """The server whose radio it uses."""
    target: int
    """The server that its task went to, -1 for none: own device, cloud past the servers, no task."""
    status: Status
    latency_s: float
    deadline_s: float
    on_time: bool
    energy: float
    """In the unit of `Sites`."""


class ServerScene(NamedTuple):
    """A server in a slot."""

    held: tuple[int, ...]
    """Services in its cache."""
    hits: int
    """Tasks that it served from there."""
    misses: int
    """Tasks that it passed on to the cloud."""
    bandwidth_load: float
    """What is given away of its bandwidth, 1: all."""
    compute_load: float
    """What is given away of its compute, 1: all."""
    backlog_s: float
    """How long its tasks waited for work of the slots before, s."""
    speed: float
    """What it has of its full speed, 1: all."""


class Scene(NamedTuple):
    """One network in one slot."""

    slot: int
    """Slots of the episode that are over, this one included; 0: none yet."""
    frame: int
    """Caching decisions so far."""
    users: tuple[UserScene, ...]
    servers: tuple[ServerScene, ...]
    scores: dict[str, float]
    """The fields of `SlotScores`, and `tasks`: users who had one."""


def sites_of(network: EdgeNetwork) -> Sites:
    """The first of the networks, in the episode at hand."""
    own, now, exact = network.scenarios[0], network.present, network.exact
    statuses: list[Status] = ["server", "cloud"]
    queued, device = now.waiting_s is not None, now.device_hz is not None
    statuses += ["device"] if device else []
    statuses += ["dropped"] if queued or now.off is not None else []
    statuses += ["idle"] if now.task_cycles is not None or now.off is not None else []
    published = network.rules.energy_column.endswith("dbm_s")
    return Sites(
        servers_m=tuple((x, y) for x, y in _first(exact.servers_m, 2)),
        radius_m=float(own.cell_radius_m),
        storage_gib=tuple(bits / BITS_PER_BYTE / GIB for bits in _first(exact.storage_bits)),
        cache_gib=tuple(bits / BITS_PER_BYTE / GIB for bits in _first(exact.usable_cache_bits)),
        num_users=network.scenario.num_users,
        num_slots=network.scenario.slots_per_episode,
        slots_per_decision=network.scenario.slots_per_decision,
        energy_unit="dBm·s" if published else "J",
        statuses=tuple(statuses),
        has_backlog=queued,
        has_speed="server_speed" in network.unfolding.slot.more,
    )


def scene_before(network: EdgeNetwork) -> Scene:
    """The first of the networks before its coming slot: nobody is served yet."""
    now, requests = network.present, network.requests
    homes, deadlines = _first(network.homes), _first(now.deadlines_asked(requests))
    columns = zip(_first(network.positions, 2), _first(requests), homes, deadlines, strict=True)
    users = tuple(
        UserScene(x, y, service, home, -1, "waiting", 0.0, deadline, True, 0.0)
        for (x, y), service, home, deadline in columns
    )
    nothing = [0.0] * network.scenario.num_servers
    scores = dict.fromkeys((*SlotScores._fields, "tasks"), 0.0)
    servers = _servers(network, now, users, nothing, nothing)
    return Scene(network.slot, network.decision, users, servers, scores)


def scene_after(network: EdgeNetwork, played: PlayedSlot[Any, Any], switching: Tensor) -> Scene:
    """The first of the networks in the slot that it played last.

    Args:
        network: as it stands after the slot, before another caching decision.
        played: the slot.
        switching: cost of the caching decision just before it, 0 where there was none, [B], s.
    """
    service, held = played.service, network.held
    users = tuple(_users(network, played))
    loads = (_first(load) for load in (service.bandwidth_load, service.compute_load))
    scores = {name: float(value[0]) for name, value in slot_scores(service, switching)._asdict().items()}
    scores["tasks"] = float(sum(user.status != "idle" for user in users))
    return Scene(network.slot, network.decision, users, _servers(network, held, users, *loads), scores)


def watch(network: EdgeNetwork, policies: Policies, num_slots: int) -> Iterator[Scene]:
    """Reset the networks and play the first slots of an episode: a scene of each."""
    slow, fast = by_policy(policies[0]), by_policy(policies[1])
    network.reset()
    while network.slot < num_slots:
        frame = Frame(network, slow)
        switching = frame.switching
        for played in frame.slots(fast):
            yield scene_after(network, played, switching)
            switching = torch.zeros_like(switching)
            if network.slot == num_slots:
                return


def plain(value: Any) -> Any:
    """Scenes and sites as JSON has them, with names, and numbers of five digits."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _users(network: EdgeNetwork, played: PlayedSlot[Any, Any]) -> Iterator[UserScene]:
    service, held, num_servers = played.service, network.held, network.scenario.num_servers
    homes = network.rules.homes(held).expand_as(played.requests)
    off = torch.zeros_like(service.hit) if held.off is None else held.off
    columns = zip(
        _first(played.positions, 2),
        *map(_first, (played.requests, homes, played.allocation.server)),
        *map(_first, (service.latency, held.deadlines_asked(played.requests))),
        *map(_first, (service.on_time, service.energy, service.hit, service.asked, off)),
        strict=True,
    )
    cache, stays = network.cache[0].tolist(), held.device_hz is not None
    for (x, y), request, home, target, latency, deadline, timely, energy, hit, asked, is_off in columns:
        on_server = target < num_servers
        status: Status = "server" if hit else "cloud"
        if stays and target == num_servers:
            status = "device"
        # a server that holds the service and has not served it has dropped the task
        if is_off or (on_server and not hit and cache[target][request]):
            status = "dropped"
        if not asked:
            status = "idle"
        target = target if on_server and asked and not is_off else -1
        yield UserScene(x, y, request, home, target, status, latency, deadline, timely, energy)


def _servers(
    network: EdgeNetwork,
    held: Constants,
    users: tuple[UserScene, ...],
    bandwidth_load: list[float],
    compute_load: list[float],
) -> tuple[ServerScene, ...]:
    full = _first(network.exact.compute_hz)
    waits = [0.0] * len(full) if held.waiting_s is None else _first(held.waiting_s)
    return tuple(
        ServerScene(
            held=tuple(index for index, holds in enumerate(network.cache[0, server].tolist()) if holds),
            hits=sum(user.target == server and user.status == "server" for user in users),
            misses=sum(user.target == server and user.status == "cloud" for user in users),
            bandwidth_load=bandwidth_load[server],
            compute_load=compute_load[server],
            backlog_s=waits[server],
            speed=min(hz / full[server], 1.0),
        )
        for server, hz in enumerate(_first(held.compute_hz))
    )


def _first(values: Tensor, dimensions: int = 1) -> list[Any]:
    """Of the first network, as plain numbers: values of all networks, or of each."""
    found: list[Any] = (values[0] if values.ndim > dimensions else values).tolist()
    return found
