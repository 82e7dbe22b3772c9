"""Paths between servers: what it costs to be served by another server than the one whose radio carries the task."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.scenario.checks import check_number
from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.fields import SERVER, USER, Field
from hadrl_lightning.simulator.processes.process import Memory, Process, World
from hadrl_lightning.simulator.radio import squared_distances_m2
from hadrl_lightning.simulator.state import Slot

LEAST_BIT_PER_S, MOST_BIT_PER_S = 1.0, 1e18
MOST_S = 1e6
Link = tuple[int | float, ...]
"""Server, server, and if need be bit/s and s."""


@dataclass(frozen=True)
class Hops(Process):
    """Servers are joined by links; a task that is served elsewhere than at home takes the quickest path there.

    Every link on the way passes the task on whole: `delay_s` + `delay_s_per_km` · length + bits / `link_bit_per_s`.
    Quickest is by the mean task. The way back is of nothing, as results are.
    """

    topology: Literal["nearest", "full", "ring", "line", "star"] = "nearest"
    """`nearest`: each server with the `neighbours` nearest ones, and what joins the parts (the shortest links that do);
    `full`: every two; `ring` and `line`: in the order of their numbers; `star`: server 0 with all others."""
    neighbours: int = 2
    """Of each server in `nearest`."""
    links: tuple[Link, ...] | None = None
    """In place of a topology: `[server, server]`, `[server, server, bit/s]` or `[server, server, bit/s, s]`, one for a
    link and both its directions, servers from 0 on."""
    link_bit_per_s: float = 1e9
    """Of a link."""
    delay_s: float = 0.005
    """Of a link, whatever its length."""
    delay_s_per_km: float = 5e-6
    """Of a kilometre of it: about that of light in a fibre."""

    brings = ("path_delay_s", "path_s_per_bit")
    fields = {
        "path_s": Field(
            axes=(USER, SERVER),
            text="path {} of a user's task to a server",
            unit="s",
            usual=0.0,
        )
    }

    def __post_init__(self) -> None:
        check_number("link_bit_per_s", self.link_bit_per_s, least=LEAST_BIT_PER_S, most=MOST_BIT_PER_S)
        for name in ("delay_s", "delay_s_per_km"):
            check_number(name, getattr(self, name), least=0.0, most=MOST_S)
        check_number("neighbours", self.neighbours, least=1.0, most=1e6)
        joined: set[frozenset[int]] = set()
        for link in self.links or ():
            self._check_link(link)
            ends = frozenset(int(end) for end in link[:2])
            if ends in joined:
                raise ValueError(f"links must join two servers once, got {list(link)} as well")
            joined.add(ends)

    def _check_link(self, link: Link) -> None:
        for value in link:
            check_number("links", value)
        if (
            not 2 <= len(link) <= 4
            or any(end != int(end) or end < 0 for end in link[:2])
            or link[0] == link[1]
        ):
            raise ValueError(
                f"links must be of two different servers, and of bit/s and s if need be, got {list(link)}"
            )
        limits = {"third": (LEAST_BIT_PER_S, MOST_BIT_PER_S), "fourth": (0.0, MOST_S)}
        for (place, (least, most)), value in zip(limits.items(), link[2:]):
            check_number(f"links ({place} number)", value, least=least, most=most)

    def check(self, scenario: Scenario) -> None:
        """Links must be of servers that are there, and join them all."""
        if self.links is None:
            return
        servers = scenario.num_servers
        for link in self.links:
            if max(link[:2]) >= servers:
                raise ValueError(f"links must be of servers from 0 to {servers - 1}, got {list(link)}")
        joined = self._listed(servers, torch.float64)[0].isfinite() | torch.eye(servers, dtype=torch.bool)
        reached = _reached(joined)
        if not bool(reached.all()):
            lost = int((~reached).nonzero()[0])
            raise ValueError(f"links must join all servers, got no way from server 0 to server {lost}")

    # What is drawn ---------------------------------------------------------------------------------------------------

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The paths of the episode: nothing is drawn."""
        table = world.table
        points = table.servers_m.cpu().double()
        points = points if points.ndim == 3 else points.unsqueeze(0)
        servers = points.shape[1]
        metres = squared_distances_m2(points, points).sqrt()
        if self.links is None:
            joined = self._joined(metres)
            delay = (self.delay_s + self.delay_s_per_km * metres / 1000).masked_fill(~joined, torch.inf)
            each = torch.full_like(delay, 1 / self.link_bit_per_s)
        else:
            of_length = self.delay_s_per_km * metres / 1000
            delay, each, own = self._listed(servers, torch.float64)
            delay = delay + torch.where(own, 0.0, of_length)
            each = each.expand_as(delay)
        paths = _quickest(delay, each, table.usual_bits.reshape(-1, 1, 1))
        return {
            name: path.to(world.device, world.dtype).expand(world.num_envs, -1, -1)
            for name, path in zip(self.brings, paths, strict=True)
        }

    def _joined(self, metres: Float[Tensor, "batch server server"]) -> Bool[Tensor, "batch server server"]:
        """Which servers have a link."""
        servers, number = metres.shape[-1], torch.arange(metres.shape[-1])
        one, other = number[:, None], number[None]
        if self.topology == "nearest":
            return _nearest(metres, min(self.neighbours, servers - 1))
        joined = {
            "full": one != other,
            "line": (one - other).abs() == 1,
            "ring": ((one - other) % servers == 1) | ((other - one) % servers == 1),
            "star": (one == 0) != (other == 0),
        }[self.topology]
        return joined.expand_as(metres)

    def _listed(self, servers: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Delay and seconds a bit of each pair of servers, infinite without a link; and of which the delay is told."""
        delay = torch.full((servers, servers), torch.inf, dtype=dtype)
        each, own = torch.zeros_like(delay), torch.zeros_like(delay, dtype=torch.bool)
        for link in self.links or ():
            rate = link[2] if len(link) > 2 else self.link_bit_per_s
            seconds = link[3] if len(link) > 3 else self.delay_s
            for ends in ((0, 1), (1, 0)):
                place = tuple(int(link[end]) for end in ends)
                delay[place], each[place], own[place] = seconds, 1 / rate, len(link) == 4
        return delay, each, own

    # What follows from it --------------------------------------------------------------------------------------------

    def adjusted(self, table: Constants, slot: Slot, carried: Memory) -> Constants:
        """With the paths."""
        return table._replace(**{name: slot.more[name].to(table.compute_hz.dtype) for name in self.brings})

    def shown(self, table: Constants, slot: Slot, carried: Memory) -> Memory:
        """What the path of each user's task to every server takes, from the home that the user has now."""
        homes = table.cells.expand_as(slot.requests)
        rows = homes.unsqueeze(-1).expand(*homes.shape, table.compute_hz.shape[-1])
        delay, each = (slot.more[name].gather(1, rows) for name in self.brings)
        return {"path_s": delay + each * table.bits_asked(slot.requests).unsqueeze(-1)}


def _reached(joined: Bool[Tensor, "server server"]) -> Bool[Tensor, " server"]:
    """Which servers there is a way to from the first one."""
    reached = joined[0]
    for _ in range(len(joined)):
        reached = (joined & reached[:, None]).any(dim=0)
    return reached


def _nearest(
    metres: Float[Tensor, "batch server server"], neighbours: int
) -> Bool[Tensor, "batch server server"]:
    """Links to the nearest servers, and the least tree of links, which joins all (Prim)."""
    batch, servers = metres.shape[:2]
    rows = torch.arange(batch)
    others = metres + torch.diag(torch.full((servers,), torch.inf, dtype=metres.dtype))
    joined = torch.zeros_like(metres, dtype=torch.bool)
    if neighbours:
        joined.scatter_(2, others.topk(neighbours, dim=2, largest=False).indices, True)
    inside = torch.zeros(batch, servers, dtype=torch.bool)
    inside[:, 0] = True
    for _ in range(servers - 1):
        away = others.masked_fill(~inside.unsqueeze(2) | inside.unsqueeze(1), torch.inf).flatten(1)
        link = away.argmin(dim=1)
        one, other = link.div(servers, rounding_mode="floor"), link % servers
        joined[rows, one, other] = True
        inside[rows, other] = True
    return joined | joined.transpose(1, 2)


def _quickest(
    delay: Float[Tensor, "batch server server"],
    each: Float[Tensor, "batch server server"],
    bits: Float[Tensor, "batch_or_1 1 1"],
) -> tuple[Float[Tensor, "batch server server"], Float[Tensor, "batch server server"]]:
    """Delay and seconds a bit along the paths that are quickest for so many bits, by Floyd and Warshall."""
    delay, each = delay.clone(), each.clone()
    for path in (delay, each):
        path.diagonal(dim1=1, dim2=2).zero_()
    cost = delay + bits * each
    for by in range(delay.shape[1]):
        around = cost[:, :, by, None] + cost[:, None, by]
        quicker = around < cost
        cost = torch.where(quicker, around, cost)
        delay, each = (
            torch.where(quicker, path[:, :, by, None] + path[:, None, by], path) for path in (delay, each)
        )
    return delay, each
