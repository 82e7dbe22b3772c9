"""Plans of one slot by sums (`planning.sums`), where the cost may be more than sums tell: plans that follow each other.

What sums leave out depends on the plan: how near latencies come to deadlines, what chance a task has of being dropped,
what the work that is left at servers costs later (`planning.carried`). Near a plan it is about a sum again. So a plan
by sums is made with what the cost is about near the plan before, some times over, and the best one is kept.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.planning.carried import CarriedWork, CarryingModel
from hadrl_lightning.planning.model import PAIRS_AT_ONCE, Members, Prediction
from hadrl_lightning.planning.sums import SharingModel, best_shares, best_targets
from hadrl_lightning.simulator import Seen

ROUNDS, NEARING = 5, 3
"""Plans that follow each other; slopes of preferences are those of the cost itself from the second number on, and a
round in which no plan becomes better is then the last one."""


class Slopes(NamedTuple):
    """How the cost of a plan changes with each user's latency and target, beside what sums tell."""

    weight: Float[Tensor, "networks user"]
    """Of a second of each user's latency."""
    extra: Float[Tensor, "networks user server"] | None
    """What each user costs at each server besides; None: nothing."""


@runtime_checkable
class SlopedModel(Protocol):
    """A sharing model whose cost may be more than a sum: where latencies come near deadlines, or tasks are dropped.

    Plans then go by what the cost is about near the plan before, some times over, and the best one is kept.
    """

    def slopes(
        self,
        view: Seen,
        target: Int[Tensor, "networks user"],
        share: Float[Tensor, "networks user 2"],
        members: Members,
        round_: int,
    ) -> Slopes | None:
        """Near a plan; None where sums tell all of it."""


@runtime_checkable
class SpreadModel(Protocol):
    """A model whose members are spread over ranks, which all have to ask it as often."""

    def anywhere(self, here: Bool[Tensor, " networks"]) -> bool:
        """Whether something is true of any network of any rank."""


class Found(NamedTuple):
    """A plan of one slot for each network."""

    target: Int[Tensor, "networks user"]
    """The server of each user."""
    share: Float[Tensor, "networks user 2"]
    """Its two share actions, in [-1, 1]."""
    prediction: Prediction
    """What is expected of it, rows are networks."""
    later: Float[Tensor, " networks"] | None = None
    """What the work costs that it leaves at servers; None: nothing is known of that."""

    @property
    def cost(self) -> Float[Tensor, " networks"]:
        """What the users' tasks are expected to cost together, by default their latency in s, and what they leave."""
        mean, log_var = self.prediction[:2]
        cost = (mean + log_var.exp() / 2).exp().sum(dim=-1).mean(dim=0)
        return cost if self.later is None else cost + self.later

    def and_later(self, carried: CarriedWork | None) -> "Found":
        """The plan with what it leaves."""
        return self if carried is None else self._replace(later=carried.cost(self.target))


@torch.no_grad()
def plan_by_sums(
    model: SharingModel,
    view: Seen,
    members: Members,
    shares_by: Members = None,
    start_margin: float = 0.0,
    pairs_at_once: int = PAIRS_AT_ONCE,
) -> Found:
    """Targets and shares of every network, which do not depend on the networks beside it.

    Held are some numbers for every pair of a user and a server, its demands by the members that choose targets.

    Args:
        model: one that knows sharing.
        view: what is seen of each network at present.
        members: those by whom targets are chosen; None: all.
        shares_by: those by whom shares are chosen, and who predict; None: all.
        start_margin: see `best_targets`.
        pairs_at_once: pairs of a user and a server that the model describes at once.
    """
    sums = _Sums(model, view, members, shares_by, start_margin, pairs_at_once)
    usual = sums.known()
    carried = None
    if isinstance(model, CarryingModel):
        carried = model.carried_work(view, shares_by, pairs_at_once)
    found = sums.plan(*usual).and_later(carried)
    for round_ in range(ROUNDS):
        slopes = None
        if isinstance(model, SlopedModel):
            slopes = model.slopes(view, found.target, found.share, shares_by, round_)
        if slopes is None and carried is None:
            break
        root, base = usual if slopes is None else sums.known(slopes.weight)
        if slopes is not None and slopes.extra is not None:
            base = base + slopes.extra
        if carried is not None:
            later = carried.near(found.target)
            root, base = torch.cat((root, later.root.unsqueeze(1)), dim=1), base + later.extra
        other = sums.plan(root, base, None if slopes is None else slopes.weight).and_later(carried)
        better = other.cost < found.cost
        found = _chosen(better, found, other)
        if (slopes is None or round_ >= NEARING) and not _goes_on(model, better):
            break
    return found


def _goes_on(model: SharingModel, better: Bool[Tensor, " networks"]) -> bool:
    """Whether any plan became better; what is compiled doesn't wait to know it."""
    if torch.compiler.is_compiling():
        return True
    return model.anywhere(better) if isinstance(model, SpreadModel) else bool(better.any())


class _Sums(NamedTuple):
    """What all the plans of some networks share; arguments of `plan_by_sums`."""

    model: SharingModel
    view: Seen
    members: Members
    shares_by: Members
    start_margin: float
    pairs_at_once: int

    def known(
        self, weight: Float[Tensor, "networks user"] | None = None
    ) -> tuple[Float[Tensor, "networks resource user server"], Float[Tensor, "networks user server"]]:
        """Roots of demands, and what is waited for alone, where a second of each user's latency costs so much."""
        given = {} if weight is None else {"weight": weight}
        pairs = self.model.pair_demands(self.view, self.members, self.pairs_at_once, **given)
        demand, base = pairs[:, :, :-1], pairs[:, :, -1].mean(dim=0)
        return (demand.transpose(0, 1).flatten(1, 2) / len(pairs)).sqrt(), base

    def plan(
        self, root: Tensor, base: Tensor, weight: Float[Tensor, "networks user"] | None = None
    ) -> "Found":
        """The plan by sums alone."""
        given = {} if weight is None else {"weight": weight}
        target = best_targets(root, base, self.start_margin)
        users = self.model.at_targets(self.view, target, self.shares_by, **given)
        share = best_shares(users, target, root.shape[-1])
        return Found(target, share, users.predict(share))


def _chosen(better: Bool[Tensor, " networks"], found: Found, other: Found) -> Found:
    """The other plan of those networks where it is better."""

    def chosen(one: Tensor, two: Tensor, dim: int) -> Tensor:
        return torch.where(better.view(*[1] * dim, -1, *[1] * (one.ndim - dim - 1)), two, one)

    pairs = zip(found.prediction, other.prediction, strict=True)
    prediction = Prediction(*(chosen(one, two, 1) for one, two in pairs))
    target, share = (chosen(one, two, 0) for one, two in zip(found[:2], other[:2], strict=True))
    later = None
    if found.later is not None and other.later is not None:
        later = chosen(found.later, other.later, 0)
    return Found(target, share, prediction, later)
