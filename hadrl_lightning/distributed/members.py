"""Modules that learn as one of several ranks: which members they hold, which rows they learn from, what they merge.

Alone, a module holds and learns from everything and merges nothing. A strategy that spreads an ensemble over ranks
tells each module its part.
"""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from hadrl_lightning.distributed.collectives import ALONE, DataShare, Share, summed


class MemberWise(nn.Module):
    """A module each of whose own parameters has the members as its first dimension."""

    held: Share
    """The members held here. The constructor of a subclass sets it."""

    def hold(self, share: Share) -> None:
        """Keeps the parameters of some members, and gives the memory of the others back."""
        for name, parameter in self.named_parameters(recurse=False):
            kept = parameter.detach()[share.items].clone()
            setattr(self, name, nn.Parameter(kept, requires_grad=parameter.requires_grad))
        self.held = share


class SharesRows(nn.Module):
    """A module that takes the gradient of this rank's rows of every batch; losses are parts that add up over ranks."""

    data_share: DataShare = ALONE
    """Which rows: all, unless ranks train on the same batches."""

    def of_all_rows(self, parts: Tensor) -> Tensor:
        """Losses of whole batches, from the parts of this rank's rows; every rank has to call."""
        return parts if self.data_share == ALONE else summed(parts)


class MergedOverRanks(nn.Module):
    """A module with statistics of what it sees, merged over the ranks of `torch.distributed`."""

    same_on_all_ranks: bool = False
    """Whether all ranks see the same, so that there is nothing to merge."""


def members_held(module: nn.Module) -> Share | None:
    """The members that a model holds here; None of a model without an ensemble."""
    return next((part.held for part in module.modules() if isinstance(part, MemberWise)), None)


def member_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters whose first dimension is the members, by their names in the state dict."""
    for prefix, part in module.named_modules():
        if isinstance(part, MemberWise):
            for name, parameter in part.named_parameters(recurse=False):
                yield f"{prefix}.{name}" if prefix else name, parameter


def clip_gradients(module: nn.Module, max_norm: float) -> Tensor:
    """Clips the gradient of all members together, wherever they are held, and returns its norm before."""
    held = members_held(module)
    if held is None or held.is_whole:
        return clip_grad_norm_(module.parameters(), max_norm)
    of_members = {id(parameter) for _, parameter in member_parameters(module)}
    graded = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norms = []
    for members in (False, True):
        gradients = [
            one.grad for one in graded if (id(one) in of_members) is members and one.grad is not None
        ]
        norms.append(get_total_norm(gradients).to(next(module.parameters())))  # 0 without gradients
    norm = (norms[0].square() + summed(norms[1].square())).sqrt()
    clip_grads_with_norm_(graded, max_norm, norm)
    return norm
