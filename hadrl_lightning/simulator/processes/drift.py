"""Demand that drifts: regimes, rank swaps, the day's curve, bursts, and tastes that differ between servers.

Days and bursts multiply the demand for a service; all else is which service has which chance of the scenario's
popularity. Every part is a clock, or a chain that looks the same forwards and backwards: the record of the slots before
an episode is made by going back from its first slot.
"""

import math
import zlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.processes.process import Memory, Process, World
from hadrl_lightning.simulator.processes.usual import counted, requested
from hadrl_lightning.simulator.randomness import Use, make_generator

LIMITS = {
    "regimes": (1, 1000),
    "regime_slots": (1.0, 1e9),
    "swaps_per_slot": (0.0, 10.0),
    "day_amplitude": (0.0, 0.99),
    "day_slots": (2.0, 1e9),
    "bursts_per_slot": (0.0, 1e6),
    "burst_factor": (1.0, 1e6),
    "burst_slots": (1.0, 1e9),
    "server_difference": (0.0, 1.0),
}
"""Least and largest value of each setting."""
LOOKS = 32
"""The record of what was asked for before an episode goes by the demand in so many slots at most, evenly spaced."""
MOST_SWAPS = 10_000
"""From one of these looks to the next: each swap is made."""
LEAST_SHIFT = 0.1
"""Share of the requests that goes to other services where demand counts as changed: a new regime, a burst."""


@dataclass(frozen=True)
class DriftingRequests(Process):
    """Drawn for each user by itself, by a popularity that moves. Every part is off unless its settings say otherwise.

    With all parts off, requests are those of `StationaryRequests`, draw by draw.
    """

    regimes: int = 1
    """Popularities that take turns: the scenario's, and permutations of it, which are the same ones in every network
    and episode. 1: off."""
    regime_slots: float = 50.0
    """Mean length of a regime's turn in slots; the next one is any other, all equally likely."""
    swaps_per_slot: float = 0.0
    """Mean number of swaps a slot (Poisson): two services of neighbouring ranks, anywhere, change places. 0: off."""
    day_amplitude: float = 0.0
    """Demand for a service goes up and down with the day by this part of itself: every other service peaks by day, the
    ones between by night. 0: off."""
    day_slots: float = 200.0
    """Length of a day in slots; each network's episode begins at any time of it."""
    bursts_per_slot: float = 0.0
    """Mean number of bursts that begin in a slot while there is none, each of a service by itself. 0: off."""
    burst_factor: float = 5.0
    """What demand for a service is multiplied with during its burst."""
    burst_slots: float = 10.0
    """Mean length of a burst in slots."""
    server_difference: float = 0.0
    """How far users of different cells differ: that part of a user's requests is by a permutation of the popularity
    that is its cell's own. 0: all alike."""

    brings = ("requests", "popularity")

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low:g} to {high:g}, got {getattr(self, name)}")

    def check(self, scenario: Scenario) -> None:
        """Ranks need services to change places with, and bursts services to befall."""
        services = scenario.num_services
        if services < 8 and self.regimes > math.factorial(services):
            raise ValueError(
                f"regimes must be at most {math.factorial(services)}, the permutations of num_services = {services}, "
                f"got {self.regimes}"
            )
        if services < 2 and (self.swaps_per_slot or self.server_difference):
            name = "swaps_per_slot" if self.swaps_per_slot else "server_difference"
            raise ValueError(f"{name} must be 0 where num_services is 1, got {getattr(self, name):g}")
        swaps = self.swaps_per_slot * scenario.history_slots / LOOKS
        if swaps > MOST_SWAPS:
            raise ValueError(
                f"swaps_per_slot must be at most {MOST_SWAPS * LOOKS / scenario.history_slots:g} with history_slots = "
                f"{scenario.history_slots}, got {self.swaps_per_slot:g}"
            )
        if self.bursts_per_slot > services:
            raise ValueError(
                f"bursts_per_slot must be at most num_services = {services}, got {self.bursts_per_slot:g}"
            )

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The first requests: of any regime and time of day, by the scenario's ranks."""
        draws = _user_draws(world, generator)
        return self._asked(world, self._begun(world, generator), draws)

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The next requests."""
        draws = _user_draws(world, generator)
        return self._asked(world, self._moved(memory, 1, generator), draws)

    def changed(self, before: Memory, after: Memory) -> Bool[Tensor, " batch"]:
        """Where at least `LEAST_SHIFT` of the requests are for other services than in the slot before."""
        moved = (after["popularity"] - before["popularity"]).abs().sum(dim=1) / 2
        return moved >= LEAST_SHIFT

    def past(self, world: World, memory: Memory, num_slots: int, generator: torch.Generator) -> Memory:
        """How often each service was asked for while demand came to be what it is in the first slot.

        The demand in at most `LOOKS` of the slots stands for that in all.
        """
        asked = num_slots * world.scenario.num_users
        if self._still:
            return {"requests": counted(world, world.table.popularity_cdf, asked, generator)}
        stride = -(-num_slots // LOOKS)
        looks = -(-num_slots // stride)
        total = torch.zeros(world.num_envs, world.scenario.num_services, dtype=torch.float64)
        for look in range(looks):
            memory = self._moved(memory, -stride if look else -((stride + 1) // 2), generator)
            total += _of_all_users(world, self._by_cell(world, memory))
        return {"requests": counted(world, _ends(total), asked, generator)}

    # What is remembered ----------------------------------------------------------------------------------------------

    @property
    def _still(self) -> bool:
        """Whether all parts are off."""
        parts = (self.swaps_per_slot, self.day_amplitude, self.bursts_per_slot, self.server_difference)
        return self.regimes == 1 and not any(parts)

    def _begun(self, world: World, generator: torch.Generator) -> dict[str, Tensor]:
        """What the parts that are on remember at first: drawn from what holds in the long run, ranks aside."""
        batch, services = world.num_envs, world.scenario.num_services
        begun: dict[str, Tensor] = {}
        if self.regimes > 1:
            begun["regime"] = torch.randint(self.regimes, (batch,), generator=generator)
        if self.swaps_per_slot:
            begun["of_rank"] = _ranked(world)[1]
        if self.day_amplitude:
            begun["clock"] = self.day_slots * torch.rand(batch, generator=generator, dtype=torch.float64)
        if self.bursts_per_slot:
            begins, ends = self._burst_chances(services)
            draws = torch.rand(batch, services, generator=generator, dtype=torch.float64)
            begun["burst"] = draws < begins / (begins + ends)
        return begun

    def _moved(self, memory: Memory, slots: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The same so many slots later; earlier, if it is a negative number."""
        moved: dict[str, Tensor] = {}
        if "regime" in memory:
            before = memory["regime"].cpu()
            chance = (1 - self.regimes / (self.regimes - 1) / self.regime_slots) ** abs(slots)
            stays = (1 + (self.regimes - 1) * chance) / self.regimes
            leaves = torch.rand(before.shape, generator=generator, dtype=torch.float64) >= stays
            other = torch.randint(1, self.regimes, before.shape, generator=generator)
            moved["regime"] = torch.where(leaves, (before + other) % self.regimes, before)
        if "of_rank" in memory:
            mean = self.swaps_per_slot * abs(slots)
            moved["of_rank"] = _swapped(memory["of_rank"].cpu(), mean, generator)
        if "clock" in memory:
            moved["clock"] = (memory["clock"].cpu() + slots) % self.day_slots
        if "burst" in memory:
            on = memory["burst"].cpu().double()
            begins, ends = self._burst_chances(on.shape[1])
            share = begins / (begins + ends)
            chances = share + (on - share) * (1 - begins - ends) ** abs(slots)
            moved["burst"] = torch.rand(on.shape, generator=generator, dtype=torch.float64) < chances
        return moved

    def _burst_chances(self, services: int) -> tuple[float, float]:
        """That a service's burst begins in a slot, and that it ends."""
        return self.bursts_per_slot / services, 1 / self.burst_slots

    # What follows of it ----------------------------------------------------------------------------------------------

    def _asked(self, world: World, memory: dict[str, Tensor], draws: Tensor) -> Memory:
        """The requests of a slot, and what they are drawn by."""
        if self._still:
            requests = requested(world.table, draws)
            popularity = world.table.popularity.cpu().expand(world.num_envs, -1)
        else:
            chances = self._by_cell(world, memory)
            requests = _drawn(_ends(chances), _group_of_each(world, chances.shape[1]), draws)
            popularity = _of_all_users(world, chances)
        return {
            **memory,
            "requests": requests.to(world.device),
            "popularity": popularity.to(world.device, copy=True),
        }

    def _by_cell(self, world: World, memory: Memory) -> Float[Tensor, "batch group service"]:
        """The chance of each service for the users of every cell, or for all where these are alike, [B, 1 or S, K]."""
        batch, services = world.num_envs, world.scenario.num_services
        base = world.table.popularity.cpu().expand(batch, -1)
        if "of_rank" in memory:
            base = torch.zeros_like(base).scatter_(1, memory["of_rank"].cpu(), _ranked(world)[0])
        if "regime" in memory:
            base = base.gather(1, _permutations("regime", self.regimes, services)[memory["regime"].cpu()])
        factor = torch.ones(batch, services, dtype=torch.float64)
        if "clock" in memory:
            swing = self.day_amplitude * torch.cos(2 * torch.pi * memory["clock"].cpu() / self.day_slots)
            by_day = 1 - 2 * (torch.arange(services) % 2)
            factor = factor + swing[:, None] * by_day
        if "burst" in memory:
            factor = torch.where(memory["burst"].cpu(), self.burst_factor, 1.0) * factor
        common = _parts(base * factor).unsqueeze(1)
        if not self.server_difference:
            return common
        taste = _permutations("cell", world.scenario.num_servers + 1, services)[1:]
        own = base.unsqueeze(1).expand(-1, len(taste), -1).gather(2, taste.expand(batch, -1, -1))
        return torch.lerp(common, _parts(own * factor.unsqueeze(1)), self.server_difference)


def _user_draws(world: World, generator: torch.Generator) -> Float[Tensor, "batch user"]:
    shape = (world.num_envs, world.scenario.num_users)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _ranked(world: World) -> tuple[Float[Tensor, "batch service"], Int[Tensor, "batch service"]]:
    """The chance of each rank by the scenario's popularity, the largest first, and the service that has it."""
    base = world.table.popularity.cpu().expand(world.num_envs, -1)
    chance, service = base.sort(dim=1, descending=True, stable=True)
    return chance, service


def _swapped(
    of_rank: Int[Tensor, "batch service"], mean: float, generator: torch.Generator
) -> Int[Tensor, "batch service"]:
    """The service of each rank after a Poisson number of swaps of neighbours."""
    batch, services = of_rank.shape
    number = torch.poisson(torch.full((batch, 1), mean, dtype=torch.float64), generator=generator)
    for turn in range(int(number.max())):
        rank = torch.randint(services - 1, (batch, 1), generator=generator)
        pair = torch.cat([rank, rank + 1], dim=1)
        swapped = of_rank.scatter(1, pair, of_rank.gather(1, pair.flip(1)))
        of_rank = torch.where(turn < number, swapped, of_rank)
    return of_rank


@lru_cache(maxsize=64)
def _permutations(kind: str, number: int, services: int) -> Int[Tensor, "number service"]:
    """Permutations of the services, the first of which changes nothing; always the same ones.

    They differ from each other as long as there are others.
    """
    generator = make_generator(0, Use.PROCESSES, zlib.crc32(f"drifting_requests.{kind}".encode()))
    made, rows = {tuple(range(services))}, [torch.arange(services)]
    while len(rows) < number:
        row = torch.randperm(services, generator=generator)
        if tuple(row.tolist()) in made and (services > 8 or len(made) < math.factorial(services)):
            continue
        made.add(tuple(row.tolist()))
        rows.append(row)
    return torch.stack(rows)


def _parts(weight: Float[Tensor, "*rows service"]) -> Float[Tensor, "*rows service"]:
    return weight / weight.sum(dim=-1, keepdim=True)


def _ends(weight: Float[Tensor, "*rows service"]) -> Float[Tensor, "*rows service"]:
    """Where each service ends in [0, 1]: at exactly 1 from the last one with a chance on."""
    ends = weight.cumsum(dim=-1)
    return ends / ends[..., -1:]


def _group_of_each(world: World, groups: int) -> Int[Tensor, "batch user"]:
    """The cell of each user; 0 where all are alike."""
    cells = world.table.cells.cpu().expand(world.num_envs, -1)
    return cells if groups > 1 else torch.zeros_like(cells)


def _of_all_users(
    world: World, chances: Float[Tensor, "batch group service"]
) -> Float[Tensor, "batch service"]:
    """The mean over users of the chances of their cells; over cells where there are no users."""
    if chances.shape[1] == 1 or not world.scenario.num_users:
        return chances.mean(dim=1)
    group = _group_of_each(world, chances.shape[1])
    part = torch.nn.functional.one_hot(group, chances.shape[1]).double().mean(dim=1)
    return (part.unsqueeze(2) * chances).sum(dim=1)


def _drawn(
    ends: Float[Tensor, "batch group service"],
    group: Int[Tensor, "batch user"],
    draws: Float[Tensor, "batch user"],
) -> Int[Tensor, "batch user"]:
    """The service in whose part of [0, 1) of its group each draw lies.

    One search through all rows: those of row r are put between r and r + 1.
    """
    batch, groups, services = ends.shape
    first = torch.arange(batch * groups).double()
    row = group + groups * torch.arange(batch).unsqueeze(1)
    place = row.double()
    place = torch.minimum(
        place + draws, torch.nextafter(place + 1, place)
    )  # no rounding leads to the next row
    found = torch.searchsorted((ends.flatten(0, 1) + first.unsqueeze(1)).flatten(), place, right=True)
    return found - row * services
