"""What each level sees of B networks: typed views in SI units, with the batch as first dimension (or `*rows`)."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.scenario.limits import COUNTS, POSITIVE
from hadrl_lightning.simulator.fields import SERVER, SERVICE, USER, Field, View, number
from hadrl_lightning.typed import as_floats

BITS_PER_GIB = 8.0 * 1024**3
LEAST_LINK = 1e-7
"""bit/s/Hz. No network has a worse one: below what its links are kept at, by more than rounding."""
USUAL_LINK = 16.0
"""bit/s/Hz, of a user about as far from its server as in the shipped scenarios."""


def _of_the_cloud(name: str, text: str, unit: str, scale: float = 1.0) -> dict[str, Field]:
    """What declares a constant of the scenario that both levels see, no less than scenarios allow."""
    low = POSITIVE[name][0] if name in POSITIVE else 0.0
    usual = as_floats(getattr(Scenario, name))
    return number(text=text, unit=unit, scale=scale, low=low, in_vector=False, constant=name, usual=usual)


CLOUD_RATE = _of_the_cloud("cloud_rate_bit_per_s", "rate to the cloud", "bit/s", 1e6)
CLOUD_COMPUTE = _of_the_cloud("cloud_compute_hz", "compute of the cloud", "Hz", 1e9)
CLOUD_DELAY = _of_the_cloud("cloud_delay_s", "delay to the cloud", "s")
OF_THE_CLOUD = ("cloud_rate_bit_per_s", "cloud_compute_hz", "cloud_delay_s")
"""What both levels see of the cloud: constants of the network by the same names."""


@dataclass(eq=False)
class CachingView(View):
    """What the slow level sees before a caching decision."""

    cache: Bool[Tensor, "*rows server service"] = field(
        metadata=number(SERVER, SERVICE, text="cache bit {}", dtype=torch.bool, whole=True)
    )
    """Services cached now."""
    demand: Float[Tensor, "*rows service"] = field(metadata=number(SERVICE, text="demand of service {}"))
    """`strict`: each service's share of the episode's requests so far, 0 at its start. `published`: request gain."""
    hits: Float[Tensor, "*rows server service"] = field(
        metadata=number(SERVER, SERVICE, text="hits of pair {}")
    )
    """`strict`: each pair's share of the episode's hits so far. `published`: offload popularity."""
    free_cache_bits: Float[Tensor, "*rows server"] = field(
        metadata=number(SERVER, text="remaining cache of server {}", unit="bit", scale=1e9)
    )
    """What the coming decision may fill. `published`: what the present contents leave of the cache."""
    storage_bits: Float[Tensor, "*rows service"] = field(
        metadata=number(
            SERVICE,
            text="storage of service {}",
            unit="bit",
            scale=1e9,
            low=1.0,
            in_vector=False,
            constant="storage_bits",
        )
    )
    """What each service fills of a cache that holds it."""
    fetch_s: Float[Tensor, "*rows service"] = field(
        metadata=number(SERVICE, text="fetching of service {}", unit="s", in_vector=False, constant="fetch_s")
    )
    """How long it takes to bring each service to a server."""
    input_bits: Float[Tensor, "*rows service"] = field(
        metadata=number(
            SERVICE, text="input of service {}", unit="bit", scale=1e6, in_vector=False, constant="input_bits"
        )
    )
    """Input of a task of each service."""
    cycles: Float[Tensor, "*rows service"] = field(
        metadata=number(
            SERVICE, text="cycles of service {}", unit="cycles", scale=1e9, in_vector=False, constant="cycles"
        )
    )
    """CPU cycles of a task of each service."""
    bandwidth_hz: Float[Tensor, "*rows server"] = field(
        metadata=number(
            SERVER,
            text="bandwidth of server {}",
            unit="Hz",
            scale=1e5,
            in_vector=False,
            constant="bandwidth_per_server_hz",
        )
    )
    """Of each server, before anything of it is allotted."""
    compute_hz: Float[Tensor, "*rows server"] = field(
        metadata=number(
            SERVER,
            text="compute of server {}",
            unit="Hz",
            scale=1e9,
            in_vector=False,
            constant="compute_per_server_hz",
        )
    )
    """Of each server, before anything of it is allotted."""
    requests: Float[Tensor, "*rows service"] = field(
        metadata=number(SERVICE, text="requests of service {}", in_vector=False)
    )
    """How often each service was asked for in the episode so far."""
    recent_requests: Float[Tensor, "*rows service"] = field(
        metadata=number(SERVICE, text="recent requests of service {}", in_vector=False)
    )
    """The same since the caching decision before this one."""
    past_requests: Float[Tensor, "*rows service"] = field(
        metadata=number(SERVICE, text="past requests of service {}", in_vector=False, usual=0.0)
    )
    """How often each service was asked for before the episode (`Scenario.history_slots`)."""
    users: Float[Tensor, "*rows"] = field(
        metadata=number(
            text="number of users", whole=True, high=float(COUNTS["num_users"]), in_vector=False, usual=0.0
        )
    )
    """Users of a slot; 0 where nobody tells: then as many as the agent's scenario has."""
    spectral_efficiency: Float[Tensor, "*rows"] = field(
        metadata=number(
            text="link quality", unit="bit/s/Hz", low=LEAST_LINK, in_vector=False, usual=USUAL_LINK
        )
    )
    """Of the users' links to their home servers in the coming slot, fading aside: their harmonic mean."""
    cloud_rate_bit_per_s: Float[Tensor, "*rows"] = field(metadata=CLOUD_RATE)
    """Rate from every server to the cloud."""
    cloud_compute_hz: Float[Tensor, "*rows"] = field(metadata=CLOUD_COMPUTE)
    """CPU cycles per second that the cloud gives a task."""
    cloud_delay_s: Float[Tensor, "*rows"] = field(metadata=CLOUD_DELAY)
    """Fixed delay to the cloud and back."""


@dataclass(eq=False)
class OffloadingView(View):
    """What the fast level sees before a slot is served."""

    idle_users: ClassVar[bool] = False
    """Whether users may have no task in a slot (`Process.sets_tasks`)."""

    cache: Bool[Tensor, "*rows server service"] = field(
        metadata=number(SERVER, SERVICE, text="cache bit {}", dtype=torch.bool, whole=True)
    )
    """Services cached now."""
    free_cache_bits: Float[Tensor, "*rows server"] = field(
        metadata=number(
            SERVER, text="remaining cache of server {}", unit="bit", scale=BITS_PER_GIB, in_token=False
        )
    )
    """Of the usable cache. `published`: of the whole one."""
    bandwidth_hz: Float[Tensor, "*rows server"] = field(
        metadata=number(SERVER, text="bandwidth of server {}", unit="Hz", scale=1e5)
    )
    """What can be allotted in the slot. `published`: less the bits that the server took in the slot before."""
    compute_hz: Float[Tensor, "*rows server"] = field(
        metadata=number(SERVER, text="compute of server {}", unit="Hz", scale=1e9)
    )
    """What can be allotted in the slot. `published`: less the cycles that the server took in the slot before."""
    requests: Int[Tensor, "*rows user"] = field(
        metadata=number(USER, text="service of user {}", first=1, dtype=torch.long, whole=True, of=SERVICE)
    )
    """The service that each user asks for, from 0 on (in vectors from 1 on, as published)."""
    input_bits: Float[Tensor, "*rows user"] = field(
        metadata=number(USER, text="input of user {}", unit="bit", scale=1e6)
    )
    """Input of each user's task."""
    cycles: Float[Tensor, "*rows user"] = field(
        metadata=number(USER, text="cycles of user {}", unit="cycles", scale=1e9)
    )
    """CPU cycles of each user's task."""
    spectral_efficiency: Float[Tensor, "*rows user"] = field(
        metadata=number(
            USER, text="link of user {}", unit="bit/s/Hz", low=LEAST_LINK, in_vector=False, usual=USUAL_LINK
        )
    )
    """Of each user's link to its home server, fading aside: what phones report of their channel."""
    cloud_rate_bit_per_s: Float[Tensor, "*rows"] = field(metadata=CLOUD_RATE)
    """Rate from every server to the cloud."""
    cloud_compute_hz: Float[Tensor, "*rows"] = field(metadata=CLOUD_COMPUTE)
    """CPU cycles per second that the cloud gives a task."""
    cloud_delay_s: Float[Tensor, "*rows"] = field(metadata=CLOUD_DELAY)
    """Fixed delay to the cloud and back."""

    @property
    def asking(self) -> Bool[Tensor, "*rows user"] | None:
        """Who has a task in the slot: of no bits and no cycles there is none. None where everybody always has one."""
        return (self.input_bits > 0) | (self.cycles > 0) if self.idle_users else None
