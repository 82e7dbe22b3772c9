"""The ranges of a network's numbers: what training saw, and what a use brings."""

from collections.abc import Sequence
from math import dist, sqrt
from typing import NamedTuple

import torch

from hadrl_lightning.limits import POINTS
from hadrl_lightning.number_range import Range
from hadrl_lightning.scenario import BITS_PER_BYTE, GIB, MIB, Physics, Scenario
from hadrl_lightning.simulator import rules
from hadrl_lightning.simulator.constants import constants


class Unit(NamedTuple):
    """How a number is shown."""

    name: str = ""
    size: float = 1.0


NUMBERS: dict[str, Unit] = {
    "num_servers": Unit(),
    "num_users": Unit(),
    "num_services": Unit(),
    "compute_hz": Unit("GHz", 1e9),
    "bandwidth_hz": Unit("MHz", 1e6),
    "usable cache of a server": Unit("GiB", BITS_PER_BYTE * GIB),
    "usable cache / storage of all services": Unit(),
    "storage of a service": Unit("GiB", BITS_PER_BYTE * GIB),
    "input of a task": Unit("Mbit", 1e6),
    "cycles of a task": Unit("G", 1e9),
    "distance to the home server": Unit("m"),
    "cloud_rate_bit_per_s": Unit("Mbit/s", 1e6),
    "cloud_compute_hz": Unit("GHz", 1e9),
    "cloud_delay_s": Unit("s"),
    "backhaul_bytes_per_s": Unit("MiB/s", MIB),
    "transmit_power_dbm": Unit("dBm"),
    "noise_dbm": Unit("dBm"),
    "path_loss_constant_db": Unit("dB"),
    "path_loss_slope_db": Unit("dB"),
    "min_distance_m": Unit("m"),
    "share_floor": Unit(),
}
"""Every number that is compared, in SI units and bit: what a slot's latencies depend on, but for the requests' law."""

Ranges = dict[str, tuple[float, float]]
"""Least and largest value of some numbers, by name."""


def ranges_of(scenario: Scenario, physics: Physics = "strict") -> Ranges:
    """What a network of this scenario can bring, whatever it draws from the scenario's ranges."""
    found = [_ranges_of_one(one, physics) for one in scenario.corners()]
    ranges = {
        name: (min(one[name][0] for one in found), max(one[name][1] for one in found)) for name in found[0]
    }
    ends = [end for name in POINTS if name in scenario.ranges for end in _ends(scenario.ranges[name])]
    if ends and "distance to the home server" in ranges:  # anywhere within the ranges, which no corner shows
        points = [point for name in POINTS for point in getattr(scenario, name) or ()]
        ends += [coordinate for point in points for coordinate in point]
        ranges["distance to the home server"] = (0.0, (max(ends) - min(ends)) * sqrt(2))
    return ranges


def _ends(range_: Range) -> tuple[float, float]:
    return range_.low, range_.high


def _ranges_of_one(scenario: Scenario, physics: Physics) -> Ranges:
    storage = sum(scenario.storage_bits)
    caches = scenario.usable_cache_bits
    values: dict[str, Sequence[float]] = {
        "compute_hz": scenario.compute_per_server_hz,
        "bandwidth_hz": scenario.bandwidth_per_server_hz,
        "usable cache of a server": caches,
        "usable cache / storage of all services": [min(1.0, bits / storage) for bits in caches],
        "storage of a service": scenario.storage_bits,
        "input of a task": scenario.input_bits,
        "cycles of a task": scenario.cycles,
        "distance to the home server": _home_distances_m(scenario, physics),
    }
    constants = {name: [float(getattr(scenario, name))] for name in NUMBERS if name not in values}
    every = {**constants, **values}
    return {name: (min(every[name]), max(every[name])) for name in NUMBERS if every[name]}


def _home_distances_m(scenario: Scenario, physics: Physics) -> list[float]:
    table = constants(scenario, torch.device("cpu"), torch.float64)
    homes = [scenario.servers_m[home] for home in rules(physics).homes(table).tolist()]
    if scenario.user_positions_m is not None:
        return [dist(user, home) for user, home in zip(scenario.user_positions_m, homes)]
    reach = scenario.cell_radius_m * sqrt(2)
    apart = [dist(scenario.servers_m[cell], home) for cell, home in zip(scenario.cells, homes)]
    return [max(0.0, away - reach) for away in apart] + [away + reach for away in apart]


def shown(name: str, ends: tuple[float, float], only: str = "") -> str:
    """A range in the unit of its number, such as `0.6 to 60 GHz`; `only` goes before a single value."""
    unit = NUMBERS[name]
    least, most = (f"{value / unit.size:.4g}" for value in ends)
    text = f"{least} to {most}" if least != most else f"{only}{least}"
    return f"{text} {unit.name}".rstrip()
