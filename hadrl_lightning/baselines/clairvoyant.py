"""Decisions that know what is to come: a plan over many slots, where work carries over from slot to slot.

Best known decisions make the best of a slot by itself. Where servers go on with what a slot leaves them, a cycle that
is left behind keeps waiting all who come until the queue is empty. Let the plan of the later slots be held: then a
cycle left at server s by slot t costs

    price_ts = (n_s,t+1 / hz_s,t+1 + price_t+1,s) where s still has a queue in slot t + 1, else 0,

n being the tasks that are computed at s (the adjoint of the queue's dynamics). Held plans overstate it: queues that
are avoided are empty sooner. So prices are averaged over plans, each of which is made with the average before it: by
the search of the best known decisions, to which the price of the work that a user brings is a part of what it costs
alone. The step falls as 1, 1/2, 1/3, … (stochastic approximation, Robbins and Monro 1951). The best of these plans,
played in the very slots to come, is the one that is taken. It was found, and is no optimum: `carried_bound` says how
far that can be.
"""

import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from hadrl_lightning.baselines.best_known import best_targets, hindsight_policy, local_search
from hadrl_lightning.baselines.problem import offloading_problem, square_root_shares, work_brought
from hadrl_lightning.play import task_cost
from hadrl_lightning.simulator import Allocation, EdgeNetwork
from hadrl_lightning.simulator.decisions import sum_per_server
from hadrl_lightning.simulator.service import adjusted, served_slot
from hadrl_lightning.simulator.state import Slot

WINDOW = 50
"""Slots that a plan looks ahead."""
PLANS = 30
"""Plans of a window that are made, each by the prices that those before it had on average."""
FIRST_STEP = 0.5
"""How far the price goes towards that of the first plan; later ones count less and less."""


class ClairvoyantPolicy:
    """Plays the best plan found for the very slots to come, requests, links, fading and speeds of servers included.

    Caches are taken to stay as they are: when others are chosen, and in the middle of a window that ends before the
    episode does, it plans anew. Where no tasks wait it is `hindsight_policy`.

    Args:
        window: slots that a plan looks ahead.
        plans: that are made of each window.
    """

    def __init__(self, window: int = WINDOW, plans: int = PLANS) -> None:
        self._window = window
        self._plans = plans
        self._of: weakref.ref[EdgeNetwork] | None = None
        self._cache = torch.empty(0)
        self._next = 0
        self._asked: list[Tensor] = []
        self._ahead: list[Allocation] = []

    def __call__(self, network: EdgeNetwork) -> Allocation:
        """The decision of the coming slot."""
        if not waits(network) or not network.requests.numel():
            return hindsight_policy(network)
        if not (self._ahead and self._is_planned(network)):
            left = network.scenario.slots_per_episode - network.slot
            slots = network.unfolding.coming(min(self._window, left))
            self._ahead = planned(network, slots, self._plans)
            if len(slots) < left:
                self._ahead = self._ahead[: (len(slots) + 1) // 2]
            self._asked = [slot.requests for slot in slots]
            self._of, self._cache = weakref.ref(network), network.cache.clone()
        self._next = network.slot + 1
        self._asked.pop(0)
        return self._ahead.pop(0)

    def _is_planned(self, network: EdgeNetwork) -> bool:
        """Whether the coming slot is the one that was planned for, under the same caches."""
        if self._of is None or self._of() is not network or self._next != network.slot:
            return False
        return torch.equal(network.cache, self._cache) and torch.equal(network.requests, self._asked[0])


def waits(network: EdgeNetwork) -> bool:
    """Whether tasks may wait for the work of slots before them."""
    return network.present.waiting_s is not None


def planned(network: EdgeNetwork, slots: Sequence[Slot], plans: int = PLANS) -> list[Allocation]:
    """The best decisions found for the coming slots of networks, under the caches that they have now.

    Args:
        network: B networks in which tasks wait for the work of slots before them.
        slots: those that are to come, at least 1.
        plans: that are made, at least 1, beside the best decisions of each slot by itself.
    """
    window = _Window(network, slots)
    shape = (len(slots), len(network.requests), network.scenario.num_servers)
    price = torch.zeros(shape, dtype=torch.float64, device=network.device)
    tried, held = window.play(price)
    best = tried
    for number in range(plans):
        price = price + FIRST_STEP / (1 + number) * (held - price)
        tried, held = window.play(price, best.target)
        better = tried.cost.sum(dim=0) < best.cost.sum(dim=0)
        best = _Played._make(_where(better, *both) for both in zip(tried, best, strict=True))
    return [
        Allocation(*one) for one in zip(best.target, best.bandwidth_share, best.compute_share, strict=True)
    ]


class _Played(NamedTuple):
    """What came of a plan; slots come first, then networks."""

    cost: Float[Tensor, "slot batch"]
    """Of what is preferred, summed over users."""
    target: Int[Tensor, "slot batch user"]
    bandwidth_share: Float[Tensor, "slot batch user"]
    compute_share: Float[Tensor, "slot batch user"]


class _Window:
    """Slots that are to come."""

    def __init__(self, network: EdgeNetwork, slots: Sequence[Slot]) -> None:
        self._network = network
        self._slots = slots

    def play(
        self,
        price: Float[Tensor, "slot batch server"],
        start: Int[Tensor, "slot batch user"] | None = None,
    ) -> tuple[_Played, Float[Tensor, "slot batch server"]]:
        """Decide each slot by itself, where a cycle left behind has this price.

        The other result is what a cycle costs later that a slot leaves at a server, the plan being held.

        Args:
            price: of a cycle.
            start: targets that the search starts from; None: it looks for its own.
        """
        network, state = self._network, self._network.state
        processes, servers = network.unfolding.processes, network.scenario.num_servers
        weight = network.scenario.preferences.latency_s
        played, served = [], []
        for index, slot in enumerate(self._slots):
            holds = adjusted(processes, network.exact, slot, state.carried)
            of_slot = (network.scenario, state.cache, slot.requests, slot.positions, slot.fading)
            problem = offloading_problem(*of_slot, network.physics, holds)
            brought = work_brought(holds, state.cache, slot.requests)
            later = pad(price[index].unsqueeze(1) * brought, (0, problem.alone.shape[2] - servers))
            priced = problem._replace(alone=problem.alone + later)
            target = best_targets(priced) if start is None else local_search(priced, start[index])
            allocation = square_root_shares(problem, target, network.dtype)
            service, state, _ = served_slot(network.rules, processes, network.table, state, slot, allocation)
            computed = service.hit & (target < servers)
            number = sum_per_server(computed.double(), target.clamp(max=servers - 1), servers)
            cost = task_cost(network.scenario.preferences, service).sum(dim=-1)
            assert holds.waiting_s is not None
            played.append((cost, *allocation))
            served.append((holds.waiting_s > 0, weight * number / holds.compute_hz))
        prices = [torch.zeros_like(price[0])]
        for busy, each in reversed(served[1:]):
            prices.append(busy * (each + prices[-1]))
        columns = [torch.stack(column) for column in zip(*played, strict=True)]
        return _Played._make(columns), torch.stack(prices[::-1])


def _where(better: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Of each network the one or the other, [slot, batch, …]."""
    return torch.where(better.view(1, -1, *[1] * (one.ndim - 2)), one, other)
