"""Planning with an ensemble whose members are spread over ranks.

Each rank plans for its share of the networks. Candidates, which are small, go to all ranks; each rank predicts with its
members for everyone; the predictions go back to where they are scored.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hadrl_lightning.distributed.collectives import (
    Share,
    actions_of_every_rank,
    largest,
    predictions_of_every_member,
    rows_of_every_rank,
    this_rank,
    whole_rows,
)
from hadrl_lightning.distributed.members import members_held
from hadrl_lightning.planning.carried import CarriedWork, CarryingModel
from hadrl_lightning.planning.cem import CEMPlanner
from hadrl_lightning.planning.free_energy import FreeEnergy
from hadrl_lightning.planning.model import PAIRS_AT_ONCE, PlanningModel, Prediction
from hadrl_lightning.planning.proposal import AnyProposal, CategoricalProposal, Plan
from hadrl_lightning.planning.sums import AtTargets, SharingModel
from hadrl_lightning.simulator import Seen


class _Wanted(NamedTuple):
    """Which of some members of the ensemble are where."""

    local: Int[Tensor, " m"] | None
    """Indices among those held here, at least one; None: all."""
    num_local: int
    """How many of them count: 0 where none was asked for and one stands in."""
    counts: list[int]
    """Members at each rank."""
    order: Int[Tensor, " m"] | None
    """Where each member asked for is among those that come back, rank by rank; None: in order."""


class DistributedEnsemble:
    """A `PlanningModel` of all members, of which this rank's model holds some.

    Every rank has to make the same calls, with as many rows and the same members. Gradients pass through.

    Args:
        model: the model of the members held here.
        held: which they are.
    """

    def __init__(self, model: PlanningModel, held: Share) -> None:
        self.model = model
        self.held = held
        self.shares = [Share.fair(held.total, rank, this_rank().ranks) for rank in range(this_rank().ranks)]

    @property
    def num_members(self) -> int:
        """Members of the whole ensemble."""
        return self.held.total

    def start(self, view: Seen, num_candidates: int, members: Int[Tensor, " m"] | None) -> Any:
        """The state of the rows of all ranks, as the members held here see it."""
        return self.model.start(_of_every_rank(view), num_candidates, self._wanted(members).local)

    def step(
        self, state: Any, action: Float[Tensor, "rows action"], members: Int[Tensor, " m"] | None
    ) -> tuple[Prediction, Any]:
        """What all the members (None: of all ranks) predict of this rank's rows."""
        wanted = self._wanted(members)
        own, state = self.model.step(state, actions_of_every_rank(action), wanted.local)
        return _prediction_of_every_member(own, wanted), state

    @property
    def knows_sharing(self) -> bool:
        """Whether the model does."""
        return isinstance(self.model, SharingModel) and self.model.knows_sharing

    def pair_demands(
        self, view: Seen, members: Int[Tensor, " m"] | None, pairs_at_once: int = PAIRS_AT_ONCE
    ) -> Float[Tensor, "m networks resource_and_base user server"]:
        """Demands of this rank's networks by the members of all ranks."""
        assert isinstance(self.model, SharingModel)
        wanted = self._wanted(members)
        own = self.model.pair_demands(_of_every_rank(view), wanted.local, pairs_at_once)
        return _of_every_member(own, wanted)

    def carried_work(
        self, view: Seen, members: Int[Tensor, " m"] | None, pairs_at_once: int = PAIRS_AT_ONCE
    ) -> CarriedWork | None:
        """What this rank's networks carry over, by the members of all ranks."""
        if not isinstance(self.model, CarryingModel):
            return None
        wanted = self._wanted(members)
        own = self.model.carried_work(_of_every_rank(view), wanted.local, pairs_at_once)
        if own is None:
            return None
        work, done, price, rise = (
            _of_every_member(value, wanted) for value in (own.work, own.done, own.price, own.rise)
        )
        here = slice(this_rank().rank * len(view), (this_rank().rank + 1) * len(view))
        return CarriedWork(work, own.backlog[here], done, price, rise)

    def anywhere(self, here: Bool[Tensor, " networks"]) -> bool:
        """Whether something is true of any network of any rank."""
        return bool(largest(here.any().float()))

    def at_targets(
        self, view: Seen, target: Int[Tensor, "networks user"], members: Int[Tensor, " m"] | None
    ) -> "_AtTargets":
        """The users of this rank's networks, as the members of all ranks see them."""
        assert isinstance(self.model, SharingModel)
        wanted = self._wanted(members)
        everywhere = rows_of_every_rank([target])[0]
        return _AtTargets(self.model.at_targets(_of_every_rank(view), everywhere, wanted.local), wanted)

    def _wanted(self, members: Int[Tensor, " m"] | None) -> _Wanted:
        if members is None:
            return _Wanted(None, self.held.count, [share.count for share in self.shares], None)
        rank = torch.zeros_like(members)
        for share in self.shares[1:]:
            rank += members >= share.first
        counts = [int((rank == r).sum()) for r in range(len(self.shares))]
        local = members[rank == this_rank().rank] - self.held.first
        stand_in = local if len(local) else local.new_zeros(1)
        return _Wanted(stand_in, len(local), counts, rank.argsort(stable=True).argsort())


class _AtTargets:
    """`planning.sums.AtTargets` by the members of all ranks, of which the given one knows those held here."""

    def __init__(self, own: AtTargets, wanted: _Wanted) -> None:
        self._own, self._wanted = own, wanted
        self.demand = _of_every_member(own.demand, wanted)

    def slopes(
        self, share: Float[Tensor, "networks user 2"]
    ) -> tuple[Float[Tensor, "m networks resource user"], Float[Tensor, "m networks resource 2 user"]]:
        """Each user's weight on every resource, and the slopes of its logarithm along its two share actions."""
        weight, slope = self._own.slopes(actions_of_every_rank(share))
        return _of_every_member(weight, self._wanted), _of_every_member(slope, self._wanted)

    def predict(self, share: Float[Tensor, "networks user 2"]) -> Prediction:
        """What is expected of the slot, rows are this rank's networks."""
        return _prediction_of_every_member(self._own.predict(actions_of_every_rank(share)), self._wanted)


def _of_every_member(own: Tensor, wanted: _Wanted) -> Tensor:
    """What the members of all ranks say of this rank's rows, `[m, rows, …]`, of what those here say of all rows."""
    own = own[: wanted.num_local]
    every = predictions_of_every_member(own.flatten(2), wanted.counts)
    if wanted.order is not None:
        every = every[wanted.order]
    return every.unflatten(2, own.shape[2:])


def _prediction_of_every_member(own: Prediction, wanted: _Wanted) -> Prediction:
    dims = own.mean.shape[-1]
    packed = torch.cat((own.mean, own.log_var, own.reward_mean[..., None], own.reward_log_var[..., None]), -1)
    mean, log_var, reward_mean, reward_log_var = _of_every_member(packed, wanted).split(
        [dims, dims, 1, 1], dim=-1
    )
    return Prediction(mean, log_var, reward_mean[..., 0], reward_log_var[..., 0])


def plan_on_ranks(
    planner: CEMPlanner,
    model: PlanningModel,
    view: Seen,
    generator: torch.Generator,
    warm_start: Plan | None = None,
    best_reward: float | None = None,
    *,
    alike: bool = False,
) -> Plan:
    """The plan of `CEMPlanner.plan` with the whole ensemble, each rank planning for its share of the networks.

    Args:
        planner: the same on all ranks.
        model: the members held here.
        view: what is seen of every network, the same on all ranks.
        generator: in the same state on all ranks.
        warm_start: the previous plan of all networks.
        best_reward: as in `CEMPlanner.plan`.
        alike: as in `CEMPlanner.plan`.

    Returns:
        The plan of all networks, the same on all ranks.
    """
    share = Share.equal(len(view), *this_rank())
    assert isinstance(model, nn.Module), "members are those of a module"
    held = members_held(model)
    assert held is not None, "a world model is an ensemble"
    everyone = DistributedEnsemble(model, held)
    plan = planner.plan(everyone, view, generator, warm_start, best_reward, share.items, alike)
    return _whole_plan(plan, share.total)


def _of_every_rank(view: Seen) -> Seen:
    """What is seen of the networks of all ranks."""
    if isinstance(view, Tensor):
        return rows_of_every_rank([view])[0]
    return view.filled(rows_of_every_rank([value for _, value in view.tensors()]))


def _whole_plan(plan: Plan, total: int) -> Plan:
    proposal = plan.proposal
    normal = proposal.shares if isinstance(proposal, CategoricalProposal) else proposal
    rows = [plan.action, normal.centre, normal.std, plan.elite_spread, plan.num_nonfinite, *plan.free_energy]
    if isinstance(proposal, CategoricalProposal):
        rows.append(proposal.probability)
    whole = whole_rows(rows, total)
    action, centre, std, elite_spread, num_nonfinite = whole[:5]
    normal = normal._replace(centre=centre, std=std)
    joined: AnyProposal = normal
    if isinstance(proposal, CategoricalProposal):
        joined = CategoricalProposal(whole[-1], normal)
    return Plan(action, joined, FreeEnergy(*whole[5:10]), elite_spread, num_nonfinite)
