"""What the caching agent is rewarded for."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.simulator import caching_reward

CachingObjective = Literal["published", "hits", "latency", "hits_and_latency"]
"""`published`: hits a slot / 100 + 1 / (switching cost + 100). `hits`: hit ratio. `latency`: minus the mean latency
of a user in seconds. `hits_and_latency`: hit ratio less `latency_weight` times that latency."""

LATENCY_WEIGHT = 0.15
"""Hits that a second of latency is worth."""


def caching_objective(
    objective: CachingObjective,
    hit_ratio: Float[Tensor, " batch"],
    mean_latency_s: Float[Tensor, " batch"],
    switching: Float[Tensor, " batch"],
    num_users: int,
    latency_weight: float = LATENCY_WEIGHT,
) -> Float[Tensor, " batch"]:
    """Reward of each network for a frame.

    Hits alone leave open where services that fit several times should stand, and their best caches are not those of
    least latency: in ES3 with caches of 40 GiB a weight below 0.066 prefers the caches of most hits (39.9 s a slot) to
    those of least latency (33.9 s). Latency alone has a long tail, in which what a cache earns is harder to see.

    Args:
        objective: which reward.
        hit_ratio: hits of the frame over its requests, [B].
        mean_latency_s: latency per request of the frame in seconds, [B].
        switching: cost of the caching decision in seconds, [B].
        num_users: U; the published reward counts hits a slot.
        latency_weight: hits that a second of latency is worth, for `hits_and_latency`; at least 0.

    Raises:
        ValueError: an unknown objective or a weight out of range.
    """
    if objective not in get_args(CachingObjective):
        raise ValueError(f"objective must be one of {', '.join(get_args(CachingObjective))}, got {objective}")
    if not 0 <= latency_weight < torch.inf:
        raise ValueError(f"latency_weight must be at least 0 and finite, got {latency_weight}")
    if objective == "published":
        return caching_reward(hit_ratio * num_users, switching)
    if objective == "hits":
        return hit_ratio
    if objective == "latency":
        return -mean_latency_s
    return hit_ratio - latency_weight * mean_latency_s
