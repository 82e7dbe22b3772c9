"""A certified lower bound on what an episode costs in which work carries over.

Let b_st be the cycles left at server s at the start of slot t, W_st those that its tasks bring, D_st those that it
can work off: b_s,t+1 ≥ b_st + W_st − D_st. A task that is computed there waits b_st / hz_st. With a price μ_st ≥ 0 of
each of these inequalities (Lagrange; weak duality, any price gives a bound) the episode falls apart into slots, of
which each costs at least

    min over targets and 0 ≤ b ≤ room of  f_t + Σ_s n_st b_st / hz_st + μ_st (W_st − D_st) + (μ_st − μ_s,t−1) b_st,

f_t being the slot with empty queues (`problem`), n_st the tasks computed at s. In b_st it is linear, so b_st is 0 or
its room, and this only where μ_st < μ_s,t−1: with few servers all such cases are tried; with more of them the minimum
over b_st, a concave function of n_st, is replaced by the chord below it. Either way what is left is a slot with other
costs of each user alone, of which `lower_bound` certifies the minimum. That servers drop tasks is allowed to happen at
any time for what a dropped task counts as, and batteries give energy for nothing. So the bound holds for these very
requests, links and speeds, whoever knows of them, but for what single precision rounds in the networks. Prices come
from subgradient steps towards an upper bound (Polyak 1969).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from hadrl_lightning.baselines.lower_bound import relaxed_assignment
from hadrl_lightning.baselines.problem import (
    OffloadingProblem,
    offloading_problem,
    work_brought,
)
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.scenario import Preferences
from hadrl_lightning.simulator import EdgeNetwork
from hadrl_lightning.simulator.processes import Device, Process, Queues
from hadrl_lightning.simulator.service import adjusted

MOST_CASES = 16
"""Cases of empty and full queues of a slot up to which all are tried: those of four servers."""
STEPS = 30
"""Subgradient steps."""
SHORTER = 0.8
"""Steps get so much shorter where one does not raise the bound."""
LEAST_WEIGHT = 1e-9
"""What a second counts at least, where batteries leave nothing else to be weighed."""
TOLERANCE = 1e-4
"""Of the slots, relative: how far a bound may be below the relaxed minimum."""


class EmptySlot(NamedTuple):
    """A slot of B networks, had the slots before it left no work."""

    problem: OffloadingProblem
    brought: Float[Tensor, "batch user server"]
    """Cycles that a user's task brings to a server."""
    compute_hz: Float[Tensor, "batch server"]
    room: Float[Tensor, "batch server"]
    """Cycles that a server keeps at most; 0 where none are kept."""


def carried_over(processes: Mapping[str, Process]) -> Queues | None:
    """The process by which work carries over, if there is one.

    Raises:
        HadrlError: something else carries over, of which nothing is known here.
    """
    found = None
    for name, one in processes.items():
        if isinstance(one, Queues):
            found = one
        elif one.carries_work and not isinstance(one, Device):
            raise HadrlError(
                f"processes must be queues or device for lower-bound, got {name}, which carries work over"
            )
    return found


def empty_slot(network: EdgeNetwork) -> EmptySlot:
    """The coming slot of networks, with the very fading and speed of servers that it will have."""
    processes, exact = network.unfolding.processes, network.exact
    slot, batch, scenario = network.unfolding.foreseen(), len(network.requests), network.scenario
    nothing = {name: one.carried(exact, batch) for name, one in processes.items()}
    table = adjusted(processes, exact, slot, nothing)
    # The last task of a battery takes what is left.
    if table.off is not None and scenario.preferences.energy_j:
        latency = max(scenario.preferences.latency_s, LEAST_WEIGHT)
        unpaid = replace(scenario.preferences, latency_s=latency, energy_j=0.0)
        scenario = replace(scenario, preferences=unpaid)
    of_slot = (scenario, network.cache, slot.requests, slot.positions, slot.fading, network.physics)
    brought = work_brought(table, network.cache, slot.requests)
    hz = table.compute_hz.double().expand(batch, brought.shape[2])
    rooms = [nothing[name]["room"] for name, one in processes.items() if isinstance(one, Queues)]
    room = rooms[0] if rooms else torch.zeros_like(hz)
    return EmptySlot(offloading_problem(*of_slot, table), brought, hz, room)


def carried_bound(
    slots: Sequence[EmptySlot],
    queues: Queues | None,
    preferences: Preferences,
    dropped_s: float,
    upper: Float[Tensor, " batch"],
    steps: int = STEPS,
) -> Float[Tensor, " batch"]:
    """What no decisions get below in an episode, summed over slots and users, float64 [B].

    Args:
        slots: of the episode, from its start.
        queues: how work carries over; None: it does not, and only batteries do.
        preferences: by which costs are weighed.
        dropped_s: what a dropped task counts as at least, s.
        upper: what some decisions do cost, [B]: it sets the length of steps, and nothing else.
        steps: that are made towards better prices.
    """
    dropped = preferences.latency_s * dropped_s + preferences.missed + preferences.dropped
    dual = _Dual(slots, queues, preferences.latency_s, dropped)
    price = torch.zeros_like(dual.hz)
    best, slope = dual.at(price)
    at, length = price, torch.ones_like(best)
    value = best
    for _ in range(steps if queues is not None else 0):
        far = length * (upper - value).clamp(min=0.0) / slope.square().sum(dim=(0, 2)).clamp(min=1e-30)
        at = (at + far.view(1, -1, 1) * slope).clamp(min=0.0)
        value, slope = dual.at(at)
        length = torch.where(value > best, length, SHORTER * length)
        best = torch.maximum(best, value)
    return best


class _Dual:
    """The bound as a function of prices; tensors are of slots, networks, users and targets, in this order."""

    def __init__(
        self, slots: Sequence[EmptySlot], queues: Queues | None, latency_weight: float, dropped: float
    ) -> None:
        self.hz = torch.stack([one.compute_hz for one in slots])
        self._brought = torch.stack([one.brought for one in slots])
        radio, edge, alone = (
            torch.stack([one.problem[part] for one in slots])
            for part in range(len(OffloadingProblem._fields))
        )
        asking = torch.maximum(torch.maximum(radio, edge), alone).amax(dim=-1) > 0
        # Behind the targets: the task is dropped.
        self._radio, self._edge = pad(radio, (0, 1)), pad(edge, (0, 1))
        self._alone = torch.cat((alone, dropped * asking.unsqueeze(-1)), dim=-1)
        self._here = (self._brought > 0).double()
        self._most = self._here.sum(dim=2)
        self._waiting = latency_weight / self.hz
        self._done = self.hz * (queues.slot_s if queues else 0.0)
        self._room = self._rooms([one.room for one in slots])
        servers = self.hz.shape[2]
        cases = itertools.product([0.0, 1.0], repeat=servers) if 2**servers <= MOST_CASES and queues else ()
        self._cases = self.hz.new_tensor(list(cases))

    def _rooms(self, kept: Sequence[Tensor]) -> Float[Tensor, "slot batch server"]:
        """What can be left at most at the start of each slot: nothing at first."""
        rooms = [torch.zeros_like(self.hz[0])]
        for slot in range(len(self.hz) - 1):
            held = (rooms[-1] + self._brought[slot].sum(dim=1)).minimum(kept[slot])
            rooms.append((held - self._done[slot]).clamp(min=0.0))
        return torch.stack(rooms)

    def at(
        self, price: Float[Tensor, "slot batch server"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "slot batch server"]]:
        """The bound at these prices of a cycle, and a direction in which it rises."""
        before = torch.cat((torch.zeros_like(price[:1]), price[:-1]))
        kept = price - before
        if len(self._cases):
            full = self._cases.view(-1, 1, 1, price.shape[2])
            wanted = ((full == 0) | ((kept < 0) & (self._room > 0))).all(dim=-1)
            room = full * self._room
            start, each = kept * room, self._waiting * room
            at_none = at_most = room
        else:
            ends = [self._room * change for change in (kept, kept + self._waiting * self._most)]
            start, end = (one.clamp(max=0.0)[None] for one in ends)
            at_none, at_most = (self._room * (one < 0) for one in ends)
            each = (end - start) / self._most.clamp(min=1.0)
            wanted = torch.ones(each.shape[:-1], dtype=torch.bool, device=each.device)
        value, share = self._slots(each, price, wanted)
        value, case = (value + start.sum(dim=-1)).min(dim=0)
        share = share.gather(0, case.view(1, *case.shape, 1, 1).expand(1, *share.shape[1:]))[0]
        part = (share * self._here).sum(dim=2) / self._most.clamp(min=1.0)
        if len(self._cases):
            left = at_none.gather(0, case.view(1, *case.shape, 1).expand(1, *at_none.shape[1:]))[0]
        else:
            left = at_none + part * (at_most - at_none)
        bound = (value - (price * self._done).sum(dim=-1)).sum(dim=0)
        after = torch.cat((left[1:], left[-1:]))
        slope = left + (share * self._brought).sum(dim=2) - self._done - after
        slope[-1] = 0.0  # nothing comes after the last slot
        return bound, slope

    def _slots(self, each: Tensor, price: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of all slots in all cases that are wanted, infinite in others, and the shares of users at servers."""
        servers = price.shape[2]
        alone = each.unsqueeze(3) * self._here + price.unsqueeze(2) * self._brought
        alone = self._alone + pad(alone, (0, self._alone.shape[-1] - servers))
        parts = (one.expand_as(alone)[wanted] for one in (self._radio, self._edge, alone))
        found = relaxed_assignment(OffloadingProblem(*parts), tolerance=TOLERANCE)
        value, share = alone.new_full(wanted.shape, torch.inf), torch.zeros_like(alone[..., :servers])
        value[wanted], share[wanted] = found.bound, found.targets[..., :servers]
        return value, share
