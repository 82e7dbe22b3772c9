"""What the fields of a scenario may hold, by their names, and what networks take of memory."""

import math
import os
from collections.abc import Mapping
from typing import Any

from hadrl_lightning.typed import as_floats

COUNTS = {
    "num_servers": math.inf,
    "num_users": 100_000,
    "num_services": math.inf,
    "cell_radius_m": 10_000_000,
    "decisions_per_episode": 1_000_000,
    "slots_per_decision": 1_000_000,
    "history_slots": 1_000_000,
}
"""Whole numbers, and the largest that is allowed; of servers and services, as many as fit into memory."""
SIZES = ("num_servers", "num_users", "num_services")
"""Those of them that say how large a network is, and that can be ranges."""
LEAST = {"num_users": 0, "history_slots": 0}
"""The least that is allowed, where it is not 1: there are slots in which nobody asks for anything."""
POSITIVE = {
    "input_step_bytes": (1.0, 1e12),
    "input_bytes": (1.0, 1e12),
    "storage_step_bytes": (1.0, 1e15),
    "storage_bytes": (1.0, 1e15),
    "workload_cycles": (1.0, 1e20),
    "deadline_step_s": (1e-9, 1e12),
    "deadline_s": (1e-9, 1e12),
    "compute_hz": (1.0, 1e18),
    "bandwidth_hz": (1e3, 1e18),
    "cache_bytes": (1.0, 1e18),
    "backhaul_bytes_per_s": (1.0, 1e18),
    "cloud_rate_bit_per_s": (1.0, 1e18),
    "cloud_compute_hz": (1.0, 1e18),
    "min_distance_m": (1e-3, 1e7),
    "usable_cache_fraction": (1e-6, 1.0),
    "share_floor": (1e-6, 1.0),
    "free_share": (1e-6, 1.0),
}
"""Positive numbers: the least and the largest that are allowed, far beyond any network. Within these limits no latency,
energy, reward or observation leaves single precision, not even the sum over all users at the worst link and share."""
FORMULAS = {
    "input_step_bytes": ("input_bytes", 1e15),
    "storage_step_bytes": ("storage_bytes", 1e18),
    "deadline_step_s": ("deadline_s", 1e15),
}
"""Steps that are multiplied by up to `num_services`, the list that stands in for each, and the largest product."""
LISTS = {
    "compute_hz": "num_servers",
    "bandwidth_hz": "num_servers",
    "cache_bytes": "num_servers",
    "input_bytes": "num_services",
    "storage_bytes": "num_services",
    "workload_cycles": "num_services",
    "deadline_s": "num_services",
}
"""Fields that can be a list, and what their length is."""

BY_COUNT = {
    "popularity": "num_services",
    "offload_thresholds": "num_servers",
    "server_positions_m": "num_servers",
    "user_positions_m": "num_users",
}
"""What else can hold as many values as there are servers, users or services."""
POINTS = ("server_positions_m", "user_positions_m")
"""Fields that are lists of (x, y)."""

PUBLISHED_POPULARITY = (
    0.21229198890532444,
    0.1219297292172975,
    0.08815289960395892,
    0.07003023968857178,
    0.05858111079665425,
    0.050630545381643195,
    0.04475640280685803,
    0.04022181056515523,
    0.036604931484490705,
    0.033646012803007885,
)
"""Request probabilities of services K, K-1, ..., 1 in the published code; what is missing to 1 falls on service 1."""


def network_bytes(
    num_servers: int, num_users: int, num_services: int, num_envs: int = 1, links: bool = False
) -> int:
    """About what networks take of memory while they are played, in bytes, as measured with up to 4 million pairs.

    Args:
        num_servers: S.
        num_users: U.
        num_services: K.
        num_envs: networks in parallel.
        links: whether something is remembered of every user's link to every server, as processes do that move them.
    """
    own = 50 * num_servers * num_services + 150 * num_users + links * 140 * num_servers * num_users
    return num_envs * own + 500 * (num_servers + num_services)


def beyond_memory(needed_bytes: int) -> str:
    """What is needed and what this machine has of memory, in words; empty if that is enough."""
    have = memory_bytes()
    if needed_bytes <= have:
        return ""
    return (
        f"about {as_floats(needed_bytes) / 2**30:.3g} GiB are needed, and this machine has {have / 2**30:.3g}"
    )


def memory_bytes() -> int:
    """Memory of this machine, or 1 TiB where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 2**40


def with_popularity(scenario: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a scenario, of popularity zipf where the published one is not of so many services.

    Only where settings of the data name a file of services or requests, which says how popular they are.
    """
    fields, number = dict(scenario), len(PUBLISHED_POPULARITY)
    published = fields.get("popularity", "published") == "published"
    if (
        published
        and fields.get("num_services", number) != number
        and (data.get("services") or data.get("requests"))
    ):
        fields["popularity"] = "zipf"
    return fields
