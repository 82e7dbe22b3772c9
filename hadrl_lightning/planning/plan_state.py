"""Plans as plain values, for checkpoints: what warm-starts the next slot must survive an interruption."""

from typing import Any

from hadrl_lightning.planning.cem import Plan
from hadrl_lightning.planning.free_energy import FreeEnergy
from hadrl_lightning.planning.proposal import AnyProposal, CategoricalProposal, GaussianProposal


def plan_state(plan: Plan) -> dict[str, Any]:
    """The plan as nested dictionaries of tensors and numbers."""
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
