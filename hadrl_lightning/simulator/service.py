"""What a slot costs: latency, hits, deadlines, energy and load; and what a caching decision costs. Pure functions."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator.actions import num_targets
from hadrl_lightning.simulator.constants import Constants, constants, of_each
from hadrl_lightning.simulator.decisions import MAX_SHARE, Allocation, extremes
from hadrl_lightning.simulator.physics import Rules, rules
from hadrl_lightning.simulator.physics.protocol import passed_on
from hadrl_lightning.simulator.processes import Memory, Process
from hadrl_lightning.simulator.radio import link_efficiency
from hadrl_lightning.simulator.state import NetworkState, Service, Slot, count_slot


def serve(
    scenario: Scenario,
    cache: Bool[Tensor, "..."],
    requests: Int[Tensor, "..."],
    positions: Float[Tensor, "..."],
    fading: Float[Tensor, "..."],
    allocation: Allocation,
    physics: Physics = "strict",
    table: Constants | None = None,
) -> Service:
    """Serve one slot of B networks: check what is given, and leave the rest to the physics (`Rules.serve`).

    Args:
        scenario: the constants.
        cache: bool [B, S, K].
        requests: service asked by each user, long [B, U].
        positions: (x, y) of the users in metres, [B, U, 2].
        fading: factor on the linear channel gain, [B, U].
        allocation: targets and shares, [B, U] each.
        physics: decides the home servers, what there is to offload to, and the unit of the energy.
        table: what holds in this slot, where it is not the scenario's.

    Raises:
        ValueError: a wrong shape or type, an index out of range, a value that is not finite or negative, a share above
            1, or (`strict`) shares of a server that sum to more than 1.
    """
    laws = rules(physics)
    batch, users = requests.shape[0] if requests.dim() else 0, scenario.num_users
    for name, value, dtype, shape in (
        ("cache", cache, torch.bool, [batch, scenario.num_servers, scenario.num_services]),
        ("requests", requests, torch.long, [batch, users]),
        ("positions", positions, None, [batch, users, 2]),
        ("fading", fading, None, [batch, users]),
    ):
        _check_tensor(name, value, dtype, shape)
    _check_index("requests", requests, scenario.num_services)
    _check_range("positions", positions)
    _check_range("fading", fading, 0.0, math.inf)
    check_allocation(allocation, [batch, users], num_targets(scenario, physics))
    table = table or constants(scenario, positions.device, positions.dtype)
    service = laws.serve(table, cache, requests, positions, fading, allocation)
    check_loads(laws, service)
    return service


class ServedSlot(NamedTuple):
    """What became of a slot."""

    service: Service
    """What its users got."""
    state: NetworkState
    """What the networks remember from then on."""
    held: Constants
    """The constants that held in it."""


def served_slot(
    laws: Rules,
    processes: Mapping[str, Process],
    table: Constants,
    state: NetworkState,
    slot: Slot,
    allocation: Allocation,
) -> ServedSlot:
    """Serve a slot and count it: a function of tensors that nothing in it waits for, so that it can be compiled.

    Args:
        laws: the physics.
        processes: of the networks, by name.
        table: the constants of the networks.
        state: of the networks.
        slot: what is the case, fading included.
        allocation: targets and shares, which are checked.
    """
    assert slot.fading is not None
    holds = adjusted(processes, table, slot, state.carried)
    service = laws.serve(holds, state.cache, slot.requests, slot.positions, slot.fading, allocation)
    carried = dict(state.carried)
    for name, process in processes.items():
        after, service = process.served(holds, slot, carried.get(name, {}), allocation, service)
        if after:
            carried[name] = dict(after)
    num_servers = state.cache.shape[1]
    beyond = any(one.targets for one in processes.values())
    all_on_servers = laws.num_targets(num_servers) == num_servers and not beyond
    asked = None if holds.idle(slot.requests) is None else service.asked
    counted = count_slot(
        holds, state, slot.requests, allocation.server, service.hit, all_on_servers, laws.shows_taken, asked
    )
    return ServedSlot(service, replace(counted, carried=carried), holds)


class Terms(NamedTuple):
    """What a slot was served by, of every user."""

    home: Int[Tensor, "batch user"]
    """The server whose radio it used."""
    input_bits: Float[Tensor, "batch user"]
    """Of its task, bit."""
    cycles: Float[Tensor, "batch user"]
    """Of its task."""
    deadline_s: Float[Tensor, "batch user"]
    """Of its task, s."""
    bandwidth_hz: Float[Tensor, "batch user"]
    """What its share of its target's bandwidth is, with what idle users of it leave, Hz; not a number where there is
    none."""
    compute_hz: Float[Tensor, "batch user"]
    """What its share of its target's compute is, of its own device all of it, Hz; not a number where there is none."""


def terms(laws: Rules, held: Constants, requests: Int[Tensor, "batch user"], allocation: Allocation) -> Terms:
    """What a slot was served by, where these constants held in it."""
    servers = held.bandwidth_hz.shape[-1]
    devices = held.device_hz is not None and held.cloud_bandwidth_hz is not None
    beyond = laws.num_targets(servers) - servers + 2 * devices
    server, bandwidth_share, compute_share = passed_on(allocation, held.idle(requests), servers + beyond)

    def of_target(values: Tensor) -> Tensor:
        return of_each(torch.nn.functional.pad(values, (0, beyond), value=torch.nan), server)

    bandwidth = bandwidth_share * of_target(held.bandwidth_hz)
    compute = compute_share * of_target(held.compute_hz)
    if held.device_hz is not None and held.cloud_bandwidth_hz is not None:
        compute = torch.where(server == servers, held.device_hz, compute)
        cell = bandwidth_share * held.cloud_bandwidth_hz
        bandwidth = torch.where(server == servers + 1, cell, bandwidth)
    return Terms(
        home=laws.homes(held).expand_as(requests),
        input_bits=held.bits_asked(requests),
        cycles=held.cycles_asked(requests),
        deadline_s=held.deadlines_asked(requests),
        bandwidth_hz=bandwidth,
        compute_hz=compute,
    )


def adjusted(
    processes: Mapping[str, Process],
    table: Constants,
    slot: Slot,
    carried: Mapping[str, Memory],
    seen: bool = False,
) -> Constants:
    """The constants that hold in a slot of networks with these processes; if `seen`, as far as views may show them."""
    for name, process in processes.items():
        if not (seen and process.hidden):
            table = process.adjusted(table, slot, carried.get(name, {}))
    return table


def spectral_efficiency(
    scenario: Scenario,
    positions: Float[Tensor, "batch user 2"],
    fading: Float[Tensor, "batch user"],
    physics: Physics = "strict",
    table: Constants | None = None,
) -> Float[Tensor, "batch user"]:
    """Spectral efficiency log2(1 + gain * power / noise) of each user's link to its home server, in bit/s/Hz.

    Args:
        scenario: gives powers in dBm and the path loss.
        positions: (x, y) of the users in metres, [B, U, 2].
        fading: factor on the linear gain, [B, U].
        physics: decides which server is a user's home.
        table: the constants of each network, where they are not the scenario's.
    """
    table = table or constants(scenario, positions.device, positions.dtype)
    return link_efficiency(table, rules(physics).homes(table), positions, fading)


def switching_cost(
    scenario: Scenario,
    previous: Bool[Tensor, "batch server service"],
    cache: Bool[Tensor, "batch server service"],
    table: Constants | None = None,
) -> Float[Tensor, " batch"]:
    """Seconds to fetch what was not cached before: the sum of storage / backhaul over new (server, service), [B].

    With `table` the constants are those, where they are not the scenario's.
    """
    table = table or constants(scenario, cache.device, torch.get_default_dtype())
    new = (cache & ~previous).sum(dim=1)
    return table.bits_of(new) / table.backhaul_bit_per_s.flatten()


def check_allocation(allocation: Allocation, shape: list[int], num_targets: int) -> None:
    """Refuse what no physics can carry out.

    Args:
        allocation: what is decided.
        shape: that each part must have.
        num_targets: what there is to offload to.

    Raises:
        ValueError: a wrong shape or type, a target that is not there, or a share that is not finite or out of range.
    """
    _check_tensor("server", allocation.server, torch.long, shape)
    for name in ("bandwidth_share", "compute_share"):
        _check_tensor(name, getattr(allocation, name), None, shape)
    _check_index("server", allocation.server, num_targets)
    _check_range("bandwidth_share", allocation.bandwidth_share, 0.0, MAX_SHARE)
    _check_range("compute_share", allocation.compute_share, 0.0, MAX_SHARE)


def check_loads(laws: Rules, service: Service) -> None:
    """Refuse shares whose sums on a server the physics does not allow.

    Raises:
        ValueError: they are so.
    """
    users = service.latency.shape[1]
    laws.check_load("bandwidth_share", service.bandwidth_load, users)
    laws.check_load("compute_share", service.compute_load, users)


def _check_tensor(name: str, value: Tensor, dtype: torch.dtype | None, shape: list[int]) -> None:
    """Refuse another shape or type; without a type it must be one of real numbers."""
    if list(value.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {list(value.shape)}")
    if value.dtype != dtype and not (dtype is None and value.is_floating_point()):
        raise ValueError(f"{name} must be of type {dtype or 'float'}, got {value.dtype}")


def _check_index(name: str, index: Tensor, size: int) -> None:
    """Refuse services and targets that are not there."""
    least, largest = extremes(index)
    if least < 0 or largest >= size:
        raise ValueError(f"{name} must be from 0 to {size - 1}, got {least} to {largest}")


def _check_range(name: str, value: Tensor, low: float = -math.inf, high: float = math.inf) -> None:
    """Refuse numbers that are not finite or out of range."""
    least, largest = extremes(value)
    if not (math.isfinite(least) and math.isfinite(largest)):
        wrong = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{name} must be finite, got {wrong} values that are not")
    if least < low:
        raise ValueError(f"{name} must not be negative, got {least:g}")
    if largest > high:
        raise ValueError(f"{name} must be at most 1, got {largest:g}")
