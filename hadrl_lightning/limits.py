"""What the fields of a scenario may hold: ranges, and the checks that say what is wrong."""

import math
import os
from typing import Any

import numpy as np

COUNTS = {
    "num_servers": math.inf,
    "num_users": 100_000,
    "num_services": math.inf,
    "cell_radius_m": 10_000_000,
    "decisions_per_episode": 1_000_000,
    "slots_per_decision": 1_000_000,
}
"""Whole numbers, and the largest that is allowed; of servers and services, as many as fit into memory."""
LEAST = {"num_users": 0}
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

POINTS = ("server_positions_m", "user_positions_m")
"""Fields that are lists of (x, y)."""
RANGED = {
    **dict.fromkeys(
        (
            "input_step_bytes",
            "storage_step_bytes",
            "deadline_step_s",
            "zipf_exponent",
            "usable_cache_fraction",
            "backhaul_bytes_per_s",
            "cloud_rate_bit_per_s",
            "cloud_compute_hz",
            "cloud_delay_s",
            "transmit_power_dbm",
            "noise_dbm",
            "path_loss_constant_db",
            "path_loss_slope_db",
            "min_distance_m",
        ),
        "",
    ),
    **LISTS,
    "popularity": "num_services",
    "server_positions_m": "num_servers",
    "user_positions_m": "num_users",
}
"""Fields that networks can draw from a range, and what each of a network has one number of (positions: two)."""
CAPACITIES = ("compute_hz", "bandwidth_hz", "cache_bytes", "usable_cache_fraction")
"""Those of them that say what a server can do; most others say what is asked of it."""


def as_floats(value: Any) -> Any:
    """Lists and arrays become tuples and whole numbers floats, at any depth; all else stays."""
    value = plain(value)
    if isinstance(value, list | tuple):
        return tuple(as_floats(item) for item in value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def plain(value: Any) -> Any:
    """A number or an array of numpy's as Python's own numbers and lists; all else stays."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def network_bytes(num_servers: int, num_users: int, num_services: int, num_envs: int = 1) -> int:
    """About what networks take of memory while they are played, in bytes, as measured with up to 4 million pairs."""
    return num_envs * (50 * num_servers * num_services + 150 * num_users) + 500 * (num_servers + num_services)


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


def check_integer(name: str, value: Any, least: int, most: int | float) -> None:
    """Raise a ValueError that names the field if the value is no whole number in this range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {as_floats(value):g}")


def check_number(
    name: str, value: Any, least: float | None = None, above: float | None = None, most: float | None = None
) -> None:
    """Raise a ValueError that names the field if the value is no finite number in this range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    if above is not None and value <= above:
        raise ValueError(f"{name} must be greater than {above:g}, got {value:g}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least:g}, got {value:g}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most:g}, got {value:g}")
