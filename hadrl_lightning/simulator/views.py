"""What each level sees of B networks: typed views in SI units, with the batch as first dimension (or `*rows`)."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.simulator.fields import SERVER, SERVICE, USER, View, number

BITS_PER_GIB = 8.0 * 1024**3


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


@dataclass(eq=False)
class OffloadingView(View):
    """What the fast level sees before a slot is served."""

    cache: Bool[Tensor, "*rows server service"] = field(
        metadata=number(SERVER, SERVICE, text="cache bit {}", dtype=torch.bool, whole=True)
    )
    """Services cached now."""
    free_cache_bits: Float[Tensor, "*rows server"] = field(
        metadata=number(SERVER, text="remaining cache of server {}", unit="bit", scale=BITS_PER_GIB)
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
