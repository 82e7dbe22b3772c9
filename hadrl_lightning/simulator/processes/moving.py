"""Users who move, and the servers that become their homes on the way."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.scenario.checks import check_number
from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.decisions import Allocation
from hadrl_lightning.simulator.fields import SERVER, USER, Field
from hadrl_lightning.simulator.processes.process import STATE, Memory, Process, World
from hadrl_lightning.simulator.radio import at_home, losses_db
from hadrl_lightning.simulator.state import Service, Slot

TINY = 1e-30
MOST_M = 1e7
"""m. No area reaches further, as no cell does."""
MOST_M_PER_S = 1e4
"""m/s. No user is faster."""
MOST_CROSSINGS = 100.0
"""Of the area by the fastest user in a slot: so many waypoints are walked to one by one."""


@dataclass(frozen=True)
class MovingUsers(Process):
    """Users move within an area; both models begin in their stationary distribution, so no warm-up is needed.

    `random_waypoint`: to a point anywhere in the area, at a speed drawn for the way, then a pause. `gauss_markov`:
    velocity' = memory * velocity + (1 - memory) * mean + sqrt(1 - memory^2) * deviation * normal on both axes, around a
    mean velocity of the user's own direction; both are reflected where the area ends.
    """

    model: Literal["random_waypoint", "gauss_markov"] = "random_waypoint"
    slot_s: float = 1.0
    """Length of a slot, s."""
    area_m: tuple[float, float, float, float] | None = None
    """Least x, least y, largest x and largest y, m; none: all cells of the servers, and what is between them."""
    least_speed_m_per_s: float = 0.5
    """Of a way, `random_waypoint`."""
    largest_speed_m_per_s: float = 2.0
    """Of a way, `random_waypoint`."""
    pause_s: float = 10.0
    """At every waypoint, `random_waypoint`."""
    mean_speed_m_per_s: float = 1.0
    """Length of the mean velocity, `gauss_markov`."""
    deviation_m_per_s: float = 0.5
    """Standard deviation of the velocity on each axis, `gauss_markov`."""
    memory: float = 0.9
    """Correlation of the velocity from slot to slot, `gauss_markov`: 0 none, 1 a straight line."""

    brings = ("positions", "path_m", "speed")
    fields = {
        "speed": Field(
            axes=(USER,), text="speed of user {}", unit="m/s", scale=10.0, in_token=False, usual=0.0
        )
    }

    def __post_init__(self) -> None:
        check_number("slot_s", self.slot_s, least=1e-6, most=1e6)
        check_number("least_speed_m_per_s", self.least_speed_m_per_s, least=1e-3, most=MOST_M_PER_S)
        check_number(
            "largest_speed_m_per_s", self.largest_speed_m_per_s, self.least_speed_m_per_s, most=MOST_M_PER_S
        )
        check_number("pause_s", self.pause_s, least=0.0, most=1e9)
        check_number("mean_speed_m_per_s", self.mean_speed_m_per_s, least=0.0, most=MOST_M_PER_S)
        check_number("deviation_m_per_s", self.deviation_m_per_s, least=0.0, most=MOST_M_PER_S)
        check_number("memory", self.memory, least=0.0, most=1.0)
        if self.area_m is not None:
            for end in self.area_m:
                check_number("area_m", end, least=-MOST_M, most=MOST_M)
            if min(self.area_m[2] - self.area_m[0], self.area_m[3] - self.area_m[1]) < 1:
                raise ValueError(
                    f"area_m must be least x and y, then largest ones at least 1 m above, got {list(self.area_m)}"
                )

    def check(self, scenario: Scenario) -> None:
        """Users can't be fixed, a server must stand in the area, and nobody crosses it too often in a slot."""
        if scenario.user_positions_m is not None:
            raise ValueError("user_positions_m must be none where users move, got fixed users")
        for one in scenario.corners():
            at = torch.tensor(one.servers_m, dtype=torch.float64)
            low, high = self._area(at, one.cell_radius_m)
            if not bool(((low <= at) & (at <= high)).all(dim=-1).any()):
                raise ValueError(f"area_m must have a server in it, got none in {list(self.area_m or ())}")
            crossings = self.largest_speed_m_per_s * self.slot_s / float((high - low).amax())
            if self.model == "random_waypoint" and crossings > MOST_CROSSINGS:
                raise ValueError(
                    f"slot_s must be so short that the area is crossed at most {MOST_CROSSINGS:g} times in a slot, "
                    f"got {self.slot_s:g} s, in which it is {crossings:g} times"
                )

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """Users of the stationary distribution."""
        low, span = self._area_of(world)
        shape = (world.num_envs, world.scenario.num_users)
        begin = self._waypoints if self.model == "random_waypoint" else self._velocities
        state, speed = begin(span, shape, generator)
        return _memory(world, low, self.slot_s * speed, speed, state)

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """A slot later."""
        low, span = self._area_of(world)
        before = {name: value.cpu().to(STATE) for name, value in memory.items()}
        move = self._to_waypoints if self.model == "random_waypoint" else self._by_velocity
        path, state, speed = move(span, before, generator)
        return _memory(world, low, path, speed, state)

    def shown(self, table: Constants, slot: Slot, carried: Memory) -> Memory:
        """How fast users are, which phones know."""
        return {"speed": slot.more["speed"]}

    # Random waypoint -------------------------------------------------------------------------------------------------

    def _waypoints(
        self, span: Tensor, shape: tuple[int, int], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The stationary distribution (Navidi and Camp, IEEE Trans. Mobile Computing 3(1), 2004).

        On the way: ends of a way with a density in proportion to its length, a uniform place on it, a speed with
        density in proportion to 1 / speed. Pausing: a uniform place and a uniform part of the pause.
        """
        ends = _ways(span, shape, generator)
        uniform = torch.rand((4, *shape), generator=generator, dtype=STATE)
        least, most = self.least_speed_m_per_s, self.largest_speed_m_per_s
        inverse = math.log(most / least) / (most - least) if most > least else 1 / least
        way_s = _mean_way(*span.double().unbind(-1)).to(STATE) * inverse
        pauses = uniform[0] < self.pause_s / (way_s + self.pause_s)
        speed = least * (most / least) ** uniform[1]
        here = ends[0] + uniform[2].unsqueeze(-1) * (ends[1] - ends[0])
        at = torch.where(pauses.unsqueeze(-1), _anywhere(span, shape, generator), here)
        rest = torch.where(pauses, uniform[3] * self.pause_s, self.pause_s)
        goal = torch.where(pauses.unsqueeze(-1), at, ends[1])
        state = {"at": at, "goal": goal, "pace": speed, "rest_s": rest}
        return state, torch.where(pauses, 0.0, speed)

    def _to_waypoints(
        self, span: Tensor, before: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Ways and pauses until the slot is over: whose pause ends in it is given another way, as often as it takes."""
        shape = before["pace"].shape
        goal, pace, rest = (before[name].flatten(0, 1).clone() for name in ("goal", "pace", "rest_s"))
        span = span.expand(*shape, 2).flatten(0, 1)
        left = torch.full_like(pace, self.slot_s)
        at, path, rest, left, there = _walked(before["at"].flatten(0, 1), goal, pace, rest, left)
        while True:
            who = (there & (rest <= 0)).nonzero().flatten()
            if not len(who):
                break
            drawn = torch.rand((len(who), 3), generator=generator, dtype=STATE)
            goal[who] = span[who] * drawn[:, :2]
            wide = self.largest_speed_m_per_s - self.least_speed_m_per_s
            pace[who] = self.least_speed_m_per_s + wide * drawn[:, 2]
            rest[who] = self.pause_s
            walked = _walked(at[who], goal[who], pace[who], rest[who], left[who])
            at[who], way, rest[who], left[who], there[who] = walked
            path[who] += way
        speed = pace * ~there
        found = {"at": at, "goal": goal, "pace": pace, "rest_s": rest}
        state = {name: value.unflatten(0, shape) for name, value in found.items()}
        return path.view(shape), state, speed.view(shape)

    # Gauss-Markov ----------------------------------------------------------------------------------------------------

    def _velocities(
        self, span: Tensor, shape: tuple[int, int], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Uniform places, and velocities around the mean one: reflection at the ends leaves both as they are."""
        at = _anywhere(span, shape, generator)
        angle = 2 * math.pi * torch.rand(shape, generator=generator, dtype=STATE)
        mean = self.mean_speed_m_per_s * torch.stack((angle.cos(), angle.sin()), dim=-1)
        normal = torch.randn((*shape, 2), generator=generator, dtype=STATE)
        velocity = mean + self.deviation_m_per_s * normal
        return {"at": at, "velocity": velocity, "mean": mean}, velocity.norm(dim=-1)

    def _by_velocity(
        self, span: Tensor, before: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        velocity, mean = before["velocity"], before["mean"]
        normal = torch.randn(velocity.shape, generator=generator, dtype=STATE)
        velocity = self.memory * velocity + (1 - self.memory) * mean
        velocity = velocity + math.sqrt(1 - self.memory**2) * self.deviation_m_per_s * normal
        speed = velocity.norm(dim=-1)
        at, turned = _reflected(before["at"] + self.slot_s * velocity, span)
        state = {"at": at, "velocity": turned * velocity, "mean": turned * mean}
        return self.slot_s * speed, state, speed

    # The area --------------------------------------------------------------------------------------------------------

    def _area_of(self, world: World) -> tuple[Tensor, Tensor]:
        """Least (x, y) and how far the area reaches from there: places are remembered from there on."""
        low, high = self._area(world.table.servers_m.cpu().double(), world.scenario.cell_radius_m)
        return low, (high - low).to(STATE)

    def _area(self, servers_m: Tensor, radius_m: int) -> tuple[Tensor, Tensor]:
        """Least and largest (x, y), [1, 2], or [B, 1, 2] where networks differ."""
        if self.area_m is not None:
            low, high = torch.tensor(self.area_m, dtype=torch.float64).view(2, 1, 2)
            return low, high
        return servers_m.amin(-2, keepdim=True) - radius_m, servers_m.amax(-2, keepdim=True) + radius_m


@dataclass(frozen=True)
class Handover(Process):
    """The home is the server of the best mean link, once that is better than the link to the home by the hysteresis.

    The mean link has what is known of it before small-scale fading: path loss, and shadowing where there is any.
    """

    hysteresis_db: float = 3.0
    """By which another server's link must be better, dB."""
    handover_s: float = 0.05
    """What a change of the home adds to the latency of the user's task in that slot, s."""

    brings = ("homes", "handed_over")
    fields = {
        "home": Field(
            axes=(USER,),
            text="home of user {}",
            first=1,
            dtype=torch.long,
            whole=True,
            of=SERVER,
            in_token=False,
            usual=0.0,
        ),
        "handed_over": Field(
            axes=(USER,), text="handover of user {}", dtype=torch.bool, whole=True, usual=0.0
        ),
    }

    def __post_init__(self) -> None:
        check_number("hysteresis_db", self.hysteresis_db, least=0.0, most=1000.0)
        check_number("handover_s", self.handover_s, least=0.0, most=1e6)

    def initial(self, world: World, generator: torch.Generator) -> Memory:
        """The best server, which is nothing to wait for."""
        homes = self._losses(world).argmin(dim=-1).to(world.device)
        return {"homes": homes, "handed_over": torch.zeros_like(homes, dtype=torch.bool)}

    def advance(self, world: World, memory: Memory, generator: torch.Generator) -> Memory:
        """The best server, where it is better by the hysteresis."""
        losses, before = self._losses(world), memory["homes"].cpu()
        least, best = losses.min(dim=-1)
        better = at_home(losses, before) - least > self.hysteresis_db
        homes = torch.where(better, best, before)
        return {"homes": homes.to(world.device), "handed_over": better.to(world.device)}

    def changed(self, before: Memory, after: Memory) -> Bool[Tensor, " batch"]:
        """Where a user has another home."""
        return after["handed_over"].any(dim=1)

    def adjusted(self, table: Constants, slot: Slot, carried: Memory) -> Constants:
        """Homes under any physics."""
        return table._replace(cells=slot.more["homes"], published_homes=slot.more["homes"])

    def carried(self, table: Constants, batch: int) -> Memory:
        """Handovers so far in the episode, [B]."""
        return {"handovers": table.compute_hz.new_zeros(batch)}

    def served(
        self, table: Constants, slot: Slot, carried: Memory, allocation: Allocation, service: Service
    ) -> tuple[Memory, Service]:
        """Those who changed wait."""
        change = slot.more["handed_over"].to(service.latency.dtype)
        delayed = service.delayed(self.handover_s * change, table.deadlines_asked(slot.requests))
        handover = service.handover | slot.more["handed_over"]
        return {"handovers": carried["handovers"] + change.sum(dim=-1)}, delayed._replace(handover=handover)

    def shown(self, table: Constants, slot: Slot, carried: Memory) -> Memory:
        """What a phone knows: its server, and whether that is new."""
        return {"home": slot.more["homes"], "handed_over": slot.more["handed_over"]}

    def _losses(self, world: World) -> Tensor:
        """Path losses in dB, on the CPU: a seed has the same homes on every device."""
        table = world.table._replace(link_loss_db=world.brought.get("link_loss_db"))
        return losses_db(table.to(torch.device("cpu"), STATE), world.brought["positions"].cpu().to(STATE))


def _memory(world: World, low: Tensor, path: Tensor, speed: Tensor, state: dict[str, Tensor]) -> Memory:
    brought = {"positions": low + state["at"], "path_m": path, "speed": speed}
    given = {name: value.to(world.dtype).to(world.device) for name, value in brought.items()}
    return given | {name: value.to(world.device) for name, value in state.items()}


def _walked(
    at: Tensor, goal: Tensor, pace: Tensor, rest_s: Tensor, left_s: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Places after the time that is left, ways, what is left of pauses and of the time, and who is where it goes."""
    away = goal - at
    x, y = away.unbind(-1)
    length = torch.addcmul(x * x, y, y).sqrt_()
    path = torch.minimum(length, pace * left_s)
    arrives = path >= length
    there = at + (path / length.clamp(min=TINY)).unsqueeze(-1) * away
    left = torch.where(arrives, left_s - path / pace, 0.0).clamp_(min=0)
    waited = torch.minimum(left, rest_s)
    return torch.where(arrives.unsqueeze(-1), goal, there), path, rest_s - waited, left - waited, arrives


def _anywhere(span: Tensor, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Uniform points of the area, [B, U, 2]."""
    return span * torch.rand((*shape, 2), generator=generator, dtype=STATE)


def _ways(span: Tensor, shape: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ends of ways with a density in proportion to their length, [B, U, 2] each."""
    first, last = (_anywhere(span, shape, generator) for _ in range(2))
    refused = torch.ones(shape, dtype=torch.bool)
    while True:
        drawn = torch.rand(shape, generator=generator, dtype=STATE)
        refused = refused & (drawn * span.norm(dim=-1) > (last - first).norm(dim=-1))
        if not bool(refused.any()):
            return first, last
        again = refused.unsqueeze(-1)
        first = torch.where(again, _anywhere(span, shape, generator), first)
        last = torch.where(again, _anywhere(span, shape, generator), last)


def _mean_way(width: Tensor, height: Tensor) -> Tensor:
    """Mean distance of two uniform points of a rectangle, m."""
    a, b = torch.maximum(width, height), torch.minimum(width, height)
    d = torch.hypot(a, b)
    whole = a**3 / b**2 + b**3 / a**2 + d * (3 - a**2 / b**2 - b**2 / a**2)
    parts = b**2 / a * torch.log((a + d) / b) + a**2 / b * torch.log((b + d) / a)
    return whole / 15 + parts / 6


def _reflected(at: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
    """Points mirrored into the area as often as it takes, and -1 on the axes on which the direction turned, else 1."""
    away = torch.remainder(at, 2 * span)
    beyond = away > span
    return torch.where(beyond, 2 * span - away, away), torch.where(beyond, -1.0, 1.0).to(at)
