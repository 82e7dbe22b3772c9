"""What an edge network remembers between slots."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.constants import Constants, constants


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
    scenario: Scenario,
    state: NetworkState,
    server: Int[Tensor, "batch user"],
    hit: Bool[Tensor, "batch user"],
) -> None:
    """Add a served slot to the counts of the state, in place."""
    table = _table(scenario, state)
    requests, services = state.requests, scenario.num_services
    ones = torch.ones_like(state.positions[..., 0])
    asked = torch.zeros_like(state.request_counts).scatter_add_(1, requests, ones)
    state.request_counts += asked
    gain = (state.request_gain + asked) * (1e10 / table.storage_bits)
    state.request_gain = falling_scale(gain)
    hits = hit.to(ones.dtype)
    state.hit_counts.flatten(1).scatter_add_(1, server * services + requests, hits)
    state.taken_bits.zero_().scatter_add_(1, server, table.input_bits[requests])
    state.taken_cycles.zero_().scatter_add_(1, server, table.cycles[requests])


def falling_scale(value: Float[Tensor, "batch entry"]) -> Float[Tensor, "batch entry"]:
    """The published scaling (max - x) / (max - m), m = 0.1 where the least entry is 0, else the least; 0 if max = m."""
    largest, least = value.amax(1, keepdim=True), value.amin(1, keepdim=True)
    span = largest - torch.where(least == 0, 0.1, least)
    return torch.where(span == 0, 0.0, (largest - value) / span)


def _table(scenario: Scenario, state: NetworkState) -> Constants:
    return constants(scenario, state.positions.device, state.positions.dtype)
