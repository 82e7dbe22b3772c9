"""Physics `strict`: decisions obey the constraints, and energy is in joules.

Tasks may also stay on the users' own devices, be split, or go to the cloud's own cell: targets behind the servers.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.constants import DEVICE_TARGETS, Constants
from hadrl_lightning.simulator.decisions import MAX_SHARE, Allocation, bin_index, packed, sum_per_server
from hadrl_lightning.simulator.physics.protocol import (
    MIN_SHARE,
    Limits,
    Rules,
    flags,
    passed_on,
    seen_by_both,
    seen_of_services,
    widened,
)
from hadrl_lightning.simulator.processes import targets_beyond
from hadrl_lightning.simulator.state import NetworkState, Service, Slot
from hadrl_lightning.simulator.views import CachingView, OffloadingView

LEAST_S = 1e-12
"""A task takes at least so long: 0 s are of who has none."""
MAX_FILLED = 1 + 1e-6
"""A cache may hold so much of what is usable: decisions are made by views, in single precision."""


class Strict(Rules):
    """Feasible decisions: caches that fit, shares that sum to 1 on every server that has users."""

    shows_capacity = True
    takes_any_shares = True
    shows_taken = False
    serves_beyond = DEVICE_TARGETS

    def homes(self, table: Constants) -> Int[Tensor, "... user"]:
        """The server of the user's cell, or the nearest one."""
        return table.cells

    def decode_offloading(self, scenario: Scenario, action: Float[Tensor, "batch action"]) -> Allocation:
        """The target is one of equal bins of [-1, 1], one for each; shares sum to 1 on every server that has users.

        They are weights w = floor + (1 - floor)(a + 1)/2 over their sum on the server; the floor is `share_floor`.
        """
        target, *shares = action.chunk(3, dim=1)  # of no users too
        targets = self.num_targets(scenario.num_servers) + len(targets_beyond(scenario))
        server = bin_index(target, targets)
        return Allocation(server, *(_share(scenario, share, server, targets) for share in shares))

    def decode_caching(
        self,
        storage_bits: Float[Tensor, "... service"],
        usable_bits: Float[Tensor, "... server"],
        action: Float[Tensor, "batch server service"],
        previous: Bool[Tensor, "batch server service"],
    ) -> Bool[Tensor, "batch server service"]:
        """The wanted services in falling order of their value, each if it still fits into the usable cache."""
        return packed(storage_bits, usable_bits, action, action > 0)

    def usable_bits(self, scenario: Scenario, view: CachingView) -> Float[Tensor, "*rows server"]:
        """What the view says that the coming decision may fill, whatever is held."""
        return view.free_cache_bits.double()

    def check_cache(self, table: Constants, cache: Bool[Tensor, "batch server service"]) -> None:
        """Refuse more services than fit into the usable cache."""
        over = table.bits_of(cache) / table.usable_cache_bits
        if float(over.max()) > MAX_FILLED:
            raise ValueError(
                f"cache must fit into the usable cache, got {float(over.max()):.3g} times as much"
            )

    def check_load(self, name: str, load: Float[Tensor, "batch server"], num_users: int) -> None:
        """Refuse that a server gives away more than it has, but for what a sum over users is rounded by."""
        if load.numel() and float(load.max()) > MAX_SHARE + num_users * torch.finfo(load.dtype).eps:
            raise ValueError(f"{name} must sum to at most 1 on every server, got {float(load.max()):g}")

    def transmit_power(self, table: Constants) -> Float[Tensor, "..."]:
        """Power in W."""
        return table.transmit_power_w

    def serve(
        self,
        table: Constants,
        cache: Bool[Tensor, "batch server service"],
        requests: Int[Tensor, "batch user"],
        positions: Float[Tensor, "batch user 2"],
        fading: Float[Tensor, "batch user"],
        allocation: Allocation,
    ) -> Service:
        """As any physics, and by users' devices and the cloud's own cell where there are such targets."""
        slot = (table, cache, requests, positions, fading, allocation)
        if table.device_hz is None:
            return super().serve(*slot)
        return served_with_devices(super().serve, *slot, self.transmit_power(table))

    def caching_view(self, table: Constants, state: NetworkState, slot: Slot) -> CachingView:
        """Shares of the episode's requests and hits; the coming decision may fill the whole usable cache."""
        batch = len(state.cache)
        return CachingView(
            cache=state.cache,
            demand=_part(state.request_counts),
            hits=_part(state.hit_counts.flatten(1)).view_as(state.hit_counts),
            free_cache_bits=table.usable_cache_bits.expand(batch, -1),
            **seen_of_services(self, table, state, slot),
        )

    def offloading_view(self, table: Constants, state: NetworkState, slot: Slot) -> OffloadingView:
        """All bandwidth and compute can be allotted in every slot."""
        batch = len(state.cache)
        return OffloadingView(
            cache=state.cache,
            free_cache_bits=table.usable_cache_bits - table.bits_of(state.cache),
            bandwidth_hz=table.bandwidth_hz.expand(batch, -1),
            compute_hz=table.compute_hz.expand(batch, -1),
            requests=slot.requests,
            input_bits=table.bits_asked(slot.requests),
            cycles=table.cycles_asked(slot.requests),
            **seen_by_both(self, table, slot),
        )

    def caching_limits(self, scenario: Scenario) -> Limits:
        """Shares lie in [0, 1]."""
        pairs, services = scenario.num_servers * scenario.num_services, scenario.num_services
        free = widened([0.0] * scenario.num_servers, list(scenario.usable_cache_bits))
        return {
            "demand": flags(services),
            "hits": flags(pairs),
            "free_cache_bits": free,
        }

    def offloading_limits(self, scenario: Scenario) -> Limits:
        """Nothing is above what the servers and the largest tasks have."""
        servers, users = scenario.num_servers, scenario.num_users
        caches = list(scenario.usable_cache_bits)
        return {
            "free_cache_bits": widened([-1e-5 * bits for bits in caches], caches),
            "bandwidth_hz": widened([0.0] * servers, list(scenario.bandwidth_per_server_hz)),
            "compute_hz": widened([0.0] * servers, list(scenario.compute_per_server_hz)),
            "requests": ([-1.0] * users, [scenario.num_services - 1.0] * users),
            "input_bits": widened([0.0] * users, [max(scenario.input_bits)] * users),
            "cycles": widened([0.0] * users, [max(scenario.cycles)] * users),
        }


def _share(
    scenario: Scenario, action: Float[Tensor, "batch user"], server: Int[Tensor, "batch user"], targets: int
) -> Float[Tensor, "batch user"]:
    weight = (action + 1).mul_((1 - scenario.share_floor) / 2).add_(scenario.share_floor)
    return weight / sum_per_server(weight, server, targets).gather(1, server)


def _part(counts: Float[Tensor, "batch entry"]) -> Float[Tensor, "batch entry"]:
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def served_with_devices(
    serve: Callable[..., Service],
    table: Constants,
    cache: Bool[Tensor, "batch server service"],
    requests: Int[Tensor, "batch user"],
    positions: Float[Tensor, "batch user 2"],
    fading: Float[Tensor, "batch user"],
    allocation: Allocation,
    transmit_power_w: Tensor,
) -> Service:
    """Serve a slot in which tasks may stay on the users' devices, or go to the cloud past the servers.

    A part φ of a task (`Constants.offloaded_share`) is offloaded with φ of its input and cycles, and the device works
    on the rest meanwhile: the latency is the longer of both. On the device the whole task takes cycles / device_hz, and
    each cycle there takes κ f² of the energy. The cloud's own cell is a band that its users share, by the link that
    they have to their homes: input / (share * bandwidth * spectral efficiency), and from there on as any miss.

    Args:
        serve: of tasks that go to servers, with the arguments of `Rules.serve`.
        table: with `device_hz` and what goes with it.
        cache: as of `Rules.serve`, as what follows.
        requests: see there.
        positions: see there.
        fading: see there.
        allocation: targets from 0 to S + 1; the shares of who stays on the device are of nothing.
        transmit_power_w: of users.
    """
    assert table.device_hz is not None
    assert table.device_j_per_cycle is not None
    assert table.offloaded_share is not None
    assert table.cloud_bandwidth_hz is not None
    num_servers = cache.shape[1]
    idle = table.idle(requests)
    target, bandwidth_share, compute_share = passed_on(allocation, idle, num_servers + 2)
    stays, direct = target == num_servers, target == num_servers + 1
    on_server = target < num_servers
    bits, cycles = table.bits_asked(requests), table.cycles_asked(requests)
    away_bits, away_cycles = table.offloaded_share * bits, table.offloaded_share * cycles

    shares = (share.masked_fill(~on_server, 0.0) for share in (bandwidth_share, compute_share))
    of_servers = Allocation(target.clamp(max=num_servers - 1), *shares)
    split = table._replace(task_bits=away_bits, task_cycles=away_cycles)
    service = serve(split, cache, requests, positions, fading, of_servers)

    rate = bandwidth_share.clamp(min=MIN_SHARE) * table.cloud_bandwidth_hz * service.spectral_efficiency
    sending = away_bits / rate
    cloud = sending + split.cloud_seconds(away_bits, away_cycles)
    kept = torch.where(stays, cycles, cycles - away_cycles)
    on_device = (kept / table.device_hz).clamp(min=LEAST_S)
    away = torch.where(direct, cloud, service.latency)
    latency = torch.where(stays, on_device, torch.maximum(away, on_device))
    if idle is not None:
        latency = latency.masked_fill(idle, 0.0)
    energy = torch.where(direct, sending * transmit_power_w, service.energy).masked_fill(stays, 0.0)
    beyond = sum_per_server(bandwidth_share.masked_fill(stays, 0.0), target, num_servers + 2)[:, num_servers:]
    return service._replace(
        latency=latency,
        hit=service.hit & on_server,
        on_time=latency <= table.deadlines_asked(requests),
        energy=energy + kept * table.device_j_per_cycle,
        device_energy=kept * table.device_j_per_cycle,
        bandwidth_load=torch.cat((service.bandwidth_load, beyond), dim=1),
        compute_load=torch.cat((service.compute_load, torch.zeros_like(beyond)), dim=1),
    )
