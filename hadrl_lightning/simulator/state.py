"""What is the case in a slot, what its users get, and what an edge network remembers between slots."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.decisions import sum_per_server


@dataclass(eq=False)
class Slot:
    """What processes bring to a slot of B networks. What is drawn when the slot is served is not there before."""

    requests: Int[Tensor, "batch user"]
    """Service asked by each user, long [B, U]."""
    positions: Float[Tensor, "batch user 2"]
    """(x, y) of the users in metres, [B, U, 2]."""
    fading: Float[Tensor, "batch user"] | None = None
    """Factor on the linear channel gain of each user, [B, U]; drawn when the slot is served."""
    more: dict[str, Tensor] = field(default_factory=dict)
    """What further processes bring, by name, [B, …]."""


class Service(NamedTuple):
    """What the users of a slot got."""

    latency: Float[Tensor, "batch user"]
    """Seconds from request to result, [B, U]."""
    hit: Bool[Tensor, "batch user"]
    """The server offloaded to holds the service, [B, U]."""
    on_time: Bool[Tensor, "batch user"]
    """The latency is within the service's deadline, [B, U]."""
    energy: Float[Tensor, "batch user"]
    """Of sending, and of computing on the user's device, in joules (`published`: the number of dBm times s), [B, U]."""
    bandwidth_load: Float[Tensor, "batch server"]
    """Sum of the bandwidth shares of each server: 1 is its capacity, [B, S], and of targets behind them."""
    compute_load: Float[Tensor, "batch server"]
    """Sum of the compute shares of each server: 1 is its capacity, [B, S]."""
    spectral_efficiency: Float[Tensor, "batch user"]
    """Of the link to the home server in this slot, fading included, in bit/s/Hz, [B, U]."""
    dropped: Bool[Tensor, "batch user"]
    """The task was dropped, [B, U]: its latency is what a dropped task counts as."""
    handover: Bool[Tensor, "batch user"]
    """The user has just changed its home server, [B, U]."""
    device_energy: Float[Tensor, "batch user"]
    """What of the energy was for computing on the user's device, in joules, [B, U]."""

    @property
    def asked(self) -> Bool[Tensor, "batch user"]:
        """Who had a task, [B, U]."""
        return asked(self.latency)

    def delayed(
        self, seconds: Float[Tensor, "batch user"], deadline_s: Float[Tensor, "batch user"]
    ) -> "Service":
        """The same, so many seconds later, held against the users' deadlines, [B, U] each: of who had a task."""
        latency = torch.where(self.asked, self.latency + seconds, self.latency)
        return self._replace(latency=latency, on_time=latency <= deadline_s)


def asked(latency: Float[Tensor, "*rows"]) -> Bool[Tensor, "*rows"]:
    """Who had a task: of the others the latency is 0, which no task's is."""
    return latency != 0  # so that what is not a number is not passed over


@dataclass
class NetworkState:
    """State of B parallel networks."""

    cache: Bool[Tensor, "batch server service"]
    """Services cached, bool [B, S, K]."""
    request_counts: Float[Tensor, "batch service"]
    """Requests served in this episode, [B, K]."""
    counts_before: Float[Tensor, "batch service"]
    """Those of them that were served before the present frame, [B, K]."""
    past_counts: Float[Tensor, "batch service"]
    """Requests before the episode that are on record, [B, K]."""
    request_gain: Float[Tensor, "batch service"]
    """The published running request gain, [B, K]."""
    hit_counts: Float[Tensor, "batch server service"]
    """Hits in this episode, [B, S, K]."""
    taken_bits: Float[Tensor, "batch server"]
    """Input bits that each server took in the slot just served, 0 at the start of a frame, [B, S]. As the request gain
    and the cycles, always 0 where the physics shows none of them (`Rules.shows_taken`)."""
    taken_cycles: Float[Tensor, "batch server"]
    """CPU cycles that each server took in the slot just served, 0 at the start of a frame, [B, S]."""
    carried: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """What each process carries from slot to slot, by its name."""

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; those that processes carry as `carried.process.name`."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "carried"}
        for process, carried in self.carried.items():
            own.update({f"carried.{process}.{name}": value for name, value in carried.items()})
        return own

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "NetworkState":
        """The state of such tensors."""
        own: dict[str, Any] = {
            name: value for name, value in tensors.items() if not name.startswith("carried.")
        }
        return NetworkState(**own, carried=NetworkState.carried_of(tensors))

    @staticmethod
    def carried_of(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """What processes carry, of such tensors."""
        carried: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("carried."):
                process, entry = name.removeprefix("carried.").rsplit(".", 1)  # a process may be module.Class
                carried.setdefault(process, {})[entry] = value
        return carried


def empty_state(scenario: Scenario, batch: int, device: torch.device, dtype: torch.dtype) -> NetworkState:
    """The state of `batch` networks at the start of an episode: nothing cached, nothing counted."""
    servers, services = scenario.num_servers, scenario.num_services

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device, dtype=dtype)

    return NetworkState(
        cache=torch.zeros(batch, servers, services, dtype=torch.bool, device=device),
        request_counts=zeros(batch, services),
        counts_before=zeros(batch, services),
        past_counts=zeros(batch, services),
        request_gain=zeros(batch, services),
        hit_counts=zeros(batch, servers, services),
        taken_bits=zeros(batch, servers),
        taken_cycles=zeros(batch, servers),
    )


def count_slot(
    table: Constants,
    state: NetworkState,
    requests: Int[Tensor, "batch user"],
    server: Int[Tensor, "batch user"],
    hit: Bool[Tensor, "batch user"],
    all_on_servers: bool = True,
    taken: bool = True,
    asked: Bool[Tensor, "batch user"] | None = None,
) -> NetworkState:
    """The state with a served slot added to its counts.

    Args:
        table: what held in the slot.
        state: of the networks.
        requests: service asked by each user, [B, U].
        server: target of each user, [B, U].
        hit: whether it held the service, [B, U].
        all_on_servers: whether every target is a server; what is served elsewhere counts for no server.
        taken: whether the request gain and what servers took are kept too.
        asked: who had a task; None: everybody.
    """
    servers, services = state.cache.shape[1:]
    on_server = None if all_on_servers else server < servers
    if on_server is not None:
        server, hit = server.clamp(max=servers - 1), hit & on_server
    dtype = state.request_counts.dtype
    ones = torch.ones_like(requests, dtype=dtype) if asked is None else asked.to(dtype)
    counts = state.request_counts.scatter_add(1, requests, ones)
    pair = torch.add(requests, server, alpha=services)
    hits = state.hit_counts.flatten(1).scatter_add(1, pair, hit.view(torch.uint8).to(ones.dtype))
    changed: dict[str, Any] = {"request_counts": counts, "hit_counts": hits.view_as(state.hit_counts)}
    if not taken:
        return replace(state, **changed)
    bits, cycles = table.bits_asked(requests), table.cycles_asked(requests)
    if on_server is not None:
        bits, cycles = bits * on_server, cycles * on_server
    gain = (state.request_gain + (counts - state.request_counts)) * (1e10 / table.storage_bits)
    return replace(
        state,
        **changed,
        request_gain=falling_scale(gain),
        taken_bits=sum_per_server(bits, server, servers),
        taken_cycles=sum_per_server(cycles, server, servers),
    )


def falling_scale(value: Float[Tensor, "batch entry"]) -> Float[Tensor, "batch entry"]:
    """The published scaling (max - x) / (max - m), m = 0.1 where the least entry is 0, else the least; 0 if max = m."""
    largest, least = value.amax(1, keepdim=True), value.amin(1, keepdim=True)
    span = largest - torch.where(least == 0, 0.1, least)
    return torch.where(span == 0, 0.0, (largest - value) / span)
