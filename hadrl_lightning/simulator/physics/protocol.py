"""What a physics decides: the one protocol of `strict`, `published`, and of what users add."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.constants import Constants, of_each
from hadrl_lightning.simulator.decisions import Allocation, sum_per_server
from hadrl_lightning.simulator.radio import link_efficiency, reported_efficiency
from hadrl_lightning.simulator.state import NetworkState, Service, Slot
from hadrl_lightning.simulator.views import OF_THE_CLOUD, CachingView, OffloadingView

MIN_SHARE = 1e-9
"""A share of 0 counts as this much, so that every latency is finite."""
MARGIN = 1 + 1e-5
"""Widens bounds a little, so that rounding in the simulator's number format never leaves them."""

Limits = dict[str, tuple[list[float], list[float]]]
"""Least and largest value of every entry of some fields of a view, by the name of the field, in its unit; for others
those of their declaration hold."""


class Rules(ABC):
    """How decisions are read, what is refused, what energy counts, and what agents see.

    Nobody but the rules asks which physics it is. They hold no state: methods are functions of their arguments.
    """

    shows_capacity: ClassVar[bool]
    """Whether views show the bandwidth and compute that a server has, and not what a slot before left of it."""
    takes_any_shares: ClassVar[bool] = False
    """Whether any shares may be asked for that sum to 1 on a server, and not those alone that actions stand for."""
    energy_column: ClassVar[str] = "energy_j"
    """What files call the energy: its name ends in the unit of `transmit_power` times seconds."""
    below_zero: ClassVar[frozenset[str]] = frozenset()
    """Fields of views that may fall below 0."""
    serves_beyond: ClassVar[tuple[str, ...]] = ()
    """Targets behind the servers that `serve` finds in the constants, in words: those that a process may bring."""
    shows_taken: ClassVar[bool] = True
    """Whether views show the published request gain or what servers took in the slot before; else none is kept."""

    @property
    def energy_unit(self) -> str:
        """The unit of the energy, in words; only what is in joules can be weighed or be that of devices."""
        unit = self.energy_column.removeprefix("energy_")
        return {"j": "J", "dbm_s": "dBm·s"}.get(unit, unit)

    def check_scenario(self, scenario: Scenario) -> None:  # noqa: B027 (most refuse nothing)
        """Raise a HadrlError for constants that this physics can't be applied to."""

    def num_targets(self, num_servers: int) -> int:
        """What a task can be offloaded to: the servers, and what a physics adds behind them."""
        return num_servers

    @abstractmethod
    def homes(self, table: Constants) -> Int[Tensor, "... user"]:
        """The server whose radio each user uses, [U], or [B, U] where networks differ."""

    @abstractmethod
    def decode_offloading(self, scenario: Scenario, action: Float[Tensor, "batch action"]) -> Allocation:
        """The allocation of a (checked) action [B, 3 U]."""

    @abstractmethod
    def decode_caching(
        self,
        storage_bits: Float[Tensor, "... service"],
        usable_bits: Float[Tensor, "... server"],
        action: Float[Tensor, "batch server service"],
        previous: Bool[Tensor, "batch server service"],
    ) -> Bool[Tensor, "batch server service"]:
        """The cache of a (checked) action.

        Args:
            storage_bits: of the services, of all networks or of each, in double precision.
            usable_bits: what may be filled of every server's cache, of all networks or of each, in double precision.
            action: one number for each pair.
            previous: the cache until now.
        """

    def in_its_bins(
        self, scenario: Scenario, action: Float[Tensor, "batch action"]
    ) -> Float[Tensor, "batch action"]:
        """An offloading action whose targets lie in equal bins of [-1, 1], put so that these rules read the same.

        Args:
            scenario: gives S, and what actions are read by.
            action: within [-1, 1], [B, 3 U].
        """
        return action

    @abstractmethod
    def usable_bits(self, scenario: Scenario, view: CachingView) -> Float[Tensor, "*rows server"]:
        """What may be filled of every server's cache by what a view shows, in double precision.

        Args:
            scenario: gives what no view shows.
            view: of some networks, whose caches may be others than the scenario's.
        """

    @abstractmethod
    def check_cache(self, table: Constants, cache: Bool[Tensor, "batch server service"]) -> None:
        """Raise a ValueError for a cache that is not allowed; `table` in double precision."""

    @abstractmethod
    def check_load(self, name: str, load: Float[Tensor, "batch server"], num_users: int) -> None:
        """Raise a ValueError for shares whose sum on a server is not allowed."""

    @abstractmethod
    def transmit_power(self, table: Constants) -> Float[Tensor, "..."]:
        """What the time of a transmission is multiplied with for its energy."""

    def serve(
        self,
        table: Constants,
        cache: Bool[Tensor, "batch server service"],
        requests: Int[Tensor, "batch user"],
        positions: Float[Tensor, "batch user 2"],
        fading: Float[Tensor, "batch user"],
        allocation: Allocation,
    ) -> Service:
        """Serve one slot of B networks; arguments, which are checked, as of `hadrl_lightning.simulator.serve`.

        Nothing here waits for a number: what the loads may be is checked by who calls (`check_load`).

        A hit costs input / rate + cycles / (share * compute). Otherwise the server forwards the task to the cloud:
        input / rate + bits / cloud rate + cycles / cloud compute + cloud delay. Rate is share * bandwidth of the server
        offloaded to * spectral efficiency of the link to the home server (paper, communication and computation models).
        Where work waits at a server, what it computes waits too; where paths between servers cost, what is served
        elsewhere than at home takes the path. Who has no task takes no share of those who have one, and no time.
        """
        num_servers, num_services = cache.shape[1:]
        idle = table.idle(requests)
        server, bandwidth_share, compute_share = passed_on(allocation, idle, num_servers)
        bandwidth_load, compute_load = (
            sum_per_server(share, server, num_servers) for share in (bandwidth_share, compute_share)
        )
        bits, cycles = table.bits_asked(requests), table.cycles_asked(requests)
        hit = cache.flatten(1).gather(1, torch.add(requests, server, alpha=num_services))
        homes = self.homes(table)
        efficiency = link_efficiency(table, homes, positions, fading)
        rate = bandwidth_share.clamp(min=MIN_SHARE) * of_each(table.bandwidth_hz, server) * efficiency
        transmission = bits / rate
        edge = cycles / (compute_share.clamp(min=MIN_SHARE) * of_each(table.compute_hz, server))
        if table.waiting_s is not None:
            edge = edge + of_each(table.waiting_s, server)
        latency = transmission + chosen(hit, edge, table.cloud_seconds(bits, cycles))
        path = table.path_seconds(homes, server, bits)
        if path is not None:
            latency = latency + path
        if idle is not None:
            latency, hit = latency.masked_fill(idle, 0.0), hit & ~idle
        nothing = torch.zeros_like(hit)
        return Service(
            latency=latency,
            hit=hit,
            on_time=latency <= table.deadlines_asked(requests),
            energy=transmission * self.transmit_power(table),
            bandwidth_load=bandwidth_load,
            compute_load=compute_load,
            spectral_efficiency=efficiency,
            dropped=nothing,
            handover=nothing,
            device_energy=torch.zeros_like(latency),
        )

    @abstractmethod
    def caching_view(self, table: Constants, state: NetworkState, slot: Slot) -> CachingView:
        """What the slow level sees before a frame that begins with this slot."""

    @abstractmethod
    def offloading_view(self, table: Constants, state: NetworkState, slot: Slot) -> OffloadingView:
        """What the fast level sees."""

    @abstractmethod
    def caching_limits(self, scenario: Scenario) -> Limits:
        """Least and largest values of the caching view."""

    @abstractmethod
    def offloading_limits(self, scenario: Scenario) -> Limits:
        """Least and largest values of the offloading view."""


def passed_on(
    allocation: Allocation, idle: Bool[Tensor, "batch user"] | None, num_servers: int
) -> Allocation:
    """What users have who share a server with idle ones: the shares of these too, in proportion to their own."""
    if idle is None:
        return allocation
    server, shares = allocation.server, (allocation.bandwidth_share, allocation.compute_share)
    least = torch.finfo(shares[0].dtype).tiny

    def with_others(share: Tensor) -> Tensor:
        kept = share.clamp(min=MIN_SHARE).masked_fill(idle, 0.0)
        whole, taken = (sum_per_server(one, server, num_servers).gather(1, server) for one in (share, kept))
        return kept * (whole / taken.clamp(min=least))

    return Allocation(server, *(with_others(share) for share in shares))


def seen_by_both(laws: Rules, table: Constants, slot: Slot) -> dict[str, Tensor]:
    """What any physics shows both levels: what phones report of the users' links, [B, U], and the cloud, [B] each."""
    batch = len(slot.requests)
    shown = {name: getattr(table, name).reshape(-1).expand(batch) for name in OF_THE_CLOUD}
    links = reported_efficiency(table, laws.homes(table), slot.positions)
    return shown | {"spectral_efficiency": links}


def seen_of_services(laws: Rules, table: Constants, state: NetworkState, slot: Slot) -> dict[str, Tensor]:
    """What any physics shows the slow level: what services, servers, links and the cloud are like, and what was asked
    for.
    """
    shown = seen_by_both(laws, table, slot)
    links = shown["spectral_efficiency"]
    users = links.shape[1]
    constants = {
        "storage_bits": table.storage_bits,
        "fetch_s": table.storage_bits / table.backhaul_bit_per_s,
        "input_bits": table.input_bits,
        "cycles": table.cycles,
        "bandwidth_hz": table.bandwidth_hz,
        "compute_hz": table.compute_hz,
    }
    batch, counts = len(state.cache), state.request_counts
    return {name: value.expand(batch, -1) for name, value in constants.items()} | {
        **shown,
        "requests": counts,
        "recent_requests": counts - state.counts_before,
        "past_requests": state.past_counts,
        "users": links.new_full((batch,), users),
        "spectral_efficiency": (1 / links).mean(dim=1).reciprocal() if users else links.new_ones(batch),
    }


def chosen(
    which: Bool[Tensor, "batch user"], one: Float[Tensor, "batch user"], other: Float[Tensor, "batch user"]
) -> Float[Tensor, "batch user"]:
    """One number where it holds, else the other: exactly, and in a fraction of the time of `where`, which guesses."""
    return torch.lerp(other, one.clamp(max=torch.finfo(one.dtype).max), which.view(torch.uint8).to(one.dtype))


def flags(count: int) -> tuple[list[float], list[float]]:
    """Limits of numbers from 0 to 1."""
    return [0.0] * count, [1.0] * count


def widened(low: list[float], high: list[float]) -> tuple[list[float], list[float]]:
    """Limits with a margin for rounding."""
    return [MARGIN * value for value in low], [MARGIN * value for value in high]
