"""The usual decision: where each user goes unless another server is clearly better.

A decision that is searched from random candidates alone is another one with other draws, although many are about as
good. A search that also starts from the usual decision, and leaves it only for a gain, makes about the same decision
for about the same view.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hadrl_lightning.planning.proposal import bin_centre

ACCEPTABLE = 0.5
"""A user's usual target is one whose probability is at least this part of the largest."""


def usual_targets(
    probability: Float[Tensor, "networks user target"],
) -> Int64[Tensor, "networks user"]:
    """User u goes to the first acceptable one of the servers u, u + 1, ... (counted round).

    Args:
        probability: each user's own preference among the targets; uniform where there is none.
    """
    num_networks, num_users, num_targets = probability.shape
    device = probability.device
    turn = torch.arange(num_users, device=device)[:, None] + torch.arange(num_targets, device=device)
    order = (turn % num_targets).expand(num_networks, -1, -1)
    acceptable = probability.gather(2, order) >= ACCEPTABLE * probability.amax(dim=2, keepdim=True)
    first = acceptable.to(torch.int8).argmax(dim=2, keepdim=True)
    return order.gather(2, first).squeeze(2)


def usual_action(
    probability: Float[Tensor, "networks user target"], action: Float[Tensor, "networks action"]
) -> Float[Tensor, "networks action"]:
    """The action of the usual targets and middling shares, with the sizes and the type of another action."""
    num_users, num_targets = probability.shape[1:]
    usual = torch.zeros_like(action)
    usual[:, :num_users] = bin_centre(usual_targets(probability), num_targets).to(action)
    return usual
