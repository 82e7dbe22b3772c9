"""Plans of one slot from what a model knows of sharing: no candidates are drawn, and none is rolled through the model.

Where a model says that a user's latency is a sum over resources which the users of a server share,

    latency_u ∝ base_us + Σ_r demand_usr · Σ_v weight_vr / weight_ur     (v: all users of u's server s),

what a decision costs follows from sums over the users of each server. With the best weights, weight_ur ∝ √demand_usr
(Cauchy-Schwarz), the latencies of a server add up to Σ_r (Σ_u √demand_usr)² + Σ_u base_us: targets are chosen by that,
and a user's move changes the sums of two servers alone, so all moves of all users are weighed at once. Shares are then
chosen for the weights that the model has learnt: with A = Σ demand / weight and W = Σ weight of the others at its
server, a user's own choice costs Σ_r A_r · weight_r + W_r · demand_r / weight_r.

Demands and weights are the model's; nothing here knows a constant of the network.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hadrl_lightning.planning.model import Members, Prediction
from hadrl_lightning.planning.starts import first_in_turn
from hadrl_lightning.simulator import Seen

MIN_GAIN = 1e-4
"""A move must save this share of what a network costs: no user moves for nothing."""
MAX_PASSES = 1000
MOST_PAIRS = 65_536
"""Pairs of a user and a server up to which the search has two starts."""
ACCEPTABLE = 1.5
"""A user goes to its usual server where it costs no more than this times the least."""
GRID_SIZE = 12
GRID_WIDTHS = (None, None, None, 0.1, 0.03)
"""Half widths of the grids on which shares are sought, one after the other, in the square root of (share + 1) / 2: what
a small share does changes fastest. None: the whole range."""
MIDDLE = 0.5**0.5
"""The point of a share of 0."""


@runtime_checkable
class AtTargets(Protocol):
    """Users at their targets, as some members of a model see them."""

    demand: Float[Tensor, "m networks resource user"]

    def weights(
        self, share: Float[Tensor, "networks user point 2"]
    ) -> Float[Tensor, "m networks resource user point"]:
        """Each user's weight on every resource at some points of its two share actions."""

    def predict(self, share: Float[Tensor, "networks user 2"]) -> Prediction:
        """What is expected of the slot, rows are networks."""


@runtime_checkable
class SharingModel(Protocol):
    """A model whose outcome is such a sum, if it says so."""

    @property
    def num_members(self) -> int:
        """Members of the ensemble."""

    @property
    def knows_sharing(self) -> bool:
        """Whether it is."""

    def pair_demands(
        self, view: Seen, members: Members
    ) -> Float[Tensor, "m networks resource_and_base user server"]:
        """Demand of every user at every server on each resource, and last what it waits for alone."""

    def at_targets(self, view: Seen, target: Int[Tensor, "networks user"], members: Members) -> AtTargets:
        """The users at one target each."""


class Found(NamedTuple):
    """A plan of one slot for each network."""

    target: Int[Tensor, "networks user"]
    """The server of each user."""
    share: Float[Tensor, "networks user 2"]
    """Its two share actions, in [-1, 1]."""
    prediction: Prediction
    """What all members expect of it, rows are networks."""


@torch.no_grad()
def plan_by_sums(model: SharingModel, view: Seen, members: Members, start_margin: float = 0.0) -> Found:
    """Targets and shares of every network, which do not depend on the networks beside it.

    Args:
        model: one that knows sharing.
        view: what is seen of each network at present.
        members: those by whom targets are chosen; None: all. Shares are chosen by all.
        start_margin: see `best_targets`.
    """
    pairs = model.pair_demands(view, members)
    demand, base = pairs[:, :, :-1], pairs[:, :, -1].mean(dim=0)
    root = (demand.transpose(0, 1).flatten(1, 2) / len(pairs)).sqrt()
    target = best_targets(root, base, start_margin)
    users = model.at_targets(view, target, None)
    share = best_shares(users, target, num_servers=pairs.shape[-1])
    return Found(target, share, users.predict(share))


def best_targets(
    root: Float[Tensor, "networks resource user server"],
    base: Float[Tensor, "networks user server"],
    start_margin: float = 0.0,
) -> Int[Tensor, "networks user"]:
    """Targets of least Σ_s Σ_r (Σ_u root_usr)² + Σ_u base_us that moves of single users find from two starts.

    The usual start depends on each user alone, so about the same targets follow for about the same view; what follows
    from inserting one user after the other is taken where it costs less by `start_margin`, in parts of the cost.
    """
    alone = root.square().sum(dim=1) + base
    if alone[0].numel() > MOST_PAIRS:
        return _moved(root, base, alone, _inserted(root, alone))
    usual = first_in_turn(alone <= ACCEPTABLE * alone.amin(dim=2, keepdim=True))
    usual, inserted = (_moved(root, base, alone, start) for start in (usual, _inserted(root, alone)))
    cost = [_At.of(root, base, target).cost for target in (usual, inserted)]
    return torch.where((cost[1] < (1 - start_margin) * cost[0])[:, None], inserted, usual)


class _At(NamedTuple):
    """Where users are, by their targets."""

    own: Float[Tensor, "networks resource user"]
    """Each user's root there."""
    load: Float[Tensor, "networks resource server"]
    """Sum of the roots of the users of every server."""
    here: Float[Tensor, "networks resource user"]
    """The load of each user's server."""
    base: Float[Tensor, "networks user"]

    @staticmethod
    def of(root: Tensor, base: Tensor, target: Tensor) -> "_At":
        place = target[:, None].expand(root.shape[:3])
        own = root.gather(3, place.unsqueeze(3)).squeeze(3)
        load = torch.zeros_like(root[:, :, 0]).scatter_add_(2, place, own)
        return _At(own, load, load.gather(2, place), base.gather(2, target.unsqueeze(2)).squeeze(2))

    @property
    def shared(self) -> Float[Tensor, " networks"]:
        """What sharing costs."""
        return self.load.square().sum((1, 2))

    @property
    def cost(self) -> Float[Tensor, " networks"]:
        """What the targets cost, Σ_s Σ_r (Σ_u root)² + Σ_u base."""
        return self.shared + self.base.sum(1)


def _moved(root: Tensor, base: Tensor, alone: Tensor, target: Tensor) -> Int[Tensor, "networks user"]:
    """The targets after the best moves of single users, until none saves enough."""
    by_server = root.permute(0, 3, 2, 1).contiguous()
    user, server = (torch.arange(length, device=root.device) for length in root.shape[2:])
    for _ in range(MAX_PASSES):
        at = _At.of(root, base, target)
        added = alone + 2 * (by_server @ at.load.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)
        least, there = added.scatter(2, target[..., None], torch.inf).min(dim=2)
        gain = (at.own * (2 * at.here - at.own)).sum(dim=1) + at.base - least
        gain = torch.where(gain > MIN_GAIN * at.shared[:, None], gain, -torch.inf)
        if not bool((gain > 0).any()):
            break
        # A move counts where no better one touches its servers: what it saves is then what was reckoned.
        touches = (target[..., None] == server) | (there[..., None] == server)
        first = torch.where(touches, gain[..., None], -torch.inf).argmax(dim=1)
        chosen = (first.gather(1, target) == user) & (first.gather(1, there) == user)
        target = torch.where((gain > 0) & chosen, there, target)
    return target


def _inserted(
    root: Float[Tensor, "networks resource user server"], alone: Float[Tensor, "networks user server"]
) -> Int[Tensor, "networks user"]:
    """Users in falling order of what they cost alone, each where it adds least."""
    order = alone.amin(2).argsort(dim=1, descending=True, stable=True)
    network = torch.arange(len(root), device=root.device)
    load = torch.zeros_like(root[:, :, 0])
    target = torch.zeros_like(order)
    for user in order.unbind(dim=1):
        own = root[network, :, user]
        server = (2 * (own * load).sum(1) + alone[network, user]).argmin(dim=1)
        target[network, user] = server
        load[network, :, server] += own[network, :, server]
    return target


def best_shares(
    users: AtTargets, target: Int[Tensor, "networks user"], num_servers: int
) -> Float[Tensor, "networks user 2"]:
    """Shares of least latency by what each user would choose, all at once, on finer and finer grids."""
    demand = users.demand
    place = target[None, :, None].expand(demand.shape)
    point = torch.full((*target.shape, 2), MIDDLE, dtype=demand.dtype, device=demand.device)
    weight = users.weights(_share(point)[:, :, None])[..., 0]
    steps = torch.linspace(0, 1, GRID_SIZE, dtype=demand.dtype, device=demand.device)

    def of_others(value: Tensor) -> Tensor:
        pooled = value.new_zeros(*value.shape[:-1], num_servers).scatter_add(-1, place, value)
        return pooled.gather(-1, place) - value

    for width in GRID_WIDTHS:
        for action in (0, 1):
            tried = point[:, :, None].repeat(1, 1, GRID_SIZE, 1)
            if width is None:
                tried[..., action] = steps
            else:
                tried[..., action] = (tried[..., action] + width * (2 * steps - 1)).clamp(0, 1)
            weights = users.weights(_share(tried))
            others, demands = of_others(weight), of_others(demand / weight)
            cost = (demands[..., None] * weights + (others * demand)[..., None] / weights).sum(2).mean(0)
            best = cost.argmin(dim=-1)
            point = tried.gather(2, best[:, :, None, None].expand(-1, -1, 1, 2)).squeeze(2)
            weight = weights.gather(-1, best[None, :, None, :, None].expand(*demand.shape, 1)).squeeze(-1)
    return _share(point)


def _share(point: Tensor) -> Tensor:
    """The share actions in [-1, 1] of points in [0, 1]."""
    return 2 * point.square() - 1
