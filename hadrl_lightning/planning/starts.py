"""Where a search for a plan starts: each user's own preference among targets, and the usual decision.

Nothing here knows more than the model predicts. A decision that is searched from random candidates alone is another one
with other draws, although many are about as good. A search that also starts from the usual decision, and leaves it only
for a gain, makes about the same decision for about the same view.
"""

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from hadrl_lightning.planning.model import (
    ROWS_AT_ONCE,
    Members,
    PlanningModel,
    in_parts,
    require_outcomes,
    rollout,
)
from hadrl_lightning.planning.proposal import SMOOTHING, bin_centre
from hadrl_lightning.simulator import Seen

ACCEPTABLE = 0.5
"""A user's usual target is one whose probability is at least this part of the largest."""


def random_targets(
    size: tuple[int, int, int], num_targets: int, generator: torch.Generator
) -> Int[Tensor, "networks candidates user"]:
    """Uniform targets for (networks, candidates, users)."""
    return torch.randint(num_targets, size, generator=generator, device=generator.device)


@torch.no_grad()
def preferred_targets(
    model: PlanningModel,
    view: Seen,
    target: Int[Tensor, "networks candidates user"],
    num_targets: int,
    latency_scale_s: float = 1.0,
    members: Members = None,
    max_rows: int = ROWS_AT_ONCE,
) -> Float[Tensor, "networks 1 user target"]:
    """An informed start of the categorical proposal: each user's own preference among targets.

    Candidates with random targets and middling shares are rolled through the model. A user's probability of a target
    is the softmax of its expected log preference, −E[latency] / scale averaged over the candidates that sent it there,
    smoothed as refits are. What users do to each other is left to the planner.

    Args:
        model: one whose outcomes are the users' log latencies.
        view: what is seen of each network at present.
        target: of the candidates, such as `random_targets` gives.
        num_targets: S.
        latency_scale_s: as in `OutcomeForm`.
        members: members to use; None: all.
        max_rows: rows (networks × candidates × members) that the model sees at once.

    Raises:
        ValueError: the model's outcomes are not one per user.
    """
    num_users = target.shape[-1]
    shares = torch.zeros(*target.shape[:2], 2 * num_users, dtype=view.dtype, device=view.device)
    action = torch.cat((bin_centre(target, num_targets).to(shares), shares), dim=-1)
    parts = []
    for part in in_parts(model, action, members, max_rows):
        prediction = next(iter(rollout(model, view, part[:, :, None], members)))
        require_outcomes(prediction, num_users)
        expected = (prediction.mean + 0.5 * prediction.log_var.exp()).exp().mean(dim=0)
        parts.append(expected.view(*part.shape[:2], num_users))
    latency = torch.cat(parts, dim=1)
    chosen = target[..., None] == torch.arange(num_targets, device=target.device)
    count = chosen.sum(dim=1)
    total = torch.where(chosen, latency[..., None], 0.0).sum(dim=1)
    expected = torch.where(count > 0, total / count.clamp(min=1), latency.mean(dim=1)[..., None])
    probability = torch.softmax(-expected.nan_to_num(posinf=1e9) / latency_scale_s, dim=-1)
    return ((1 - SMOOTHING) * probability + SMOOTHING / num_targets)[:, None]


def usual_targets(
    probability: Float[Tensor, "networks user target"],
) -> Int64[Tensor, "networks user"]:
    """User u goes to the first acceptable one of the servers u, u + 1, ... (counted round).

    Args:
        probability: each user's own preference among the targets; uniform where there is none.
    """
    return first_in_turn(probability >= ACCEPTABLE * probability.amax(dim=2, keepdim=True))


def first_in_turn(acceptable: Bool[Tensor, "networks user target"]) -> Int64[Tensor, "networks user"]:
    """Of user u the first of the targets u, u + 1, ... (counted round) that are acceptable to it."""
    num_networks, num_users, num_targets = acceptable.shape
    device = acceptable.device
    turn = torch.arange(num_users, device=device)[:, None] + torch.arange(num_targets, device=device)
    order = (turn % num_targets).expand(num_networks, -1, -1)
    first = acceptable.gather(2, order).to(torch.int8).argmax(dim=2, keepdim=True)
    return order.gather(2, first).squeeze(2)


def usual_action(
    probability: Float[Tensor, "networks user target"], action: Float[Tensor, "networks action"]
) -> Float[Tensor, "networks action"]:
    """The action of the usual targets and middling shares, with the sizes and the type of another action."""
    num_users, num_targets = probability.shape[1:]
    usual = torch.zeros_like(action)
    usual[:, :num_users] = bin_centre(usual_targets(probability), num_targets).to(action)
    return usual
