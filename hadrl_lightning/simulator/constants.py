"""The constants of networks as tensors: of one scenario for all of them, or of each network by itself."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from hadrl_lightning.scenario import BITS_PER_BYTE, Scenario

OF_LINKS = (
    *(
        "cells",
        "published_homes",
        "servers_m",
        "min_distance_m",
        "path_loss_constant_db",
        "path_loss_slope_db",
    ),
    *("power_over_noise_db", "link_loss_db", "reported_efficiency"),
)
"""Constants by which links to the home servers are what they are, which processes may change from slot to slot."""
DEVICE_TARGETS = ("the user's own device", "the cloud")
"""Targets behind the servers where users' devices compute, in words."""
_POINTS = ("servers_m", "user_positions_m")
"""Constants that are (x, y) each."""


class Constants(NamedTuple):
    """Constants as tensors: services [K], servers [S], users [U], and single numbers [].

    Where B networks differ, those of each: [B, K], [B, S], [B, U], and single numbers [B, 1].
    """

    input_bits: Tensor
    storage_bits: Tensor
    cycles: Tensor
    deadlines_s: Tensor
    popularity: Tensor
    """Probability of each service, in double precision, [K]."""
    popularity_cdf: Tensor
    """Where each service's requests end among draws from [0, 1), in double precision on the CPU, [K]."""
    popularity_split: Tensor | None
    """[0, 1) in equal parts, each split by at most one of these ends: where it is, in double precision on the CPU."""
    popularity_choices: Tensor | None
    """The service below and the one above the split, part by part, long on the CPU. None as the splits, where networks
    differ or parts would have to be too many."""
    compute_hz: Tensor
    bandwidth_hz: Tensor
    usable_cache_bits: Tensor
    cache_bits: Tensor
    servers_m: Tensor
    """(x, y) of each server, [S, 2]."""
    cells: Tensor
    """Server around which each user is drawn, long [U]."""
    published_homes: Tensor
    """Server with which the published code associates each user, long [U]."""
    user_positions_m: Tensor | None
    """Fixed positions [U, 2], or none where users are drawn anew in every slot."""
    backhaul_bit_per_s: Tensor
    cloud_rate_bit_per_s: Tensor
    cloud_compute_hz: Tensor
    cloud_delay_s: Tensor
    transmit_power_w: Tensor
    transmit_power_dbm: Tensor
    power_over_noise_db: Tensor
    path_loss_constant_db: Tensor
    path_loss_slope_db: Tensor
    min_distance_m: Tensor
    link_loss_db: Tensor | None = None
    """Path loss of each user's link to every server in a slot, [B, U, S], where it isn't that of the distance."""
    reported_efficiency: Tensor | None = None
    """What phones report of every link in bit/s/Hz, [B, U, S], where it isn't the link, fading aside."""
    task_bits: Tensor | None = None
    """Input of each user's task in a slot in bit, [B, U], where it isn't that of its service. Together with the cycles:
    a task without input and cycles is none, its user idle."""
    task_cycles: Tensor | None = None
    """CPU cycles of each user's task, [B, U], where they aren't those of its service."""
    task_deadlines_s: Tensor | None = None
    """Deadline of each user's task in s, [B, U], where it isn't that of its service."""
    off: Tensor | None = None
    """Whose devices are off, bool [B, U]: their tasks are asked of nobody."""
    waiting_s: Tensor | None = None
    """How long a task waits at every server before it is computed there, in s, [B, S], where work is before it."""
    path_delay_s: Tensor | None = None
    """Delay of the path from every home to every server that serves in its place, in s, [B, S, S], if paths cost."""
    path_s_per_bit: Tensor | None = None
    """What a bit takes along that path, in s, [B, S, S]."""
    device_hz: Tensor | None = None
    """CPU cycles per second of each user's device, [B, U]. Where devices compute there are two further targets: S is a
    user's own device, S + 1 the cloud by a cell of its own, past the servers."""
    device_j_per_cycle: Tensor | None = None
    """What a cycle takes of the energy there, in J, [B, U]."""
    offloaded_share: Tensor | None = None
    """What part of a task goes to a server or the cloud; the device works on the rest meanwhile, [B, 1]."""
    cloud_bandwidth_hz: Tensor | None = None
    """Bandwidth of the cloud's own cell, in Hz, [B, 1]."""

    def bits_of(self, count: Tensor) -> Tensor:
        """Bits that services fill together, [..., K] -> [...]; no matrix product, which autocast would round."""
        size = self.storage_bits
        if size.ndim > 1:
            size = size.view(len(size), *[1] * (count.ndim - 2), -1)
        return (count * size).sum(dim=-1)

    def sizes(self, requests: Tensor) -> tuple[Tensor, Tensor]:
        """Input in bit and CPU cycles of users' tasks, [B, U] each, whether or not their devices are on."""
        return self._bits(requests), self._cycles(requests)

    def bits_asked(self, requests: Tensor) -> Tensor:
        """Input of the tasks of users who ask for these services, [B, U] -> [B, U], bit."""
        bits = self._bits(requests)
        return bits if self.off is None else bits.masked_fill(self.off, 0.0)

    def cycles_asked(self, requests: Tensor) -> Tensor:
        """CPU cycles of those tasks, [B, U] -> [B, U]."""
        cycles = self._cycles(requests)
        return cycles if self.off is None else cycles.masked_fill(self.off, 0.0)

    @property
    def usual_bits(self) -> Tensor:
        """Mean input of a task by the popularity, bit, [] or of each network [B]: in double precision on the CPU."""
        return (self.popularity.cpu() * self.input_bits.cpu().double()).sum(dim=-1)

    @property
    def usual_cycles(self) -> Tensor:
        """Mean cycles of a task by the popularity, as `usual_bits`."""
        return (self.popularity.cpu() * self.cycles.cpu().double()).sum(dim=-1)

    def _bits(self, requests: Tensor) -> Tensor:
        return of_each(self.input_bits, requests) if self.task_bits is None else self.task_bits

    def _cycles(self, requests: Tensor) -> Tensor:
        return of_each(self.cycles, requests) if self.task_cycles is None else self.task_cycles

    def deadlines_asked(self, requests: Tensor) -> Tensor:
        """Deadlines of those tasks, [B, U] -> [B, U], s."""
        return of_each(self.deadlines_s, requests) if self.task_deadlines_s is None else self.task_deadlines_s

    def idle(self, requests: Tensor) -> Tensor | None:
        """Who asks for nothing: without a task, or off, bool [B, U]; None where all ask."""
        without = self.without_task(requests)
        if self.off is None or without is None:
            return without if self.off is None else self.off
        return without | self.off

    def without_task(self, requests: Tensor) -> Tensor | None:
        """Which users have no task, whether or not their devices are on, bool [B, U]; None where all have one."""
        if self.task_bits is None and self.task_cycles is None:
            return None
        bits, cycles = self.sizes(requests)
        return (bits == 0) & (cycles == 0)

    def path_seconds(self, homes: Tensor, server: Tensor, bits: Tensor) -> Tensor | None:
        """What tasks of so many bits take from the users' homes to these servers, [B, U] each, s; None: no time."""
        if self.path_delay_s is None or self.path_s_per_bit is None:
            return None
        place = torch.add(server, homes, alpha=self.path_delay_s.shape[-1])
        delay, each = (path.flatten(1).gather(1, place) for path in (self.path_delay_s, self.path_s_per_bit))
        return delay + bits * each

    def cloud_seconds(self, bits: Tensor, cycles: Tensor) -> Tensor:
        """What a miss costs beyond the uplink, [B, U] -> [B, U], s."""
        return bits / self.cloud_rate_bit_per_s + cycles / self.cloud_compute_hz + self.cloud_delay_s

    def rows(self, rows: slice) -> "Constants":
        """Those of some of the networks."""
        return self._each(lambda value: value[rows])

    def repeated(self, times: int) -> "Constants":
        """Those of every network so many times, one behind the other."""
        return self._each(lambda value: value.repeat_interleave(times, dim=0))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Constants":
        """The same numbers elsewhere, rounded to another format; popularity stays in double precision."""
        made: dict[str, Tensor] = {}
        for name, value in self._asdict().items():
            if value is not None and not name.startswith("popularity_"):  # requests are drawn on the CPU
                kept = name == "popularity" or not value.is_floating_point()
                made[name] = value.to(device, None if kept else dtype)
        return self._replace(**made)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Constants":
        """With a change of what each network has of its own: more dimensions than where all have the same."""
        of_each = {
            name: change(value)
            for name, value in self._asdict().items()
            if value is not None and value.ndim > (2 if name in _POINTS else 1)
        }
        return self._replace(**of_each) if of_each else self


def of_each(values: Tensor, index: Tensor) -> Tensor:
    """The value of each user's service or server, [B, U]; the same for all networks, [N], or of each, [B, N]."""
    return values.expand(*index.shape[:-1], -1).gather(-1, index)


def points_of_each(points: Tensor, index: Tensor) -> Tensor:
    """The point of each user's server: [S, 2] by [U] gives [U, 2], of each network [B, S, 2] by [B, U] [B, U, 2]."""
    return points[index] if points.ndim == 2 else points.gather(1, index.unsqueeze(-1).expand(-1, -1, 2))


@lru_cache(maxsize=64)
def constants(scenario: Scenario, device: torch.device, dtype: torch.dtype) -> Constants:
    """The scenario's constants as tensors on `device` with `dtype`, the same for all networks.

    Raises:
        ValueError: the scenario has ranges: each of its networks has constants of its own.
    """
    scenario.require_one_network()
    made = _made(scenario, device, dtype)
    split, choices = _split(made.popularity_cdf)
    return made._replace(popularity_split=split, popularity_choices=choices)


def constants_of_each(scenarios: Sequence[Scenario], device: torch.device, dtype: torch.dtype) -> Constants:
    """The constants of networks of which each has a scenario of its own; all of the same sizes."""
    made = [_made(scenario, torch.device("cpu"), torch.float64) for scenario in scenarios]
    columns: dict[str, Tensor] = {}
    for name, first in made[0]._asdict().items():
        if first is not None:
            column = torch.stack([getattr(one, name) for one in made])
            columns[name] = column.unsqueeze(1) if column.ndim == 1 else column
    return made[0]._replace(**columns).to(device, dtype)


def _split(ends: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Where the ends of services split equal parts of [0, 1), and what is below and above; none if parts are too many.

    The number of parts is a power of 2, so that which part a draw lies in is exact.
    """
    for parts in (2**power for power in range(6, 17)):
        bounds = torch.arange(parts + 1, dtype=torch.float64) / parts
        below = torch.searchsorted(ends, bounds[:-1], right=True)
        above = torch.searchsorted(ends, bounds[1:])
        first, last = ends[below.clamp(max=len(ends) - 1)], ends[(above - 1).clamp(min=0)]
        if bool(((below >= above) | (first == last)).all()):
            split = torch.where(below < above, first, 1.0)
            return split, torch.stack([below, above], dim=1).clamp(max=len(ends) - 1).flatten()
    return None, None


def _made(scenario: Scenario, device: torch.device, dtype: torch.dtype) -> Constants:
    def real(values: object) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.float64).to(dtype)

    def whole(values: object) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.long)

    # Divided by its end, so that it is exactly 1 from the last service with a chance on: no rounding lets a draw
    # reach a service of weight 0 behind it.
    popularity = torch.tensor(scenario.popularity_vector, dtype=torch.float64)
    popularity_cdf = popularity.cumsum(0)
    users = scenario.user_positions_m
    return Constants(
        input_bits=real(scenario.input_bits),
        storage_bits=real(scenario.storage_bits),
        cycles=real(scenario.cycles),
        deadlines_s=real(scenario.deadlines_s),
        popularity=popularity.to(device),
        popularity_cdf=popularity_cdf / popularity_cdf[-1],
        popularity_split=None,
        popularity_choices=None,
        compute_hz=real(scenario.compute_per_server_hz),
        bandwidth_hz=real(scenario.bandwidth_per_server_hz),
        usable_cache_bits=real(scenario.usable_cache_bits),
        cache_bits=real(scenario.cache_per_server_bits),
        servers_m=real(scenario.servers_m),
        cells=whole(scenario.cells),
        published_homes=whole(scenario.published_homes),
        user_positions_m=None if users is None else real(users).view(-1, 2),
        backhaul_bit_per_s=real(scenario.backhaul_bytes_per_s * BITS_PER_BYTE),
        cloud_rate_bit_per_s=real(scenario.cloud_rate_bit_per_s),
        cloud_compute_hz=real(scenario.cloud_compute_hz),
        cloud_delay_s=real(scenario.cloud_delay_s),
        transmit_power_w=real(10 ** (scenario.transmit_power_dbm / 10) / 1000),
        transmit_power_dbm=real(scenario.transmit_power_dbm),
        power_over_noise_db=real(scenario.transmit_power_dbm - scenario.noise_dbm),
        path_loss_constant_db=real(scenario.path_loss_constant_db),
        path_loss_slope_db=real(scenario.path_loss_slope_db),
        min_distance_m=real(scenario.min_distance_m),
    )
