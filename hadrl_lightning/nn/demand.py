"""What services are usually asked for, and what they are asked for now."""

from math import inf
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hadrl_lightning.distributed.collectives import summed
from hadrl_lightning.distributed.members import MergedOverRanks
from hadrl_lightning.simulator import CachingView

DOUBT = 3.0
"""How many standard deviations above its mean under chance alone χ² has to be for a deviation to count."""


class UsualDemand(MergedOverRanks):
    """The mean of all the demand seen in training, of each service, and by how much that is known.

    Nothing is known of another number of services: all are equally usual there, and after weights of another number are
    loaded, until a training has seen them.

    Args:
        num_services: K of the networks that it is to be trained on.
    """

    usual_demand: Float[Tensor, " service"]
    num_seen: Float[Tensor, ""]

    def __init__(self, num_services: int) -> None:
        super().__init__()
        self.register_buffer("usual_demand", torch.full((num_services,), 1 / num_services))
        self.register_buffer("num_seen", torch.zeros(()))
        self.register_load_state_dict_pre_hook(_without_demand_of_other_services)

    @torch.no_grad()
    def add(self, demand: Float[Tensor, " service"], count: int) -> None:
        """Takes the sum of some demands into the mean; ranks share what they see, so every rank has to call."""
        number = self.num_seen.new_tensor([count])
        seen = torch.cat((number, demand.to(self.usual_demand) - number * self.usual_demand))
        if not self.same_on_all_ranks:
            seen = summed(seen)
        self.num_seen += seen[0]
        self.usual_demand += seen[1:] / self.num_seen.clamp(min=1)

    def watch(self, requests: Int[Tensor, "..."]) -> None:
        """Takes requests into the mean, each once."""
        counts = torch.bincount(requests.flatten(), minlength=len(self.usual_demand))
        self.add(counts.to(self.usual_demand), requests.numel())

    def usual(self, num_services: int, like: Tensor) -> Float[Tensor, " service"]:
        """The usual demand of so many services."""
        known = self.usual_demand
        known = known if len(known) == num_services else known.new_full((num_services,), 1 / num_services)
        return known.to(like)

    def now(self, view: CachingView) -> Float[Tensor, "batch service"]:
        """What part of requests is expected to be for each service: the usual one, unless those of late differ.

        The shares on record of before the episode are drawn towards the usual ones, those of the episode towards these,
        and those of the last frame towards these in turn: by how much chance explains of the difference
        (`drawn_towards`).
        """
        number = view.requests.shape[-1]
        usual = self.usual(number, view.requests).expand_as(view.requests)
        known = float(self.num_seen) if number == len(self.usual_demand) and self.num_seen else inf
        past = view.past_requests.sum(dim=-1, keepdim=True)
        usual = drawn_towards(view.past_requests, usual, torch.full_like(past, known))
        known_by = torch.where(past > 0, past, known)
        return drawn_towards(view.recent_requests, drawn_towards(view.requests, usual, known_by))


def drawn_towards(
    counts: Float[Tensor, "batch service"],
    expected: Float[Tensor, "batch service"],
    known_by: Float[Tensor, "batch 1"] | float = inf,
) -> Float[Tensor, "batch service"]:
    """Shares by counts, drawn towards what was expected of them, as far as chance explains the difference.

    Let n requests be counted, e of a service be expected, and that be known by N requests. Then
    χ² = Σ (count − e)² / (e (1 + n / N) + 1) has at most the mean K − 1 and about the deviation √(2 (K − 1)) where the
    difference is chance alone; the 1 keeps services that are hardly asked for from deciding. Of the difference the part
    max(0, 1 − (c / χ²)²) counts, c three deviations above that mean: nothing of what chance brings, nearly all of a
    change that is plain, in between about what the estimate of James and Stein leaves.

    Args:
        counts: requests of every service.
        expected: shares that were expected.
        known_by: requests that these were estimated by.
    """
    total = counts.sum(dim=1, keepdim=True)
    difference = counts / total.clamp(min=1) - expected
    spread = total * expected * (1 + total / known_by) + 1
    wide = ((total * difference).square() / spread).sum(dim=1, keepdim=True)
    freedom = counts.shape[1] - 1
    chance = freedom + DOUBT * (2 * freedom) ** 0.5
    part = (1 - (chance / wide.clamp(min=1e-9)).square()).clamp(min=0)
    return expected + torch.where(total > 0, part, 0.0) * difference


def _without_demand_of_other_services(
    model: UsualDemand, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Before `load_state_dict`: what is known of other services says nothing of these."""
    demand = state_dict.get(f"{prefix}usual_demand")
    if demand is not None and demand.shape != model.usual_demand.shape:
        number = len(model.usual_demand)
        state_dict[f"{prefix}usual_demand"] = torch.full_like(model.usual_demand, 1 / number)
        state_dict[f"{prefix}num_seen"] = torch.zeros_like(model.num_seen)
