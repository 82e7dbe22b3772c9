"""Physics `published`: the arithmetic of the published code, which does not check capacity."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.decisions import Allocation, bin_index, sum_per_server
from hadrl_lightning.simulator.physics.protocol import (
    MARGIN,
    Limits,
    Rules,
    seen_by_both,
    seen_of_services,
    widened,
)
from hadrl_lightning.simulator.state import NetworkState, Slot, falling_scale
from hadrl_lightning.simulator.views import CachingView, OffloadingView


class Published(Rules):
    """Thresholds between servers, shares that may give away more than there is, and the published scalings."""

    shows_capacity = False
    energy_column = "energy_dbm_s"
    below_zero = frozenset({"demand", "free_cache_bits", "bandwidth_hz", "compute_hz"})

    def check_scenario(self, scenario: Scenario) -> None:
        """Thresholds must be one fewer than servers."""
        wanted, found = scenario.num_servers - 1, scenario.offload_thresholds
        if found is not None and len(found) != wanted:
            raise HadrlError(
                f"scenario.offload_thresholds must have num_servers - 1 = {wanted} values under physics published, "
                f"got {len(found)}; null stands for equal bins"
            )

    def homes(self, table: Constants) -> Int[Tensor, "... user"]:
        """The published association, which in ES4 is not the user's cell."""
        return table.published_homes

    def in_its_bins(
        self, scenario: Scenario, action: Float[Tensor, "batch action"]
    ) -> Float[Tensor, "batch action"]:
        """Each target in the middle between its thresholds."""
        if scenario.offload_thresholds is None:
            return action
        edges = torch.tensor(
            (-1.0, *scenario.offload_thresholds, 1.0), device=action.device, dtype=action.dtype
        )
        target, *shares = action.chunk(3, dim=-1)
        middle = (edges[:-1] + edges[1:]) / 2
        return torch.cat((middle[bin_index(target, scenario.num_servers)], *shares), dim=-1)

    def decode_offloading(self, scenario: Scenario, action: Float[Tensor, "batch action"]) -> Allocation:
        """Thresholds of the scenario; shares clip(a, 0, 1) over their sum on the server, rounded to 3 decimals.

        A share of exactly 0 becomes the `free_share`, so a server can give away more than it has.
        """
        self.check_scenario(scenario)
        target, bandwidth, compute = action.chunk(3, dim=1)
        server = _server(scenario, target)
        return Allocation(server, _share(scenario, bandwidth, server), _share(scenario, compute, server))

    def decode_caching(
        self,
        storage_bits: Float[Tensor, "... service"],
        usable_bits: Float[Tensor, "... server"],
        action: Float[Tensor, "batch server service"],
        previous: Bool[Tensor, "batch server service"],
    ) -> Bool[Tensor, "batch server service"]:
        """The decision as it is, unless the previous cache of *every* server is over the limit."""
        over = _bits(storage_bits, previous) > usable_bits
        return torch.where(over.all(dim=1)[:, None, None], previous, action > 0)

    def usable_bits(self, scenario: Scenario, view: CachingView) -> Float[Tensor, "*rows server"]:
        """The usable part of the whole cache: of what is left and what is held."""
        part = scenario.usable_cache_fraction
        if not isinstance(part, float | int):
            raise HadrlError(
                f"scenario.usable_cache_fraction must be one number for decisions under physics published, whose views "
                f"don't show it, got {part}"
            )
        return part * (view.free_cache_bits.double() + _bits(view.storage_bits.double(), view.cache))

    def check_cache(self, table: Constants, cache: Bool[Tensor, "batch server service"]) -> None:
        """Nothing is refused."""

    def check_load(self, name: str, load: Float[Tensor, "batch server"], num_users: int) -> None:
        """Nothing is refused."""

    def transmit_power(self, table: Constants) -> Float[Tensor, "..."]:
        """The published code multiplies the transmission time by the number of dBm."""
        return table.transmit_power_dbm

    def caching_view(self, table: Constants, state: NetworkState, slot: Slot) -> CachingView:
        """The published scalings, and what the present contents leave of the cache."""
        return CachingView(
            cache=state.cache,
            demand=state.request_gain,
            hits=falling_scale(state.hit_counts.flatten(1)).view_as(state.hit_counts),
            free_cache_bits=table.cache_bits - table.bits_of(state.cache),
            **seen_of_services(self, table, state, slot),
        )

    def offloading_view(self, table: Constants, state: NetworkState, slot: Slot) -> OffloadingView:
        """Capacity less the bits and cycles that the server took in the slot before."""
        return OffloadingView(
            cache=state.cache,
            free_cache_bits=table.cache_bits - table.bits_of(state.cache),
            bandwidth_hz=table.bandwidth_hz - state.taken_bits,
            compute_hz=table.compute_hz - state.taken_cycles,
            requests=slot.requests,
            input_bits=table.bits_asked(slot.requests),
            cycles=table.cycles_asked(slot.requests),
            **seen_by_both(self, table, slot),
        )

    def caching_limits(self, scenario: Scenario) -> Limits:
        """The request gain is a quotient whose denominator can come close to 0: it has none."""
        pairs, services = scenario.num_servers * scenario.num_services, scenario.num_services
        return {
            "demand": ([-math.inf] * services, [math.inf] * services),
            # Counts of hits: (max - x) / (max - 0.1) with max at least 1, or all 0.
            "hits": ([0.0] * pairs, [MARGIN / 0.9] * pairs),
            "free_cache_bits": _cache_left(scenario),
        }

    def offloading_limits(self, scenario: Scenario) -> Limits:
        """What is left may fall below 0 by all that the users can ask of one server."""
        users = scenario.num_users
        bits, cycles = users * max(scenario.input_bits), users * max(scenario.cycles)
        bandwidth, compute = list(scenario.bandwidth_per_server_hz), list(scenario.compute_per_server_hz)
        return {
            "free_cache_bits": _cache_left(scenario),
            "bandwidth_hz": widened([min(hz - bits, 0.0) for hz in bandwidth], bandwidth),
            "compute_hz": widened([min(hz - cycles, 0.0) for hz in compute], compute),
            "requests": ([-1.0] * users, [scenario.num_services - 1.0] * users),
            "input_bits": widened([0.0] * users, [max(scenario.input_bits)] * users),
            "cycles": widened([0.0] * users, [max(scenario.cycles)] * users),
        }


def _bits(
    storage_bits: Float[Tensor, "... service"], cache: Bool[Tensor, "*rows server service"]
) -> Float[Tensor, "*rows server"]:
    """What the contents of caches fill."""
    return (cache * storage_bits.unsqueeze(-2)).sum(dim=-1)


def _cache_left(scenario: Scenario) -> tuple[list[float], list[float]]:
    """What is stored is never checked."""
    largest = list(scenario.cache_per_server_bits)
    return widened([min(bits - sum(scenario.storage_bits), 0.0) for bits in largest], largest)


def _server(scenario: Scenario, target: Float[Tensor, "batch user"]) -> Int[Tensor, "batch user"]:
    thresholds = scenario.offload_thresholds
    if thresholds is None:
        thresholds = tuple(2 * s / scenario.num_servers - 1 for s in range(1, scenario.num_servers))
    bounds = torch.tensor(thresholds, device=target.device, dtype=target.dtype)
    return (target.unsqueeze(-1) > bounds).sum(-1)


def _share(
    scenario: Scenario, action: Float[Tensor, "batch user"], server: Int[Tensor, "batch user"]
) -> Float[Tensor, "batch user"]:
    wanted = action.clamp(min=0)
    total = sum_per_server(wanted, server, scenario.num_servers)
    total = total + (1 - total.sign())  # any, where nobody wants anything
    share = torch.round(wanted / total.gather(1, server), decimals=3)
    return share + (1 - share.sign()) * scenario.free_share
