"""Plans of one slot from what a model knows of sharing: no candidates are drawn, and none is rolled through the model.

Where a model says that a user's latency is a sum over resources which the users of a server share,

    latency_u ∝ base_us + Σ_r demand_usr · Σ_v weight_vr / weight_ur     (v: all users of u's server s),

what a decision costs follows from sums over the users of each server. With the best weights, weight_ur ∝ √demand_usr
(Cauchy-Schwarz), the latencies of a server add up to Σ_r (Σ_u √demand_usr)² + Σ_u base_us: targets are chosen by that,
and a user's move changes the sums of two servers alone, so all moves of all users are weighed at once. Shares are then
chosen for the weights that the model has learnt, by Newton's method: with A = Σ demand / weight and W = Σ weight of a
server's users, the latencies add up to Σ_r A_r W_r, which changes with the logarithm of a user's own weight by
A_r · weight_r − W_r · demand_r / weight_r.

Demands and weights are the model's; nothing here knows a constant of the network.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from hadrl_lightning.planning.model import PAIRS_AT_ONCE, Members, Prediction
from hadrl_lightning.planning.starts import first_in_turn
from hadrl_lightning.simulator import Seen

MIN_GAIN = 1e-4
"""A move must save this share of what a network costs: no user moves for nothing."""
MOST_PASSES = 1000
MOST_PAIRS = 65_536
"""Pairs of a user and a server up to which the search has two starts."""
ACCEPTABLE = 1.5
"""A user goes to its usual server where it costs no more than this times the least."""
PASSES_AT_ONCE = 4
"""Moves are made so many times before it is asked whether any is left; a device need not be waited for more often."""
MANY = 0.75
"""Networks of which no more than this part still move are looked at without the others."""
SHARE_STEPS = 8
MAX_SHARE_STEP = 0.25
"""Newton's steps of the shares, and how far each goes at most. More of them follow what was learnt into flat valleys,
where it is not to be relied on."""
DAMPING = 1e-4
"""Part of the curvature that is added to it, where two actions do about the same."""


@runtime_checkable
class AtTargets(Protocol):
    """Users at their targets, as some members of a model see them."""

    demand: Float[Tensor, "m networks resource user"]

    def slopes(
        self, share: Float[Tensor, "networks user 2"]
    ) -> tuple[Float[Tensor, "m networks resource user"], Float[Tensor, "m networks resource 2 user"]]:
        """Each user's weight on every resource, and the slopes of its logarithm along its two share actions."""

    def predict(self, share: Float[Tensor, "networks user 2"]) -> Prediction:
        """What is expected of the slot, rows are networks."""


@runtime_checkable
class SharingModel(Protocol):
    """A model whose outcome is such a sum, if it says so.

    One whose `slopes` say what a second of each user's latency costs takes it as a further argument `weight` of both.
    """

    @property
    def num_members(self) -> int:
        """Members of the ensemble."""

    @property
    def knows_sharing(self) -> bool:
        """Whether it is."""

    def pair_demands(
        self, view: Seen, members: Members, pairs_at_once: int = PAIRS_AT_ONCE
    ) -> Float[Tensor, "m networks resource_and_base user server"]:
        """Demand of every user at every server on each resource, and last what it waits for alone.

        No more than `pairs_at_once` are described at once, of one user of every network at least.
        """

    def at_targets(self, view: Seen, target: Int[Tensor, "networks user"], members: Members) -> AtTargets:
        """The users at one target each."""


def best_targets(
    root: Float[Tensor, "networks resource user server"],
    base: Float[Tensor, "networks user server"],
    start_margin: float | None = 0.0,
) -> Int[Tensor, "networks user"]:
    """Targets of least Σ_s Σ_r (Σ_u root_usr)² + Σ_u base_us that moves of single users find from two starts.

    The usual start depends on each user alone, so about the same targets follow for about the same view; what follows
    from inserting one user after the other is taken where it costs less by `start_margin`, in parts of the cost. None:
    this one start, in half the time.
    """
    if base.shape[2] == 1:
        return torch.zeros_like(base[:, :, 0], dtype=torch.int64)
    alone = root.square().sum(dim=1) + base
    inserted = _inserted(root, alone)
    if start_margin is None or alone[0].numel() > MOST_PAIRS:
        return _moved(root, base, alone, inserted)
    least = alone.amin(dim=2, keepdim=True)  # below 0 where a base is
    usual = first_in_turn(alone <= least + (ACCEPTABLE - 1) * least.abs())
    root, base, alone = (value.repeat(2, *[1] * (value.ndim - 1)) for value in (root, base, alone))
    found = _moved(root, base, alone, torch.cat((usual, inserted)))
    usual, inserted = found.chunk(2)
    of_usual, of_inserted = _At.of(root, base, found).cost.chunk(2)
    return torch.where((of_inserted < (1 - start_margin) * of_usual)[:, None], inserted, usual)


def moved_targets(
    root: Float[Tensor, "networks resource user server"],
    base: Float[Tensor, "networks user server"],
    target: Int[Tensor, "networks user"],
) -> Int[Tensor, "networks user"]:
    """As `best_targets`, from given targets."""
    if base.shape[2] == 1:
        return target
    return _moved(root, base, root.square().sum(dim=1) + base, target)


def targets_cost(
    root: Float[Tensor, "networks resource user server"],
    base: Float[Tensor, "networks user server"],
    target: Int[Tensor, "networks user"],
) -> Float[Tensor, " networks"]:
    """What targets cost with the best weights, Σ_s Σ_r (Σ_u root_usr)² + Σ_u base_us."""
    return _At.of(root, base, target).cost


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

    def passes(target: Tensor, going: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for _ in range(PASSES_AT_ONCE):
            target, goes = _moves(root, base, alone, target)
        return target, goes.any() & (count < MOST_PASSES), count + PASSES_AT_ONCE

    going = torch.ones((), dtype=torch.bool, device=target.device)
    state = (target, going, torch.zeros_like(going, dtype=torch.int64))
    if torch.compiler.is_compiling():
        return while_loop(lambda _, going, count: going.clone(), passes, state)[0]
    if target.device.type == "cpu":
        return _moved_while_any_goes(root, base, alone, target)
    while state[1]:
        state = passes(*state)
    return state[0]


def _moved_while_any_goes(
    root: Tensor, base: Tensor, alone: Tensor, target: Tensor
) -> Int[Tensor, "networks user"]:
    """As `_moved`, pass by pass, of which the later ones leave out networks where nobody went in the one before."""
    found, left = target.clone(), torch.arange(len(target))
    for _ in range(MOST_PASSES):
        target, goes = _moves(root, base, alone, target)
        found[left] = target
        going = goes.any(dim=1)
        if not bool(going.any()):
            break
        if int(going.sum()) <= MANY * len(going):
            left, root, base, alone, target = (value[going] for value in (left, root, base, alone, target))
    return found


def _moves(
    root: Tensor, base: Tensor, alone: Tensor, target: Tensor
) -> tuple[Int[Tensor, "networks user"], Bool[Tensor, "networks user"]]:
    """Targets after the best moves of different servers, and who went."""
    at = _At.of(root, base, target)
    added = alone.clone()
    for own, load in zip(root.unbind(1), at.load.unbind(1)):
        added.addcmul_(own, load[:, None], value=2)
    least, there = added.scatter_(2, target[..., None], torch.inf).min(dim=2)
    gain = (at.own * (2 * at.here - at.own)).sum(dim=1) + at.base - least
    gains = gain > MIN_GAIN * at.shared[:, None]
    goes = gains & _first_of_servers(torch.where(gains, gain, -torch.inf), target, there, base)
    return torch.where(goes, there, target), goes


def _first_of_servers(
    gain: Tensor, target: Tensor, there: Tensor, base: Tensor
) -> Bool[Tensor, "networks user"]:
    """Moves that no better one touches a server of: what such a move saves is then what was reckoned."""
    order = gain.argsort(dim=1, descending=True, stable=True)
    turn = torch.arange(gain.shape[1], 0, -1, device=gain.device).expand(order.shape)
    rank = torch.zeros_like(order).scatter_(1, order, turn)
    best = torch.zeros_like(base[:, 0], dtype=rank.dtype)
    for server in (target, there):
        best = best.scatter_reduce(1, server, rank, "amax")
    return (best.gather(1, target) == rank) & (best.gather(1, there) == rank)


def _inserted(
    root: Float[Tensor, "networks resource user server"], alone: Float[Tensor, "networks user server"]
) -> Int[Tensor, "networks user"]:
    """Users in falling order of what they cost alone, each where it adds least."""
    order = alone.amin(2).argsort(dim=1, descending=True, stable=True)
    network = torch.arange(len(root), device=root.device)[:, None]
    roots = (
        2**0.5 * root.transpose(1, 2)[network, order]
    )  # products of two of them are what both together add
    load = torch.zeros_like(roots[:, 0])
    servers = []
    for own, by_itself in zip(roots.unbind(1), alone[network, order].unbind(1)):
        server = (own * load).sum(1).add_(by_itself).argmin(dim=1, keepdim=True)
        place = server[:, None].expand(-1, own.shape[1], -1)
        load.scatter_add_(2, place, own.gather(2, place))
        servers.append(server)
    return torch.zeros_like(order).scatter_(1, order, torch.cat(servers, dim=1))


def best_shares(
    users: AtTargets, target: Int[Tensor, "networks user"], num_servers: int
) -> Float[Tensor, "networks user 2"]:
    """Shares of least latency by Newton's steps of all users at once.

    The curvature is that of each user's own pair of actions, with the own part of its server's sums counted in: users
    of about equal weights, who all move at once, then don't overshoot.
    """
    demand = users.demand.transpose(1, 2).contiguous()
    place = target.expand(demand.shape)
    share = torch.zeros((*target.shape, 2), dtype=demand.dtype, device=demand.device)

    def of_server(value: Tensor) -> Tensor:
        pooled = value.new_zeros(*value.shape[:-1], num_servers).scatter_add_(-1, place, value)
        return pooled.gather(-1, place)

    for _ in range(SHARE_STEPS):
        weight, slope = (value.transpose(1, 2).contiguous() for value in users.slopes(share))
        part = demand / weight
        up, down = of_server(part).mul_(weight), part.mul_(of_server(weight))
        curved = (up + down)[..., None, :] * slope
        own = (curved * slope).sum((0, 1))
        both = (curved.select(3, 0) * slope.select(3, 1)).sum((0, 1))
        gradient = (up.sub_(down)[..., None, :] * slope).sum((0, 1))
        step = _newton_step(share.transpose(1, 2), gradient, own, both)
        share = (share + step.transpose(1, 2)).clamp_(-1, 1)
    return share


def _newton_step(
    share: Float[Tensor, "networks 2 user"],
    gradient: Float[Tensor, "networks 2 user"],
    own: Float[Tensor, "networks 2 user"],
    both: Float[Tensor, "networks user"],
) -> Float[Tensor, "networks 2 user"]:
    """The step to where the gradient vanishes, by the curvature along each action and across both.

    An action that its bound holds back has no say in the other's.
    """
    own = own + DAMPING * own.sum(dim=1, keepdim=True)
    held = (share * gradient.sign() <= -1).any(dim=1)
    both = both.masked_fill(held, 0.0)[:, None]
    area = (own.prod(dim=1, keepdim=True) - both.square()).clamp_(min=torch.finfo(own.dtype).tiny)
    step = (both * gradient.flip(1) - own.flip(1) * gradient) / area
    return step.clamp_(-MAX_SHARE_STEP, MAX_SHARE_STEP)
