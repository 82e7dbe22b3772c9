"""Play whole episodes with a policy for each level."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.simulator.decisions import Allocation
from hadrl_lightning.simulator.network import EdgeNetwork
from hadrl_lightning.simulator.service import caching_reward

CachingPolicy = Callable[[EdgeNetwork], Tensor]
"""From the network to the next cache, bool [B, S, K]."""
OffloadingPolicy = Callable[[EdgeNetwork], Allocation]
"""From the network to the allocation of the coming slot."""


class Episode(NamedTuple):
    """One episode of B networks: D caching decisions, T = D * slots of a decision."""

    requests: Int[Tensor, "slot batch user"]
    positions: Float[Tensor, "slot batch user 2"]
    """m"""
    server: Int[Tensor, "slot batch user"]
    bandwidth_share: Float[Tensor, "slot batch user"]
    compute_share: Float[Tensor, "slot batch user"]
    latency: Float[Tensor, "slot batch user"]
    """s"""
    hit: Bool[Tensor, "slot batch user"]
    on_time: Bool[Tensor, "slot batch user"]
    energy: Float[Tensor, "slot batch user"]
    """J"""
    bandwidth_load: Float[Tensor, "slot batch server"]
    compute_load: Float[Tensor, "slot batch server"]
    spectral_efficiency: Float[Tensor, "slot batch user"]
    """bit/s/Hz"""
    cache: Bool[Tensor, "decision batch server service"]
    switching: Float[Tensor, "decision batch"]
    """s"""


def run_episode(
    network: EdgeNetwork, caching_policy: CachingPolicy, offloading_policy: OffloadingPolicy
) -> Episode:
    """Reset the networks and play one episode to its end."""
    network.reset()
    caches, switching, slots = [], [], []
    while not network.episode_over:
        if network.frame_over:
            caches.append(caching_policy(network))
            switching.append(network.begin_frame(caches[-1]))
        asked = network.requests, network.positions
        allocation = offloading_policy(network)
        slots.append((*asked, *allocation, *network.step(allocation)))
    columns = [torch.stack(column) for column in zip(*slots, strict=True)]
    return Episode._make([*columns, torch.stack(caches), torch.stack(switching)])


class EpisodeScores(NamedTuple):
    """What each episode is judged by, [B] each."""

    hit_ratio: Float[Tensor, " batch"]
    """Share of requests served from a cache."""
    latency: Float[Tensor, " batch"]
    """Latency summed over users, mean over slots, s."""
    on_time: Float[Tensor, " batch"]
    """Share of requests within their deadline."""
    energy: Float[Tensor, " batch"]
    """Transmit energy summed over users, mean over slots, J (`published`: dBm·s)."""
    switching: Float[Tensor, " batch"]
    """Switching cost, mean over caching decisions, s."""
    bandwidth_over_subscription: Float[Tensor, " batch"]
    """Bandwidth allotted beyond capacity as a share of it, mean over slots and servers."""
    compute_over_subscription: Float[Tensor, " batch"]
    """Compute allotted beyond capacity as a share of it, mean over slots and servers."""
    offloading_reward: Float[Tensor, " batch"]
    """Published reward of the fast level, mean over slots."""
    published_caching_reward: Float[Tensor, " batch"]
    """Published reward of the slow level, mean over caching decisions; what the agent is paid with is a setting."""


def episode_scores(episode: Episode) -> EpisodeScores:
    """Scores of each of the B networks of an episode."""
    slots_per_decision = len(episode.latency) // len(episode.switching)
    hits = episode.hit.sum(dim=2).to(episode.latency.dtype)
    hits_per_frame = hits.unflatten(0, (-1, slots_per_decision)).mean(dim=1)
    rewards = torch.stack(
        [caching_reward(*frame) for frame in zip(hits_per_frame, episode.switching, strict=True)]
    )
    return EpisodeScores(
        hit_ratio=hits.mean(dim=0) / episode.hit.shape[2],
        latency=episode.latency.sum(dim=2).mean(dim=0),
        on_time=episode.on_time.to(episode.latency.dtype).mean(dim=(0, 2)),
        energy=episode.energy.sum(dim=2).mean(dim=0),
        switching=episode.switching.mean(dim=0),
        bandwidth_over_subscription=(episode.bandwidth_load - 1).clamp(min=0).mean(dim=(0, 2)),
        compute_over_subscription=(episode.compute_load - 1).clamp(min=0).mean(dim=(0, 2)),
        offloading_reward=(1e4 / episode.latency.sum(dim=2)).mean(dim=0),
        published_caching_reward=rewards.mean(dim=0),
    )
