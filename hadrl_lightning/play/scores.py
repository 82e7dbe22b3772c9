"""What slots, frames and episodes are worth: every score and every reward, once.

`B` networks, `U` users, `S` servers. Functions of what users got take that of a slot, [B, U], or of several, [T, B, U].
What sums over users leaves the slots as they are; a mean over tasks or servers is one over slots too. Users without a
task in a slot count for nothing in it: shares and means are of tasks, and 0 where there was none.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.play.player import Episode, PlayedFrame
from hadrl_lightning.simulator import Service
from hadrl_lightning.simulator.state import asked

REWARD_NUMERATOR = 1e4
"""The published reward of the fast level is this over the latency summed over users."""
LATENCY_WEIGHT = 0.15
"""Hits that a second of latency is worth."""

Reward = Literal["published", "latency"]
"""What environments and rival learners are paid with: the published reward of the level, or minus the mean latency of a
task in seconds."""
CachingObjective = Literal["published", "hits", "latency", "hits_and_latency"]
"""`published`: hits a slot / 100 + 1 / (switching cost + 100). `hits`: hit ratio. `latency`: minus the mean latency
of a user in seconds. `hits_and_latency`: hit ratio less `latency_weight` times that latency."""


# What is counted and summed ------------------------------------------------------------------------------------------


def tasks(
    latency: Float[Tensor, "*slot batch user"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*slot batch"]:
    """Users who had a task."""
    return asked(latency).sum(dim=-1, dtype=dtype)


def hits(
    hit: Bool[Tensor, "*slot batch user"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*slot batch"]:
    """Tasks served from a cache."""
    return hit.sum(dim=-1, dtype=dtype)


def in_time(
    on_time: Bool[Tensor, "*slot batch user"],
    asked: Bool[Tensor, "*slot batch user"],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*slot batch"]:
    """Tasks within their deadline."""
    return (on_time & asked).sum(dim=-1, dtype=dtype)


def share(some: Float[Tensor, "*any"], of_tasks: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Hits as the hit ratio, or tasks in time as a share: of so many tasks in all, 0 of none."""
    return torch.where(of_tasks == 0, 0.0, some / of_tasks)


def total_latency(latency: Float[Tensor, "*slot batch user"]) -> Float[Tensor, "*slot batch"]:
    """Latency summed over users, s."""
    return latency.sum(dim=-1)


def task_latency(latency: Float[Tensor, "*slot batch user"]) -> Float[Tensor, " batch"]:
    """Mean latency of a task, s."""
    number = tasks(latency, latency.dtype)
    over = (0, 2) if latency.ndim == 3 else 1
    return share(latency.sum(dim=over), number.sum(dim=0) if latency.ndim == 3 else number)


def total_energy(energy: Float[Tensor, "*slot batch user"]) -> Float[Tensor, "*slot batch"]:
    """Transmit energy summed over users, J (`published`: dBm·s)."""
    return energy.sum(dim=-1)


def excess(load: Float[Tensor, "*slot batch server"]) -> Float[Tensor, "*slot batch server"]:
    """What a server allots beyond its capacity, as a share of it."""
    return (load - 1).clamp(min=0)


def over_subscription(load: Float[Tensor, "*slot batch server"]) -> Float[Tensor, " batch"]:
    """What is allotted beyond capacity as a share of it, mean over servers."""
    return excess(load).mean(dim=(0, 2) if load.ndim == 3 else 1)


# Rewards -------------------------------------------------------------------------------------------------------------


def offloading_reward(latency: Float[Tensor, "*slot batch user"]) -> Float[Tensor, "*slot batch"]:
    """The published reward of the fast level, 10^4 over the latency summed over users; 0 where nobody had a task."""
    total = total_latency(latency)
    return torch.where(total == 0, 0.0, REWARD_NUMERATOR / total)


def caching_reward(
    hits_per_slot: Float[Tensor, "*frame batch"], switching: Float[Tensor, "*frame batch"]
) -> Float[Tensor, "*frame batch"]:
    """The published reward of the slow level: mean hits per slot / 100 + 1 / (switching cost + 100)."""
    return hits_per_slot / 100 + 1 / (switching + 100)


def offloading_objective(objective: Reward, latency: Float[Tensor, "batch user"]) -> Float[Tensor, " batch"]:
    """Reward of each network for a slot."""
    return offloading_reward(latency) if objective == "published" else -task_latency(latency)


class FrameScores(NamedTuple):
    """What a frame is rewarded for, [B] each."""

    hits: Float[Tensor, " batch"]
    """Tasks served from a cache, mean over slots."""
    hit_ratio: Float[Tensor, " batch"]
    """The same as a share of all tasks."""
    task_latency: Float[Tensor, " batch"]
    """Mean latency of a task, s."""
    switching: Float[Tensor, " batch"]
    """Cost of the caching decision, s."""


def frame_scores(frame: PlayedFrame[Any, Any]) -> FrameScores:
    """What each of the B networks is rewarded for in a frame."""
    latency, dtype = frame.latency, frame.switching.dtype
    number = tasks(latency, dtype)
    ratio = share(hits(frame.hit, dtype).sum(dim=0), number.sum(dim=0))
    return FrameScores(ratio * number.mean(dim=0), ratio, task_latency(latency), frame.switching)


def caching_objective(
    objective: CachingObjective, frame: FrameScores, latency_weight: float = LATENCY_WEIGHT
) -> Float[Tensor, " batch"]:
    """Reward of each network for a frame.

    Hits alone leave open where services that fit several times should stand, and their best caches are not those of
    least latency: in ES3 with caches of 40 GiB a weight below 0.066 prefers the caches of most hits (39.9 s a slot) to
    those of least latency (33.9 s). Latency alone has a long tail, in which what a cache earns is harder to see.

    Args:
        objective: which reward.
        frame: what the frame was like.
        latency_weight: hits that a second of latency is worth, for `hits_and_latency`; at least 0.

    Raises:
        ValueError: an unknown objective or a weight out of range.
    """
    if objective not in get_args(CachingObjective):
        raise ValueError(f"objective must be one of {', '.join(get_args(CachingObjective))}, got {objective}")
    if not 0 <= latency_weight < torch.inf:
        raise ValueError(f"latency_weight must be at least 0 and finite, got {latency_weight}")
    if objective == "published":
        return caching_reward(frame.hits, frame.switching)
    if objective == "hits":
        return frame.hit_ratio
    if objective == "latency":
        return -frame.task_latency
    return frame.hit_ratio - latency_weight * frame.task_latency


# Of a slot, of an episode --------------------------------------------------------------------------------------------


class SlotScores(NamedTuple):
    """What a slot was like, [B] each."""

    hits: Float[Tensor, " batch"]
    """Tasks served from a cache."""
    hit_ratio: Float[Tensor, " batch"]
    """The same as a share of all tasks."""
    latency: Float[Tensor, " batch"]
    """Summed over the users, s."""
    on_time: Float[Tensor, " batch"]
    """Share of tasks within their deadline."""
    energy: Float[Tensor, " batch"]
    """Transmit energy summed over the users, J (`published`: dBm·s)."""
    bandwidth_over_subscription: Float[Tensor, " batch"]
    """Bandwidth allotted beyond capacity as a share of it, mean over servers."""
    compute_over_subscription: Float[Tensor, " batch"]
    """Compute allotted beyond capacity as a share of it, mean over servers."""
    switching: Float[Tensor, " batch"]
    """What the caching decision before this slot took to fetch, s; 0 where none was due."""


def slot_scores(service: Service, switching: Float[Tensor, " batch"]) -> SlotScores:
    """Scores of each of the B networks of a slot; `switching` is the cost of the decision before it, 0 without one."""
    dtype = service.latency.dtype
    hit, number = hits(service.hit, dtype), tasks(service.latency, dtype)
    return SlotScores(
        hits=hit,
        hit_ratio=share(hit, number),
        latency=total_latency(service.latency),
        on_time=share(in_time(service.on_time, service.asked, dtype), number),
        energy=total_energy(service.energy),
        bandwidth_over_subscription=over_subscription(service.bandwidth_load),
        compute_over_subscription=over_subscription(service.compute_load),
        switching=switching,
    )


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
    dtype = episode.latency.dtype
    hit, number = hits(episode.hit, dtype), tasks(episode.latency, dtype)
    timely = in_time(episode.on_time, episode.asked, dtype)
    hits_per_frame = hit.unflatten(0, (len(episode.switching), -1)).mean(dim=1)
    return EpisodeScores(
        hit_ratio=share(hit.mean(dim=0), number.mean(dim=0)),
        latency=total_latency(episode.latency).mean(dim=0),
        on_time=share(timely.sum(dim=0), number.sum(dim=0)),
        energy=total_energy(episode.energy).mean(dim=0),
        switching=episode.switching.mean(dim=0),
        bandwidth_over_subscription=over_subscription(episode.bandwidth_load),
        compute_over_subscription=over_subscription(episode.compute_load),
        offloading_reward=offloading_reward(episode.latency).mean(dim=0),
        published_caching_reward=caching_reward(hits_per_frame, episode.switching).mean(dim=0),
    )
