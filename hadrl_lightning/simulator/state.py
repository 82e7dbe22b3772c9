"""What an edge network remembers between slots, and the observations made of it."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator.constants import Constants, constants
from hadrl_lightning.simulator.service import Service


@dataclass
class NetworkState:
    """State of B parallel networks."""

    cache: Bool[Tensor, "batch server service"]
    """Services cached, bool [B, S, K]."""
    requests: Int[Tensor, "batch user"]
    """Service asked by each user in the coming slot, long [B, U]."""
    positions: Float[Tensor, "batch user 2"]
    """(x, y) of the users in the coming slot in metres, [B, U, 2]."""
    request_counts: Float[Tensor, "batch service"]
    """Requests served in this episode, [B, K]."""
    request_gain: Float[Tensor, "batch service"]
    """The published running request gain, [B, K]."""
    hit_counts: Float[Tensor, "batch server service"]
    """Hits in this episode, [B, S, K]."""
    taken_bits: Float[Tensor, "batch server"]
    """Input bits that each server took in the slot just served, 0 at the start of a frame, [B, S]."""
    taken_cycles: Float[Tensor, "batch server"]
    """CPU cycles that each server took in the slot just served, 0 at the start of a frame, [B, S]."""

    def tensors(self) -> dict[str, Tensor]:
        """All fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def empty_state(
    scenario: Scenario,
    requests: Int[Tensor, "batch user"],
    positions: Float[Tensor, "batch user 2"],
) -> NetworkState:
    """The state at the start of an episode: nothing cached, nothing counted."""
    batch = requests.shape[0]
    servers, services = scenario.num_servers, scenario.num_services
    zeros = positions.new_zeros
    return NetworkState(
        cache=torch.zeros(batch, servers, services, dtype=torch.bool, device=positions.device),
        requests=requests,
        positions=positions,
        request_counts=zeros(batch, services),
        request_gain=zeros(batch, services),
        hit_counts=zeros(batch, servers, services),
        taken_bits=zeros(batch, servers),
        taken_cycles=zeros(batch, servers),
    )


def count_slot(
    scenario: Scenario, state: NetworkState, server: Int[Tensor, "batch user"], service: Service
) -> None:
    """Add a served slot to the counts of the state, in place."""
    table = _table(scenario, state)
    requests, services = state.requests, scenario.num_services
    ones = torch.ones_like(state.positions[..., 0])
    asked = torch.zeros_like(state.request_counts).scatter_add_(1, requests, ones)
    state.request_counts += asked
    gain = (state.request_gain + asked) * (1e10 / table.storage_bits)
    state.request_gain = falling_scale(gain)
    hits = service.hit.to(ones.dtype)
    state.hit_counts.flatten(1).scatter_add_(1, server * services + requests, hits)
    state.taken_bits.zero_().scatter_add_(1, server, table.input_bits[requests])
    state.taken_cycles.zero_().scatter_add_(1, server, table.cycles[requests])


def falling_scale(value: Float[Tensor, "batch entry"]) -> Float[Tensor, "batch entry"]:
    """The published scaling (max - x) / (max - m), m = 0.1 where the least entry is 0, else the least; 0 if max = m."""
    largest, least = value.amax(1, keepdim=True), value.amin(1, keepdim=True)
    span = largest - torch.where(least == 0, 0.1, least)
    return torch.where(span == 0, 0.0, (largest - value) / span)


def caching_observation(
    scenario: Scenario, state: NetworkState, physics: Physics
) -> Float[Tensor, "batch caching"]:
    """Observation of the slow level, K (1 + 2 S) + S numbers.

    Cache bits (S K, server-major), request gain (K), offload popularity (S K), remaining cache in 10^9 bit (S).
    `strict`: gain and popularity are shares of the episode's requests and hits, and the coming decision may fill the
    whole usable cache. `published`: the published scalings, and what the present contents leave of the cache.
    """
    table = _table(scenario, state)
    hits = state.hit_counts.flatten(1)
    if physics == "published":
        gain, popularity = state.request_gain, falling_scale(hits)
        remaining = table.cache_bits - table.bits_of(state.cache)
    else:
        gain, popularity = _share(state.request_counts), _share(hits)
        remaining = table.usable_cache_bits.expand(hits.shape[0], -1)
    bits = state.cache.flatten(1).to(hits.dtype)
    return torch.cat([bits, gain, popularity, remaining / 1e9], dim=1)


def offloading_observation(
    scenario: Scenario, state: NetworkState, physics: Physics
) -> Float[Tensor, "batch offloading"]:
    """Observation of the fast level, S K + 3 S + 3 U numbers.

    Cache bits (S K, server-major); remaining cache in GiB (S), bandwidth in 10^5 Hz (S), compute in GHz (S); requested
    service 1...K (U), its input in 10^6 bit (U), its cycles in 10^9 (U). `strict`: all bandwidth and compute can be
    allotted in every slot. `published`: capacity less the bits and cycles that the server took in the slot before.
    """
    table = _table(scenario, state)
    bits = state.cache.flatten(1).to(state.positions.dtype)
    limit = table.cache_bits if physics == "published" else table.usable_cache_bits
    cache_gib = (limit - table.bits_of(state.cache)) / (8 * 1024**3)
    bandwidth, compute = table.bandwidth_hz, table.compute_hz
    if physics == "published":
        bandwidth, compute = bandwidth - state.taken_bits, compute - state.taken_cycles
    batch = bits.shape[0]
    return torch.cat(
        [
            bits,
            cache_gib,
            (bandwidth / 1e5).expand(batch, -1),
            (compute / 1e9).expand(batch, -1),
            (state.requests + 1).to(bits.dtype),
            table.input_bits[state.requests] / 1e6,
            table.cycles[state.requests] / 1e9,
        ],
        dim=1,
    )


def _share(counts: Tensor) -> Tensor:
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def _table(scenario: Scenario, state: NetworkState) -> Constants:
    return constants(scenario, "strict", state.positions.device, state.positions.dtype)
