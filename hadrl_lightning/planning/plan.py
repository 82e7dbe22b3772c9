"""`Plan`: what is planned for each network; also as plain values, for checkpoints."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hadrl_lightning.planning.free_energy import FreeEnergy
from hadrl_lightning.planning.proposal import AnyProposal, CategoricalProposal, GaussianProposal, join


class Plan(NamedTuple):
    """What was planned for each network."""

    action: Float[Tensor, "networks action"]
    """First action of the last refit proposal, or what refinement made of it, in [−1, 1]."""

    proposal: AnyProposal
    """The last refit proposal: pass the plan as `warm_start` of the next slot. Refit to the refined action, if any."""

    free_energy: FreeEnergy
    """Terms `[networks]`: mean over the usable elites of the last iteration; of a refined action, its own by all
    members. NaN where none was usable."""

    elite_spread: Float[Tensor, " networks"]
    """Standard deviation of the first action over the last elites, mean over dimensions; 0 where one action is left
    because it was refined."""

    num_nonfinite: Int64[Tensor, " networks"]
    """Candidates whose score was not finite, all iterations together."""


def join_plans(parts: list[Plan]) -> Plan:
    """Plans of groups of networks, put together."""
    return Plan(
        torch.cat([part.action for part in parts]),
        join([part.proposal for part in parts]),
        FreeEnergy(*(torch.cat(terms) for terms in zip(*(part.free_energy for part in parts)))),
        torch.cat([part.elite_spread for part in parts]),
        torch.cat([part.num_nonfinite for part in parts]),
    )


def plan_state(plan: Plan) -> dict[str, Any]:
    """The plan as nested dictionaries of tensors and numbers: a warm start has to survive an interruption."""
    proposal: dict[str, Any] = plan.proposal._asdict()
    if isinstance(plan.proposal, CategoricalProposal):
        proposal["shares"] = plan.proposal.shares._asdict()
    return {**plan._asdict(), "proposal": proposal, "free_energy": plan.free_energy._asdict()}


def plan_from_state(state: dict[str, Any]) -> Plan:
    """The plan that `plan_state` was made of."""
    fields = state["proposal"]
    proposal: AnyProposal
    if "probability" in fields:
        proposal = CategoricalProposal(fields["probability"], GaussianProposal(**fields["shares"]))
    else:
        proposal = GaussianProposal(**fields)
    return Plan(**{**state, "proposal": proposal, "free_energy": FreeEnergy(**state["free_energy"])})
