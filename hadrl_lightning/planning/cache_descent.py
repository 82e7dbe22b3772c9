"""A search for the caches of least expected cost: from some starts downhill, by what changes are about worth."""

from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.planning.frames import TINY, Parts
from hadrl_lightning.simulator import packed, packed_rows

HARMLESS = 1e-4
"""Caches are filled up if that costs no more than this part more: about what their costs are known by."""
MIN_GAIN = 1e-5
"""A change must save this part of the cost."""
MOST_CHANGES = 64
"""Changes of a cache that are weighed by about what they are worth."""
TRIED = 5
"""The best of them that are tried, one by one; and the best of different servers together, 2, 4, 8 … of them."""
SPREAD = (0.7549, 0.5698)
"""Steps of an even spread of points over [0, 1)², by which services choose among servers that are as good."""
ABOUT_THE_SAME = 0.05
"""Part by which the turn of a pair can lift what it saves."""
SERVERS_A_COPY = 16
"""A filling from nothing brings one copy of a service at a time; in larger networks one for so many servers."""
EFFORT = 2**20
"""Caches × services × servers that are tried from a start: all but the largest networks end where nothing helps."""


class Room(NamedTuple):
    """What caches hold at most, and what holding costs."""

    storage_bits: Float[Tensor, "batch service"]
    """In double precision."""
    usable_bits: Float[Tensor, "batch server"]
    """In double precision."""
    rent: Float[Tensor, "batch server service"]
    """What it costs to hold each pair, s a slot."""

    @property
    def fits_all(self) -> Bool[Tensor, " batch"]:
        """Whether every server can hold every service."""
        return self.storage_bits.sum(dim=1) <= self.usable_bits.amin(dim=1)

    @property
    def holds_all(self) -> Bool[Tensor, " batch"]:
        """Whether every server can hold every service, and it costs nothing."""
        return self.fits_all & (self.rent <= 0).all(dim=2).all(dim=1)

    def allows(self, cache: Bool[Tensor, "batch server service"]) -> Bool[Tensor, " batch"]:
        """Whether each row's caches may hold so much."""
        return ((cache * self.storage_bits.unsqueeze(1)).sum(dim=2) <= self.usable_bits).all(dim=1)

    def fits(
        self, row: Int[Tensor, " n"], cache: Bool[Tensor, "n server service"]
    ) -> Bool[Tensor, "n server service"]:
        """Which services, not held, still fit beside what is held."""
        storage = self.storage_bits[row].unsqueeze(1)
        left = self.usable_bits[row] - (cache * storage).sum(dim=-1)
        return ~cache & (storage <= left.unsqueeze(-1))

    def filled(
        self,
        row: Int[Tensor, " n"],
        priority: Float[Tensor, "n *each server service"],
        wanted: Bool[Tensor, "n *each server service"] | None = None,
    ) -> Bool[Tensor, "n *each server service"]:
        """Services in falling order of priority while they fit."""
        return packed_rows(self.storage_bits[row], self.usable_bits[row], priority, wanted)

    def holding(self, row: Int[Tensor, " n"], cache: Bool[Tensor, "n server service"]) -> Float[Tensor, " n"]:
        """What it costs to hold some caches, s a slot."""
        return (cache * self.rent[row]).sum(dim=(1, 2))


class Costs(Protocol):
    """What tells the cost of caches: `Frames`, or `NamedSlots`."""

    asking: Float[Tensor, "batch service"]
    """Users that ask for each service, mean over slots."""

    def best_parts(
        self, row: Int[Tensor, " n"], cache: Bool[Tensor, "n server service"], part: Any = None
    ) -> Parts:
        """What some caches cost, each of the network of its row, and where users are served, which may be `part`."""

    def worth(
        self, row: Int[Tensor, " n"], cache: Bool[Tensor, "n server service"], part: Any
    ) -> Float[Tensor, "n server service"]:
        """About what each pair of a server and a service is worth, s a slot."""


class Descent(NamedTuple):
    """The search in some networks."""

    frames: Costs
    room: Room

    def greedy(self) -> Bool[Tensor, "batch server service"]:
        """Caches filled by what each service saves per bit where it saves most; of every server one at a time.

        What nothing is expected of fills what room is left, if holding costs nothing.
        """
        row = torch.arange(len(self.room.rent), device=self.room.rent.device)
        cache = torch.zeros_like(self.room.rent, dtype=torch.bool)
        size = self.room.storage_bits.float().unsqueeze(1)
        filling = torch.ones_like(row, dtype=torch.bool)  # a full row stays as it is, whatever others need
        part: Tensor | None = None
        for _ in range(cache[0].numel()):
            part = self.frames.best_parts(row, cache, part).part
            worth = self.frames.worth(row, cache, part) - self.room.rent
            density = torch.where(self.room.fits(row, cache), worth / size, 0.0)
            filling = filling & (density > 0).any(dim=2).any(dim=1)
            if not bool(filling.any()):
                break
            cache = cache | (_best_places(density) & filling[:, None, None])
        return self.filled_up(row, cache)

    def filled_up(
        self, row: Int[Tensor, " n"], cache: Bool[Tensor, "n server service"]
    ) -> Bool[Tensor, "n server service"]:
        """Caches with what still fits and costs nothing to hold, of the services most asked for per bit.

        They stay as they are where that does harm: what all servers hold no faster cloud can serve.
        """
        asked = (self.frames.asking / self.room.storage_bits.float())[row]
        asked = asked / (2 * asked.amax(dim=1, keepdim=True)).clamp(min=TINY)
        priority = torch.where(cache, 1.0, asked.unsqueeze(1))
        kept = self.room.filled(row, priority, cache)
        filled = self.room.filled(row, priority, cache | (self.room.rent[row] <= 0))
        before, after = self.cost(row.repeat(2), torch.cat((kept, filled))).chunk(2)
        return torch.where((after <= before * (1 + HARMLESS))[:, None, None], filled, kept)

    def cost(self, row: Int[Tensor, " n"], cache: Bool[Tensor, "n server service"]) -> Float[Tensor, " n"]:
        """What caches cost, s a slot: latencies and what it costs to hold them."""
        return self._cost(row, cache, None).cost

    def settled(
        self, row: Int[Tensor, " n"], cache: Bool[Tensor, "n server service"]
    ) -> tuple[Bool[Tensor, "n server service"], Float[Tensor, " n"]]:
        """Where the best changes of these caches lead, one after the other, until none saves anything; and the cost.

        Changes leave no room that others could use; where none of those saves anything, services are taken away alone.
        """
        cache = cache.clone()
        cost, part = self._cost(row, cache, None)
        moving = torch.arange(len(row), device=row.device)
        plain = torch.zeros_like(moving, dtype=torch.bool)
        for _ in range(1 + EFFORT // (2 * TRIED * max(1, cache[:1].numel()))):
            if not len(moving):
                break
            tried = self._changes(row[moving], cache[moving], part[moving], plain)
            count = tried.shape[1]
            found = self._cost(
                row[moving].repeat_interleave(count),
                tried.flatten(0, 1),
                part[moving].repeat_interleave(count, dim=0),
            )
            least, best = found.cost.view(-1, count).min(dim=1)
            saves = least < cost[moving] - MIN_GAIN * cost[moving].abs()
            own = (torch.arange(len(moving), device=row.device) * count + best)[saves]
            at = moving[saves]
            cache[at], part[at], cost[at] = tried.flatten(0, 1)[own], found.part[own], least[saves]
            moving, plain = moving[saves | ~plain], ~saves[saves | ~plain]
        return cache, cost

    def _cost(self, row: Tensor, cache: Tensor, part: Tensor | None) -> Parts:
        found = self.frames.best_parts(row, cache, part)
        return found._replace(cost=found.cost + self.room.holding(row, cache))

    def _changes(
        self,
        row: Int[Tensor, " n"],
        cache: Bool[Tensor, "n server service"],
        part: Tensor,
        plain: Bool[Tensor, " n"],
    ) -> Bool[Tensor, "n tried server service"]:
        """Where the changes lead that save most by what pairs are about worth, one by one and together."""
        own = torch.arange(len(row), device=row.device)[:, None]
        change = self._weighed(row, cache, part, plain)
        order = change.saved.argsort(dim=1, descending=True, stable=True)
        single = order[:, :TRIED]
        tried = cache.unsqueeze(1).repeat(1, single.shape[1], 1, 1)
        place = torch.arange(single.shape[1], device=row.device)
        tried[own, place, change.server.gather(1, single)] = change.content[own, single]
        return torch.cat((tried, *_together(cache, change, order)), dim=1)

    def _weighed(
        self,
        row: Int[Tensor, " n"],
        cache: Bool[Tensor, "n server service"],
        part: Tensor,
        plain: Bool[Tensor, " n"],
    ) -> "_Changes":
        """The changes of each cache that might do some good.

        A change brings a service to a server or takes one away; what the server then has no room for goes in rising
        order of what it is worth per bit, and what room is left is filled in falling order of that. Those of plain rows
        take a service away, and that is all.
        """
        services = cache.shape[2]
        own = torch.arange(len(row), device=row.device)[:, None]
        rent = self.room.rent[row]
        worth = self.frames.worth(row, cache, part) - rent
        density = worth / self.room.storage_bits[row].float().unsqueeze(1)
        density = density / density.abs().amax(dim=(1, 2), keepdim=True).clamp(min=TINY)
        some = _worth_weighing(density, cache)
        server, service = some // services, some % services
        before = cache[own, server]
        forced = torch.where(cache[own, server, service], -9.0, 9.0).to(density).unsqueeze(2)
        priority = torch.where(cache, 2 + density, density)[own, server]
        priority = priority.scatter(2, service.unsqueeze(2), forced)
        wanted = torch.where(plain[:, None, None], before, priority > 0)
        wanted = wanted.scatter(2, service.unsqueeze(2), forced > 0)
        usable = self.room.usable_bits[row].gather(1, server)
        content = packed(self.room.storage_bits[row], usable, priority, wanted)
        saved = ((content.float() - before.float()) * worth[own, server]).sum(dim=2)
        nothing = (content == before).all(dim=2) | (plain[:, None] & ~cache[own, server, service])
        saved = saved.masked_fill(nothing, -torch.inf)
        return _Changes(server, service, content, saved)


class _Changes(NamedTuple):
    """Changes of caches, each of what one server holds."""

    server: Int[Tensor, "n weighed"]
    service: Int[Tensor, "n weighed"]
    """That comes or goes."""
    content: Bool[Tensor, "n weighed service"]
    """What the server then holds."""
    saved: Float[Tensor, "n weighed"]
    """About what the change saves, s a slot."""


def _together(
    cache: Bool[Tensor, "n server service"], change: _Changes, order: Int[Tensor, "n weighed"]
) -> list[Bool[Tensor, "n 1 server service"]]:
    """The best 2, 4, 8 … changes of different servers and services that save anything, made at once."""
    num, servers, services = cache.shape
    rank = torch.arange(order.shape[1], device=order.device)
    first = torch.ones_like(order, dtype=torch.bool)
    for which, count in ((change.server, servers), (change.service, services)):
        index = which.gather(1, order)
        turn = torch.where(first, rank, order.shape[1])
        best = torch.full((num, count), order.shape[1], device=order.device)
        first = first & (best.scatter_reduce(1, index, turn, "amin").gather(1, index) == rank)
    first = first & (change.saved.gather(1, order) > 0)
    turn = first.cumsum(dim=1)
    found, count = [], 2
    while count < 2 * min(servers, services):
        n, at = (first & (turn <= count)).nonzero(as_tuple=True)
        chosen = order[n, at]
        changed = cache.clone()
        changed[n, change.server[n, chosen]] = change.content[n, chosen]
        found.append(changed.unsqueeze(1))
        count *= 2
    return found


def _best_places(density: Float[Tensor, "batch server service"]) -> Bool[Tensor, "batch server service"]:
    """Of every server the service that saves most per bit, of every service one place; in large networks a few.

    Among services and servers that are about as good each pair has its own turn.
    """
    server, service = (torch.arange(count, device=density.device) for count in density.shape[1:])
    spread = (server[:, None] * SPREAD[0] + service * SPREAD[1]) % 1
    density = density * (1 + ABOUT_THE_SAME * spread)
    chosen = density.argmax(dim=2, keepdim=True)
    own = torch.zeros_like(density).scatter_(2, chosen, density.gather(2, chosen))
    rank = own.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (own > 0) & (rank < max(1, len(server) // SERVERS_A_COPY))


def _worth_weighing(
    density: Float[Tensor, "n server service"], cache: Bool[Tensor, "n server service"]
) -> Int[Tensor, "n weighed"]:
    """Which pairs might be changed to some good: of what is missing what is worth most, of what is held the least."""
    pairs = density[0].numel()
    if pairs <= MOST_CHANGES:
        return torch.arange(pairs, device=density.device).expand(len(density), -1)
    flat, held = density.flatten(1), cache.flatten(1)
    missing = flat.masked_fill(held, -torch.inf).topk(MOST_CHANGES * 3 // 4, dim=1).indices
    useless = flat.masked_fill(~held, torch.inf).topk(MOST_CHANGES // 4, dim=1, largest=False).indices
    return torch.cat((missing, useless), dim=1)
