"""What an agent has seen in training: the range of every number, and which numbers of a use lie outside."""

from collections.abc import Sequence
from math import dist, sqrt
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.distributed import MergedOverRanks, largest
from hadrl_lightning.scenario import BITS_PER_BYTE, GIB, MIB, Physics, Scenario
from hadrl_lightning.scenario.limits import POINTS
from hadrl_lightning.simulator import CachingView, OffloadingView, View, offloading_view_of, rules
from hadrl_lightning.simulator.constants import constants
from hadrl_lightning.simulator.fields import SERVER
from hadrl_lightning.simulator.processes import CellPositions, FixedPositions, processes_of
from hadrl_lightning.simulator.views import OF_THE_CLOUD

TOLERANCE = 1e-6
"""Relative: views are in single precision."""
MOST_NAMED = 4
"""Numbers that a warning names."""


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

OF_TASKS = ("input of a task", "cycles of a task")
"""Those of the numbers that are of tasks: not compared where processes set them."""
Ranges = dict[str, tuple[float, float]]
"""Least and largest value of some numbers, by name."""


def ranges_of_scenario(scenario: Scenario, physics: Physics = "strict") -> Ranges:
    """What a network of this scenario can bring, whatever it draws from the scenario's ranges."""
    found = [_of_one_network(one, physics) for one in scenario.corners()]
    ranges = {
        name: (min(one[name][0] for one in found), max(one[name][1] for one in found)) for name in found[0]
    }
    drawn = [scenario.ranges[name] for name in POINTS if name in scenario.ranges]
    ends = [end for one in drawn for end in (one.low, one.high)]
    if ends and "distance to the home server" in ranges:  # anywhere within the ranges, which no corner shows
        points = [point for name in POINTS for point in getattr(scenario, name) or ()]
        ends += [coordinate for point in points for coordinate in point]
        ranges["distance to the home server"] = (0.0, (max(ends) - min(ends)) * sqrt(2))
    return ranges


def ranges_of_view(view: OffloadingView, physics: Physics) -> Ranges:
    """What views show of these numbers; of capacities nothing where they are shown less what was taken."""
    columns = {} if view.idle_users else dict(zip(OF_TASKS, (view.input_bits, view.cycles)))
    columns |= {name: getattr(view, name) for name in OF_THE_CLOUD}
    if rules(physics).shows_capacity:
        servers = view.bandwidth_hz.shape[-1] - view.beyond
        columns |= {name: getattr(view, name)[..., :servers] for name in ("bandwidth_hz", "compute_hz")}
    return _of_view(view, columns)


def ranges_of_caching_view(view: CachingView, usable_bits: Float[Tensor, "*rows server"]) -> Ranges:
    """The same of caching views, with what may be filled of each cache."""
    storage = view.storage_bits.double()
    part = usable_bits / storage.sum(dim=-1, keepdim=True)
    columns = {
        "usable cache of a server": usable_bits,
        "usable cache / storage of all services": part.clamp(max=1),
        "storage of a service": storage,
        **{name: getattr(view, name) for name in OF_THE_CLOUD},
    }
    return _of_view(view, columns)


class SeenRanges(MergedOverRanks):
    """The least and the largest value of each of `NUMBERS` in training; part of the weights."""

    least: Float[Tensor, " number"]
    most: Float[Tensor, " number"]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("least", torch.full((len(NUMBERS),), torch.inf, dtype=torch.float64))
        self.register_buffer("most", torch.full((len(NUMBERS),), -torch.inf, dtype=torch.float64))

    def include(self, ranges: Ranges) -> None:
        """Take in what was met. Every rank of `torch.distributed` has to call."""
        none = (torch.inf, -torch.inf)
        ends = torch.tensor([ranges.get(name, none) for name in NUMBERS], dtype=torch.float64).to(self.least)
        both = torch.cat((-torch.minimum(self.least, ends[:, 0]), torch.maximum(self.most, ends[:, 1])))
        if not self.same_on_all_ranks:
            both = largest(both)
        self.least.copy_(-both[: len(NUMBERS)])
        self.most.copy_(both[len(NUMBERS) :])

    def ranges(self) -> Ranges:
        """What was seen; nothing of an agent that was never trained."""
        ends = zip(NUMBERS, self.least.tolist(), self.most.tolist())
        return {name: (least, most) for name, least, most in ends if least <= most}

    def extra_repr(self) -> str:
        """The ranges, each in the unit of its number."""
        return (
            "\n".join(f"{name}: {range_shown(name, ends)}" for name, ends in self.ranges().items())
            or "nothing"
        )

    def outside(self, ranges: Ranges) -> str:
        """Which of the ranges go beyond what was seen, in words with both ranges; empty where none does."""
        seen = self.ranges()
        found = [
            f"{name} is {range_shown(name, ends)} here, {range_shown(name, seen[name], 'only ')} in training"
            for name, ends in ranges.items()
            if name in seen and not _within(ends, seen[name])
        ]
        more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        return "; ".join(found[:MOST_NAMED]) + more


def range_shown(name: str, ends: tuple[float, float], only: str = "") -> str:
    """A range in the unit of its number, such as `0.6 to 60 GHz`; `only` goes before a single value."""
    unit = NUMBERS[name]
    least, most = (f"{value / unit.size:.4g}" for value in ends)
    text = f"{least} to {most}" if least != most else f"{only}{least}"
    return f"{text} {unit.name}".rstrip()


def _of_one_network(scenario: Scenario, physics: Physics) -> Ranges:
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
    if offloading_view_of(scenario).idle_users:  # sizes of tasks are of processes
        values.update({name: [] for name in OF_TASKS})
    every = {**constants, **values}
    return {name: (min(every[name]), max(every[name])) for name in NUMBERS if every[name]}


def _home_distances_m(scenario: Scenario, physics: Physics) -> list[float]:
    """Of fixed users; of others the least and the largest in their cells; none where processes settle them."""
    usual = CellPositions, FixedPositions
    if any(
        {"positions", "homes"} & set(process.brings) and not isinstance(process, usual)
        for process in processes_of(scenario, check=False).values()
    ):
        return []
    table = constants(scenario, torch.device("cpu"), torch.float64)
    homes = [scenario.servers_m[home] for home in rules(physics).homes(table).tolist()]
    if scenario.user_positions_m is not None:
        return [dist(user, home) for user, home in zip(scenario.user_positions_m, homes)]
    reach = scenario.cell_radius_m * sqrt(2)
    apart = [dist(scenario.servers_m[cell], home) for cell, home in zip(scenario.cells, homes)]
    return [max(0.0, away - reach) for away in apart] + [away + reach for away in apart]


def _of_view(view: View, columns: dict[str, Tensor]) -> Ranges:
    if not len(view):
        return {}
    ends = [torch.stack((one.min(), one.max())).double() for one in columns.values()]
    lengths = view.sizes()
    lengths[SERVER] -= view.beyond
    counts = {f"num_{axis}s": (float(length), float(length)) for axis, length in lengths.items()}
    return {
        **counts,
        **{name: (least, most) for name, (least, most) in zip(columns, torch.stack(ends).tolist())},
    }


def _within(ends: tuple[float, float], seen: tuple[float, float]) -> bool:
    slack = [TOLERANCE * abs(end) for end in seen]
    return seen[0] - slack[0] <= ends[0] and ends[1] <= seen[1] + slack[1]
