"""After the cross-entropy method: descent from the plan that it found.

For plans of one slot, where the first U numbers of an action choose targets and the rest are continuous. Nothing here
knows more than the model predicts.
"""

from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.planning.free_energy import FreeEnergy, FreeEnergyForm, expected_free_energy
from hadrl_lightning.planning.measures import NO_DRAWS
from hadrl_lightning.planning.model import ROWS_AT_ONCE, Members, PlanningModel, in_parts, rollout
from hadrl_lightning.planning.proposal import bin_centre
from hadrl_lightning.simulator import Seen
from hadrl_lightning.typed import typed


@typed
@dataclass(frozen=True, kw_only=True)
class RefinementSettings:
    """How a plan of one slot is improved after the cross-entropy method."""

    share_steps: int = 0
    """Gradient steps on the continuous part of the plan through all members, before and again after the sweeps over
    targets; 0: none."""

    share_step_size: float = 0.2
    """Step size of the descent (Adam's) at first; it falls to a fifth over the steps; above 0."""

    target_sweeps: int = 0
    """Sweeps in which every user's every target is tried, the rest being equal, and the best changes are made
    together as far as that helps; 0: none."""

    joint_changes: int = 8
    """Users at most whose target changes in a sweep; at least 1."""

    move_margin: float = 0.002
    """What each change of a target must save, in parts of the free energy; 0 or more."""

    start_margin: float = 0.01
    """What the planner's start must save against the usual one, in parts of the free energy, to be gone on with; 0 or
    more."""

    def __post_init__(self) -> None:
        for name, least in (("share_steps", 0), ("target_sweeps", 0), ("joint_changes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.share_step_size < inf:
            raise ValueError(f"share_step_size must be above 0 and finite, got {self.share_step_size}")
        for name in ("move_margin", "start_margin"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")


class Refined(NamedTuple):
    """What refinement made of plans."""

    action: Float[Tensor, "networks action"]

    free_energy: FreeEnergy
    """Terms of that action by all members, `[networks]`."""


@torch.no_grad()
def refine(
    model: PlanningModel,
    view: Seen,
    action: Float[Tensor, "networks action"],
    form: FreeEnergyForm,
    settings: RefinementSettings,
    num_users: int,
    num_targets: int,
    members: Members = None,
    max_rows: int = ROWS_AT_ONCE,
    usual: Float[Tensor, "networks action"] | None = None,
) -> Refined:
    """The action improved: shares, targets, shares again. Never one of more free energy than it began with.

    Where there is a usual action too, both are improved, and the usual one is gone on with unless the other is better
    by `start_margin`: what is decided then hangs less on what was drawn.

    Args:
        model: predicts a step, differentiably.
        view: what is seen of each network at present.
        action: what the planner found, in [-1, 1].
        form: how a step is scored.
        settings: how much of it.
        num_users: U, the targets are the first U numbers of an action.
        num_targets: S.
        members: members that judge the targets; None: all. Shares and comparisons are judged by all.
        max_rows: rows (networks x candidates x members) the model sees at once; at least its members.
        usual: the usual action, for sweeps over targets; None: there is none.

    Raises:
        ValueError: fewer rows than members.
    """
    if max_rows < model.num_members:
        raise ValueError(
            f"max_rows must be at least the members of the model ({model.num_members}) where plans are refined, "
            f"got {max_rows}"
        )
    starts = action[:, None]
    if usual is not None and settings.target_sweeps:
        starts = torch.stack((usual, action), dim=1)
    rows_each = (num_users * num_targets + 1) * (model.num_members if members is None else len(members))
    size = max(1, max_rows // max(rows_each, model.num_members))
    search = _Search(model, form, settings, num_users, num_targets, members, max_rows, size)
    parts = [search.refine(*part) for part in zip(view.split(size), starts.split(size))]
    terms = zip(*(part.free_energy for part in parts))
    return Refined(torch.cat([part.action for part in parts]), FreeEnergy(*map(torch.cat, terms)))


class _Search(NamedTuple):
    """What all parts of a refinement share."""

    model: PlanningModel
    form: FreeEnergyForm
    settings: RefinementSettings
    num_users: int
    num_targets: int
    members: Members
    max_rows: int
    size: int
    """Actions that are improved at once."""

    def refine(self, view: Seen, starts: Float[Tensor, "networks starts action"]) -> Refined:
        """From several starts of each network, the preferred one first, the planner's action last.

        They compete after the first sweep.
        """
        network = torch.arange(len(starts), device=starts.device).repeat_interleave(starts.shape[1])
        seen = view[network].split(self.size)
        improved = [self._improve(*part) for part in zip(seen, starts.flatten(0, 1).split(self.size))]
        best = self._first(view, torch.cat(improved).view_as(starts), self.settings.start_margin)
        refined = best.action
        for _ in range(self.settings.target_sweeps - 1):
            refined = self._sweep(view, refined)
        if self.settings.target_sweeps:
            refined = self._descend(view, refined)
        return self._first(view, torch.stack((refined, starts[:, -1]), dim=1), 0.0)

    def _improve(self, view: Seen, action: Tensor) -> Tensor:
        action = self._descend(view, action)
        return self._sweep(view, action) if self.settings.target_sweeps else action

    def _sweep(self, view: Seen, action: Tensor) -> Tensor:
        sizes = (self.num_users, self.num_targets, self.members, self.max_rows)
        return sweep_targets(self.model, view, action, self.form, self.settings, *sizes)

    def _descend(self, view: Seen, action: Tensor) -> Tensor:
        return descend_shares(self.model, view, action, self.form, self.settings, self.num_users)

    def _first(
        self, view: Seen, actions: Float[Tensor, "networks candidates action"], margin: float
    ) -> Refined:
        """The first action, unless another is better by a margin in parts of the free energy."""
        terms = _score(self.model, view, actions, self.form, None, self.max_rows)
        total = terms.total.clone()
        total[:, 1:] += margin * _size(total[:, :1])
        chosen = (torch.arange(len(actions), device=actions.device), total.argmin(dim=1))
        return Refined(actions[chosen], FreeEnergy(*(term[chosen] for term in terms)))


def descend_shares(
    model: PlanningModel,
    view: Seen,
    action: Float[Tensor, "networks action"],
    form: FreeEnergyForm,
    settings: RefinementSettings,
    num_users: int,
) -> Float[Tensor, "networks action"]:
    """Projected descent on the free energy along the continuous part of the action."""
    with torch.inference_mode(False), torch.no_grad():  # gradients are needed in evaluation too
        view, action = view.clone(), action.clone()
        targets, shares = action[:, :num_users], action[:, num_users:].clone().requires_grad_(True)
        optimiser = torch.optim.Adam([shares], lr=settings.share_step_size)
        state = model.start(view, 1, None)  # the same in all steps
        for step in range(settings.share_steps):
            with torch.enable_grad():
                prediction, _ = model.step(state, torch.cat((targets, shares), dim=1), None)
                total = expected_free_energy([prediction], form, NO_DRAWS).total
                if not total.requires_grad:  # nothing counts that shares change
                    break
                (gradient,) = torch.autograd.grad(total.sum(), shares)
            shares.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            for group in optimiser.param_groups:
                group["lr"] = settings.share_step_size * (1 - 0.8 * step / settings.share_steps)
            optimiser.step()
            shares.clamp_(-1, 1)
        return torch.cat((targets, shares.detach()), dim=1)


@torch.no_grad()
def sweep_targets(
    model: PlanningModel,
    view: Seen,
    action: Float[Tensor, "networks action"],
    form: FreeEnergyForm,
    settings: RefinementSettings,
    num_users: int,
    num_targets: int,
    members: Members = None,
    max_rows: int = ROWS_AT_ONCE,
) -> Float[Tensor, "networks action"]:
    """Tries every target of every user, then the best 1, 2, ... `joint_changes` of these changes at once.

    Only changes that save `move_margin` each are made: users don't move for nothing.
    """
    num_networks, num_changes = len(action), min(settings.joint_changes, num_users)
    user = torch.arange(num_users, device=action.device).repeat_interleave(num_targets)
    centre = bin_centre(torch.arange(num_targets, device=action.device), num_targets).to(action)
    tried = action[:, None].repeat(1, num_users * num_targets + 1, 1)  # the last one stays as it is
    tried[:, torch.arange(len(user), device=action.device), user] = centre.repeat(num_users)
    score = _score(model, view, tried, form, members, max_rows).total
    present = score[:, -1:]
    least, target = score[:, :-1].view(num_networks, num_users, num_targets).min(dim=2)
    gain = (present - least).nan_to_num(0.0)  # infinity less infinity
    gain, changed = gain.sort(dim=1, descending=True, stable=True)
    gain, changed = gain[:, :num_changes], changed[:, :num_changes]
    margin = settings.move_margin * _size(present)
    value = torch.where(gain > margin, centre[target.gather(1, changed)], action.gather(1, changed))
    joint = action[:, None].repeat(1, num_changes + 1, 1)
    for count in range(1, num_changes + 1):
        joint[:, count].scatter_(1, changed[:, :count], value[:, :count])
    total = _score(model, view, joint, form, members, max_rows).total
    total = total + margin * torch.arange(num_changes + 1, device=action.device)
    return joint[torch.arange(num_networks, device=action.device), total.argmin(dim=1)]


def _size(score: Tensor) -> Tensor:
    """What margins are parts of; 0 where a score is not finite, so that anything finite is better."""
    return score.abs().nan_to_num(0.0, 0.0, 0.0)


def _score(
    model: PlanningModel,
    view: Seen,
    action: Float[Tensor, "networks candidates action"],
    form: FreeEnergyForm,
    members: Members,
    max_rows: int,
) -> FreeEnergy:
    """Terms `[networks, candidates]` of candidates of one slot; a total of +inf where it is not finite."""
    parts = []
    for part in in_parts(model, action, members, max_rows):
        predictions = rollout(model, view, part[:, :, None], members)
        terms = expected_free_energy(predictions, form, NO_DRAWS)
        parts.append(FreeEnergy(*(term.view(part.shape[:2]) for term in terms)))
    return FreeEnergy(*(torch.cat(terms, dim=1) for terms in zip(*parts)))
