"""What is planned for each network, and the distributions that candidates are drawn from.

A proposal is one distribution per network, step and dimension, refit to the elites. All tensors are stacked over
networks. A proposal is a value: `refit` and `shifted` return new ones. Another kind needs the methods `sample`,
`refit`, `mean`, `shifted` and `group`, and a place in `join`. Plans are also plain values, for checkpoints.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hadrl_lightning.planning.free_energy import FreeEnergy
from hadrl_lightning.simulator import bin_index

SMOOTHING = 0.02
"""Share of the uniform distribution that a refit categorical keeps, so that no target becomes impossible."""


class GaussianProposal(NamedTuple):
    """Independent normal distributions (published)."""

    centre: Float[Tensor, "networks horizon action"]
    """Means."""

    std: Float[Tensor, "networks horizon action"]
    """Standard deviations."""

    initial_std: float = 1.0
    """What every standard deviation starts from."""

    min_std: float = 0.0
    """What none falls below."""

    clip: bool = True
    """Whether candidates are clipped to [−1, 1]."""

    @staticmethod
    def initial(
        size: tuple[int, int, int], like: Tensor, initial_std: float, min_std: float, clip: bool
    ) -> "GaussianProposal":
        """Mean 0 for `size` = (networks, horizon, action), with device and dtype of `like`."""
        centre = like.new_zeros(size)
        return GaussianProposal(centre, torch.full_like(centre, initial_std), initial_std, min_std, clip)

    def sample(
        self, num_candidates: int, generator: torch.Generator
    ) -> Float[Tensor, "networks candidates horizon action"]:
        """Candidate sequences of each network."""
        num_networks, *size = self.centre.shape
        noise = torch.randn(
            (num_networks, num_candidates, *size), generator=generator, device=generator.device
        )
        return self.candidates(noise.to(self.centre))

    def candidates(
        self, noise: Float[Tensor, "networks candidates horizon action"]
    ) -> Float[Tensor, "networks candidates horizon action"]:
        """Candidate sequences of each network that standard normal draws stand for."""
        candidates = self.centre[:, None] + self.std[:, None] * noise
        return candidates.clamp_(-1, 1) if self.clip else candidates

    def refit(
        self, elites: Float[Tensor, "networks elites horizon action"], usable: Bool[Tensor, "networks elites"]
    ) -> "GaussianProposal":
        """Mean and standard deviation (over n) of the usable elites."""
        any_usable = usable.any(dim=1)[:, None, None]
        centre = average(elites, usable)
        std = average((elites - centre[:, None]).square(), usable).sqrt().clamp(min=self.min_std)
        return self._replace(
            centre=torch.where(any_usable, centre, self.centre), std=torch.where(any_usable, std, self.std)
        )

    def mean(self) -> Float[Tensor, "networks horizon action"]:
        """Means."""
        return self.centre

    def shifted(self) -> "GaussianProposal":
        """Means one step on, 0 at the end; standard deviations as at the start."""
        centre = torch.cat((self.centre[:, 1:], torch.zeros_like(self.centre[:, :1])), dim=1)
        return self._replace(centre=centre, std=torch.full_like(self.std, self.initial_std))

    def group(self, networks: slice) -> "GaussianProposal":
        """The part of some networks."""
        return self._replace(centre=self.centre[networks], std=self.std[networks])


class CategoricalProposal(NamedTuple):
    """A categorical over servers for each user's target, normal distributions for the shares.

    An action stays a vector in [−1, 1]: the target block holds the centre of the bin of the drawn server. A normal
    distribution over an axis that is cut into bins can't hold "the first or the last server"; this one can.
    """

    probability: Float[Tensor, "networks horizon user target"]
    """Of each target server."""

    shares: GaussianProposal
    """Over the other blocks of the action."""

    @staticmethod
    def initial(size: tuple[int, int, int, int], shares: GaussianProposal) -> "CategoricalProposal":
        """Uniform for `size` = (networks, horizon, user, target)."""
        return CategoricalProposal(shares.centre.new_full(size, 1 / size[-1]), shares)

    def sample(
        self, num_candidates: int, generator: torch.Generator
    ) -> Float[Tensor, "networks candidates horizon action"]:
        """Candidate sequences of each network."""
        num_networks, horizon, num_users, num_targets = self.probability.shape
        rows = self.probability.reshape(-1, num_targets).to(generator.device)
        drawn = torch.multinomial(rows, num_candidates, replacement=True, generator=generator)
        target = drawn.reshape(num_networks, horizon, num_users, num_candidates)
        target = target.permute(0, 3, 1, 2).to(self.probability.device)
        return torch.cat(
            (bin_centre(target, num_targets), self.shares.sample(num_candidates, generator)), dim=-1
        )

    def refit(
        self, elites: Float[Tensor, "networks elites horizon action"], usable: Bool[Tensor, "networks elites"]
    ) -> "CategoricalProposal":
        """Frequencies of the usable elites' targets, smoothed; mean and standard deviation of their shares."""
        num_users, num_targets = self.probability.shape[2:]
        target, shares = elites[..., :num_users], elites[..., num_users:]
        chosen = bin_index(target, num_targets)[..., None] == torch.arange(num_targets, device=elites.device)
        frequency = average(chosen.to(elites.dtype), usable)
        smooth = (1 - SMOOTHING) * frequency + SMOOTHING / num_targets
        any_usable = usable.any(dim=1)[:, None, None, None]
        return CategoricalProposal(
            torch.where(any_usable, smooth, self.probability), self.shares.refit(shares, usable)
        )

    def mean(self) -> Float[Tensor, "networks horizon action"]:
        """Bin centres of the most likely targets, and the means of the shares."""
        target = bin_centre(self.probability.argmax(dim=-1), self.probability.shape[-1])
        return torch.cat((target, self.shares.mean()), dim=-1)

    def shifted(self) -> "CategoricalProposal":
        """One step on, half way back to uniform so that another target can still win; uniform at the end."""
        uniform = torch.full_like(self.probability, 1 / self.probability.shape[-1])
        moved = torch.cat((self.probability[:, 1:], uniform[:, :1]), dim=1)
        return CategoricalProposal((moved + uniform) / 2, self.shares.shifted())

    def group(self, networks: slice) -> "CategoricalProposal":
        """The part of some networks."""
        return CategoricalProposal(self.probability[networks], self.shares.group(networks))


AnyProposal = GaussianProposal | CategoricalProposal


def join(groups: Sequence[AnyProposal]) -> AnyProposal:
    """Proposals of groups of networks, all of one kind, put together; the inverse of `group`."""
    normal = [g.shares if isinstance(g, CategoricalProposal) else g for g in groups]
    joined = normal[0]._replace(
        centre=torch.cat([g.centre for g in normal]), std=torch.cat([g.std for g in normal])
    )
    categorical = [g.probability for g in groups if isinstance(g, CategoricalProposal)]
    return CategoricalProposal(torch.cat(categorical), joined) if categorical else joined


def average(
    values: Float[Tensor, "networks elites *rest"], usable: Bool[Tensor, "networks elites"]
) -> Float[Tensor, "networks *rest"]:  # noqa: F821 (a shape)
    """Mean over the usable elites; whatever the others hold, NaN included, has no say. 0 where none is usable."""
    mask = usable.reshape(*usable.shape, *([1] * (values.ndim - 2)))
    total = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device)).sum(dim=1)
    return total / mask.sum(dim=1).clamp(min=1)


def bin_centre(index: Int64[Tensor, "*shape"], num_bins: int) -> Float[Tensor, "*shape"]:
    """Centre of one of `num_bins` equal bins of [−1, 1]."""
    return (2 * index.to(torch.get_default_dtype()) + 1) / num_bins - 1


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
