"""What slots, frames and episodes are worth: every score and every reward, once.

`B` networks, `U` users, `S` servers. Functions of what users got take that of a slot, [B, U], or of several, [T, B, U].
What sums over users leaves the slots as they are; a mean over tasks or servers is one over slots too. Users without a
task in a slot count for nothing in it: shares and means are of tasks. Where there was none, those of a slot and rewards
are 0, and those of an episode, which are averaged over episodes, are not a number.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.play.player import Episode, PlayedFrame
from hadrl_lightning.scenario import Preferences
from hadrl_lightning.scenario.preferences import USUAL
from hadrl_lightning.simulator import Service
from hadrl_lightning.simulator.state import asked

REWARD_NUMERATOR = 1e4
"""The published reward of the fast level is this over the latency summed over users."""
LATENCY_WEIGHT = 0.15
"""Hits that a second of latency is worth."""

Reward = Literal["published", "latency"]
"""What environments and rival learners are paid with: the published reward of the level, or minus the mean cost of a
task, which is its latency in seconds unless the scenario's preferences weigh more (`task_cost`)."""
CachingObjective = Literal["published", "hits", "latency", "hits_and_latency"]
"""`published`: hits a slot / 100 + 1 / (switching cost + 100). `hits`: hit ratio. `latency`: minus the mean cost of a
task, its latency in seconds unless the scenario's preferences weigh more, with what fetching costs by them.
`hits_and_latency`: hit ratio less `latency_weight` times that cost."""


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


def _share_if_any(some: Float[Tensor, "*any"], of_tasks: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The same, not a number where there is nothing that it could be a share of."""
    return torch.where(of_tasks == 0, torch.nan, some / of_tasks)


def total_latency(latency: Float[Tensor, "*slot batch user"]) -> Float[Tensor, "*slot batch"]:
    """Latency summed over users, s."""
    return latency.sum(dim=-1)


def mean_of_tasks(
    value: Float[Tensor, "*slot batch user"], latency: Float[Tensor, "*slot batch user"]
) -> Float[Tensor, " batch"]:
    """Mean of what every task has, by whose latency it is known who had one."""
    number = tasks(latency, latency.dtype)
    over = (0, 2) if latency.ndim == 3 else 1
    return share(value.sum(dim=over), number.sum(dim=0) if latency.ndim == 3 else number)


def task_cost(preferences: Preferences, got: Service | Episode) -> Float[Tensor, "*slot batch user"]:
    """What the outcomes of every user's task cost by the preferences: their weighted sum, by default the latency in s.

    A handover counts of idle users too. What fetching costs is not of a task (`Preferences.switching_s`).
    """
    if preferences.latency_alone:
        return got.latency
    missed = asked(got.latency) & ~got.on_time
    return (
        preferences.latency_s * got.latency
        + preferences.energy_j * got.energy
        + preferences.missed * missed
        + preferences.dropped * got.dropped
        + preferences.handovers * got.handover
    )


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


def offloading_reward(cost: Float[Tensor, "*slot batch user"]) -> Float[Tensor, "*slot batch"]:
    """The published reward of the fast level, 10^4 over the latency summed over users; 0 where nobody had a task.

    By preferences other than the usual ones over what tasks cost (`task_cost`).
    """
    total = total_latency(cost)
    return torch.where(total == 0, 0.0, REWARD_NUMERATOR / total)


def caching_reward(
    hits_per_slot: Float[Tensor, "*frame batch"], switching: Float[Tensor, "*frame batch"]
) -> Float[Tensor, "*frame batch"]:
    """The published reward of the slow level: mean hits per slot / 100 + 1 / (switching cost + 100)."""
    return hits_per_slot / 100 + 1 / (switching + 100)


def offloading_objective(
    objective: Reward, cost: Float[Tensor, "batch user"], latency: Float[Tensor, "batch user"] | None = None
) -> Float[Tensor, " batch"]:
    """Reward of each network for a slot of tasks of such costs; None: of such latencies, which are their costs."""
    if objective == "published":
        return offloading_reward(cost)
    return -mean_of_tasks(cost, cost if latency is None else latency)


class FrameScores(NamedTuple):
    """What a frame is rewarded for, [B] each."""

    hits: Float[Tensor, " batch"]
    """Tasks served from a cache, mean over slots."""
    hit_ratio: Float[Tensor, " batch"]
    """The same as a share of all tasks."""
    task_cost: Float[Tensor, " batch"]
    """Mean cost of a task by the preferences: by default its latency, s."""
    switching: Float[Tensor, " batch"]
    """Cost of the caching decision, s."""
    fetching: Float[Tensor, " batch"] | float = 0.0
    """What that costs by the preferences, spread over the tasks of the frame."""


def frame_scores(frame: PlayedFrame[Any, Any], preferences: Preferences = USUAL) -> FrameScores:
    """What each of the B networks is rewarded for in a frame."""
    latency, dtype = frame.latency, frame.switching.dtype
    number = tasks(latency, dtype)
    ratio = share(hits(frame.hit, dtype).sum(dim=0), number.sum(dim=0))
    cost = torch.stack([task_cost(preferences, slot.service) for slot in frame.slots])
    fetching = share(preferences.switching_s * frame.switching, number.sum(dim=0))
    mean = mean_of_tasks(cost, latency)
    return FrameScores(ratio * number.mean(dim=0), ratio, mean, frame.switching, fetching)


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
        return -(frame.task_cost + frame.fetching)
    return frame.hit_ratio - latency_weight * (frame.task_cost + frame.fetching)


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
    """What each episode is judged by, [B] each; what is of tasks is not a number where there was none."""

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
    cost: Float[Tensor, " batch"]
    """What tasks and fetching cost by the preferences, summed over users, mean over slots; by default the latency."""
    dropped: Float[Tensor, " batch"]
    """Share of tasks that were dropped."""
    handovers: Float[Tensor, " batch"]
    """Changes of the home server, summed over users, mean over slots."""
    byte_hit_ratio: Float[Tensor, " batch"]
    """Share of the tasks' input that was computed from a cache: hits, each as large as its task."""
    fairness: Float[Tensor, " batch"]
    """Jain's index of the users' mean latencies, 1 where all are alike and 1/U where one has all (Jain, Chiu and Hawe
    1984)."""
    task_p95: Float[Tensor, " batch"]
    """95th percentile of the latency of tasks, s."""
    task_p99: Float[Tensor, " batch"]
    """99th percentile of it, s."""
    device_energy: Float[Tensor, " batch"]
    """What of the energy was for computing on devices, J."""


def episode_scores(episode: Episode, preferences: Preferences = USUAL) -> EpisodeScores:
    """Scores of each of the B networks of an episode."""
    dtype = episode.latency.dtype
    hit, number = hits(episode.hit, dtype), tasks(episode.latency, dtype)
    timely = in_time(episode.on_time, episode.asked, dtype)
    hits_per_frame = hit.unflatten(0, (len(episode.switching), -1)).mean(dim=1)
    return EpisodeScores(
        hit_ratio=_share_if_any(hit.mean(dim=0), number.mean(dim=0)),
        latency=total_latency(episode.latency).mean(dim=0),
        on_time=_share_if_any(timely.sum(dim=0), number.sum(dim=0)),
        energy=total_energy(episode.energy).mean(dim=0),
        switching=episode.switching.mean(dim=0),
        bandwidth_over_subscription=over_subscription(episode.bandwidth_load),
        compute_over_subscription=over_subscription(episode.compute_load),
        offloading_reward=offloading_reward(episode.latency).mean(dim=0),
        published_caching_reward=caching_reward(hits_per_frame, episode.switching).mean(dim=0),
        cost=_cost(episode, preferences),
        dropped=_share_if_any(episode.dropped.sum(dim=(0, 2), dtype=dtype), number.sum(dim=0)),
        handovers=episode.handover.sum(dim=2, dtype=dtype).mean(dim=0),
        byte_hit_ratio=_byte_hit_ratio(episode),
        fairness=fairness(episode.latency),
        task_p95=task_quantile(episode.latency, 0.95),
        task_p99=task_quantile(episode.latency, 0.99),
        device_energy=total_energy(episode.device_energy).mean(dim=0),
    )


def _cost(episode: Episode, preferences: Preferences) -> Float[Tensor, " batch"]:
    by_tasks = total_latency(task_cost(preferences, episode)).mean(dim=0)
    return by_tasks + preferences.switching_s * episode.switching.sum(dim=0) / len(episode.latency)


def _byte_hit_ratio(episode: Episode) -> Float[Tensor, " batch"]:
    bits = episode.input_bits.double() * episode.asked
    ratio = _share_if_any((bits * episode.hit).sum(dim=(0, 2)), bits.sum(dim=(0, 2)))
    return ratio.to(episode.latency.dtype)


def fairness(latency: Float[Tensor, "slot batch user"]) -> Float[Tensor, " batch"]:
    """Jain's index (Σ x)² / (n Σ x²) of the mean latencies x of the n users who had a task; not a number
    of none.
    """
    number = asked(latency).sum(dim=0)
    mean = share(latency.sum(dim=0), number.to(latency.dtype))
    users, squares = (number > 0).sum(dim=1), mean.square().sum(dim=1)
    return torch.where(squares > 0, mean.sum(dim=1).square() / (users * squares), torch.nan)


def task_quantile(latency: Float[Tensor, "slot batch user"], part: float) -> Float[Tensor, " batch"]:
    """Quantile of the latencies of the tasks of each network, linear between neighbours, s; not a number of none."""
    by_network = latency.transpose(0, 1).flatten(1)
    if not by_network.shape[1]:
        return by_network.new_full((len(by_network),), torch.nan)
    known = asked(by_network)
    ordered = torch.where(known, by_network, torch.inf).sort(dim=1).values  # `quantile` refuses more than 2²⁴
    place = part * (known.sum(dim=1, keepdim=True).double() - 1).clamp(min=0)
    lower = place.long()
    low, high = (ordered.gather(1, end) for end in (lower, place.ceil().long()))
    found = torch.lerp(low, high, (place - lower).to(ordered))
    return torch.where(known.any(dim=1), found.squeeze(1), torch.nan)
