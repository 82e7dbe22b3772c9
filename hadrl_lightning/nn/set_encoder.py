"""A model over sets of users who share servers: permutation-equivariant, the same weights for any number of both.

Every user is a token. What it gets is its demand against its *share* of what it uses together with others, and a share
is a user's weight over the weights pooled over those it shares with (the users of its server, or all users). This law
of sharing is built in, and has the form of the physics that is to be learnt. Demands and weights are learnt: no
constant and no unit of the network is known here, nor which of its numbers matters for what.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from hadrl_lightning.nn.ensemble import EnsembleLinear, Members, bounded

LOG_VAR_RANGE = (-11.0, 1.0)
"""Bounds of the log-variance of each part of a latency, relative to the part."""
INITIAL_LOG_DEMAND = -2.0
INITIAL_LOG_VAR = 2.0
"""Biases before learning: small parts, and a variance high in its range, so that the first errors weigh little."""
LOG_DEMAND_BOUND = 12.0
LOG_WEIGHT_BOUND = 8.0
"""Learnt logarithms are squashed into ± these, so that no sum overflows."""


def compressed(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sign(x)·ln(1 + |x|): sizes over several orders of magnitude become comparable, also outside the seen range."""
    return value.sign() * value.abs().log1p()


class SharedResources(nn.Module):
    """Each user's log latency (a Gaussian) from its token, its action and the weights of those it shares with.

    The law of sharing is given, not learnt: latency = demand_0 + Σ_r demand_r · (pooled weight_r / own weight_r).
    Learnt are demands and weights, exponentials of small models: demands of the token, weights of token and action.
    Resources r are pooled over the users of the same server (sums) or, the last `num_common`, over all users (means, so
    that more users alone change nothing). The variance of the logarithm is that of a sum of independent parts, each
    with a learnt relative variance.

    Only the weights depend on the shares asked for, so the demands of every (user, server) pair are computed once per
    plan (`describe`) and looked up for each candidate (`combine`).

    Args:
        num_members: models in the ensemble.
        token_size: numbers of a token.
        hidden_size: width of the two hidden layers of the demands.
        weight_size: width of the hidden layer of the weights.
        num_resources: resources pooled per server.
        num_common: resources pooled over all users.
        generator: source of the initial weights; None: PyTorch's global one.
    """

    def __init__(
        self,
        num_members: int,
        token_size: int,
        hidden_size: int = 32,
        weight_size: int = 16,
        num_resources: int = 3,
        num_common: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_resources = num_resources
        self.num_common = num_common
        self.weight_size = weight_size
        parts = num_resources + num_common + 1
        self.token = nn.ModuleList(
            [
                EnsembleLinear(num_members, token_size, hidden_size, generator),
                EnsembleLinear(num_members, hidden_size, hidden_size, generator),
            ]
        )
        self.demand = EnsembleLinear(num_members, hidden_size, 2 * parts, generator)
        self.missing = EnsembleLinear(num_members, hidden_size, 2 * parts, generator)
        self.weight_token = EnsembleLinear(num_members, token_size, weight_size, generator)
        self.weight_action = EnsembleLinear(num_members, 2, weight_size, generator)
        self.weight = EnsembleLinear(num_members, weight_size, parts - 1, generator)
        self._start_small()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew."""
        layers = (*self.token, self.demand, self.missing, self.weight_token, self.weight_action, self.weight)
        for layer in layers:
            layer.reset_parameters(generator)
        self._start_small()

    @torch.no_grad()
    def _start_small(self) -> None:
        for head in (self.demand, self.missing):
            demand, variance = head.bias.chunk(2, dim=-1)
            demand.fill_(INITIAL_LOG_DEMAND)
            variance.fill_(INITIAL_LOG_VAR)

    def describe(
        self, token: Float[Tensor, "m_or_1 tokens number"], members: Members = None
    ) -> Float[Tensor, "m tokens description"]:
        """What does not depend on the shares asked for: demands, relative variances, the weights' first layer."""
        num_members = len(self.demand.weight) if members is None else len(members)
        token = token.expand(num_members, -1, -1)
        value = token
        for layer in self.token:
            value = silu(layer(value, members))
        held = token[..., -1:] > 0
        found = torch.where(held, self.demand(value, members), self.missing(value, members))
        demand, variance = found.chunk(2, dim=-1)
        demand = _bounded(demand, LOG_DEMAND_BOUND)
        parts = (demand.exp(), bounded(variance, *LOG_VAR_RANGE).exp(), self.weight_token(token, members))
        return torch.cat(parts, dim=-1)

    def demands(
        self, description: Float[Tensor, "m tokens description"]
    ) -> Float[Tensor, "m tokens resource_and_base"]:
        """Demand on every resource, and last what is waited for alone."""
        return description[..., : self.num_resources + self.num_common + 1]

    def expected_demands(
        self, token: Float[Tensor, "m_or_1 tokens number"]
    ) -> Float[Tensor, "m tokens resource_and_base"]:
        """Mean demand of each token, by all members, where `demands` are medians: each part is a log-normal."""
        parts = self.num_resources + self.num_common + 1
        demand, variance, _ = self.describe(token).split([parts, parts, self.weight_size], dim=-1)
        return demand * (variance / 2).exp()

    def pair_demands(
        self,
        user: Float[Tensor, "rows user of_user"],
        server: Float[Tensor, "rows server of_server"],
        holds: Float[Tensor, "rows user server"],
        members: Members,
        pairs_at_once: int,
    ) -> Float[Tensor, "m rows resource_and_base user server"]:
        """Demand of every user at every server on each resource, and last what is waited for alone.

        The same as `demands` of the descriptions of all pairs, which are never all in memory: what users, servers and
        the cache add to the first layer is reckoned apart.

        Args:
            user: numbers of every user, the first of a token.
            server: numbers of every server, the next of a token.
            holds: last number of the token of each pair.
            members: the m members to evaluate; None: all.
            pairs_at_once: pairs of a user and a server, of all rows, in one product; a user's of every row at least.
        """
        first, second = cast(EnsembleLinear, self.token[0]), cast(EnsembleLinear, self.token[1])
        weight, bias = first.select(members)
        of_user, of_server, of_holding = weight.split([user.shape[-1], server.shape[-1], 1], dim=1)
        rows, num_users, num_servers = holds.shape
        parts = self.num_resources + self.num_common + 1
        heads = [
            [value[..., :parts].transpose(1, 2) for value in head.select(members)]
            for head in (self.demand, self.missing)
        ]
        by_user = torch.baddbmm(bias, user.flatten(0, 1).expand(len(weight), -1, -1), of_user)
        by_user = by_user.view(len(weight), rows, num_users, 1, -1)
        by_server = server.flatten(0, 1).expand(len(weight), -1, -1) @ of_server
        by_server = by_server.view(len(weight), rows, 1, num_servers, -1)
        of_holding = of_holding[:, :, None, None]
        found = user.new_empty(len(weight), rows, parts, num_users, num_servers)
        size = max(1, pairs_at_once // max(1, rows * num_servers))
        for start in range(0, num_users, size):
            some = slice(start, start + size)
            value = by_user[:, :, some] + by_server
            value = silu(value.addcmul_(holds[:, some, :, None], of_holding), inplace=True)
            value = silu(second(value.flatten(1, 3), members), inplace=True)
            held, missing = (torch.baddbmm(bias, head, value.transpose(1, 2)) for head, bias in heads)
            demand = torch.where((holds[:, some] > 0).flatten(), held, missing)
            demand = _bounded(demand, LOG_DEMAND_BOUND).exp_()
            shape = (len(weight), parts, rows, -1, num_servers)
            found[:, :, :, some] = demand.view(shape).transpose(1, 2)
        return found

    def weight_slopes(
        self,
        description: Float[Tensor, "m tokens description"],
        share: Float[Tensor, "tokens 2"],
        members: Members = None,
    ) -> tuple[Float[Tensor, "m resource tokens"], Float[Tensor, "m resource 2 tokens"]]:
        """The weight of each user on every resource, and the slopes of its logarithm along its two share actions."""
        by_action, bias = self.weight_action.select(members)
        matrix, out_bias = (value.transpose(1, 2) for value in self.weight.select(members))
        num_members, num_resources = matrix.shape[:2]
        by_action = by_action.transpose(1, 2)
        first = description[..., -self.weight_size :].transpose(1, 2) + bias.transpose(1, 2)
        value = torch.baddbmm(first, by_action, share.T.expand(num_members, -1, -1))
        part = value.sigmoid()
        value = value.mul_(part)
        slope = part.addcmul_(value, 1 - part)  # of x·sigmoid(x)
        squashed = torch.baddbmm(out_bias, matrix, value).div_(LOG_WEIGHT_BOUND).tanh_()
        through = (matrix[:, :, None] * by_action.transpose(1, 2)[:, None]).flatten(1, 2)
        slopes = (through @ slope).view(num_members, num_resources, 2, -1)
        slopes.mul_(1 - squashed.square()[:, :, None])
        return squashed.mul_(LOG_WEIGHT_BOUND).exp_(), slopes

    def combine(
        self,
        description: Float[Tensor, "m tokens description"],
        share: Float[Tensor, "m_or_1 tokens 2"],
        target: Int[Tensor, "m_or_1 rows user"],
        num_servers: int,
        members: Members = None,
    ) -> tuple[Float[Tensor, "m rows user"], Float[Tensor, "m rows user"]]:
        """Mean and log-variance of each user's log latency (up to the constant that the caller adds).

        Args:
            description: of each user at its target server, tokens = rows × users.
            share: the two share actions of each user.
            target: its server.
            num_servers: S.
            members: the m members to evaluate; None: all.
        """
        num_members = len(description)
        parts = self.num_resources + self.num_common + 1
        demand, variance, first = description.split([parts, parts, self.weight_size], dim=-1)
        weight_action, bias = self.weight_action.select(members)
        value = silu(torch.baddbmm(first, share.expand(num_members, -1, -1), weight_action).add_(bias))
        matrix, bias = self.weight.select(members)
        log_weight = torch.baddbmm(bias.transpose(1, 2), matrix.transpose(1, 2), value.transpose(1, 2))
        weight = _bounded(log_weight, LOG_WEIGHT_BOUND).exp()
        pooled = _pooled(weight.unflatten(2, target.shape[1:]), target, num_servers, self.num_resources)
        ratio = pooled.flatten(2) / weight
        demand, variance = demand.transpose(1, 2), variance.transpose(1, 2)
        part = torch.cat((demand[:, :-1] * ratio, demand[:, -1:]), dim=1)
        total = part.sum(dim=1)
        squares = (part.square() * variance).sum(dim=1)
        shape = (num_members, *target.shape[1:])
        return total.log().view(shape), (squares.log() - 2 * total.log()).view(shape)


def _bounded(value: Tensor, bound: float) -> Tensor:
    return bound * torch.tanh(value / bound)


def _pooled(
    weight: Float[Tensor, "m resource rows user"],
    target: Int[Tensor, "m_or_1 rows user"],
    num_servers: int,
    num_per_server: int,
) -> Float[Tensor, "m resource rows user"]:
    """What each user shares: the sum over the users of its server, of the other resources the mean over all users."""
    own, common = weight.split([num_per_server, weight.shape[1] - num_per_server], dim=1)
    place = target.unsqueeze(1).expand(own.shape)
    pooled = own.new_zeros(*own.shape[:-1], num_servers).scatter_add(-1, place, own).gather(-1, place)
    if not common.shape[1]:
        return pooled
    return torch.cat((pooled, common.mean(dim=-1, keepdim=True).expand_as(common)), dim=1)


class SetChange(nn.Module):
    """Next numbers of every user and server: Gaussians of their normalised change, for each member.

    A user's change depends on its own token and action, a server's on its own numbers and on sums over its users.

    Args:
        num_members: models in the ensemble.
        token_size: numbers of a token.
        user_size: numbers of a user, all of which may change.
        server_size: numbers of a server, all of which may change.
        hidden_size: width of the hidden layers.
        load_size: numbers summed over the users of a server.
        generator: source of the initial weights; None: PyTorch's global one.
    """

    def __init__(
        self,
        num_members: int,
        token_size: int,
        user_size: int,
        server_size: int,
        hidden_size: int = 16,
        load_size: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        inputs = token_size + 2
        self.user = EnsembleLinear(num_members, inputs, hidden_size, generator)
        self.user_head = EnsembleLinear(num_members, hidden_size, 2 * user_size, generator)
        self.load = EnsembleLinear(num_members, inputs, load_size, generator)
        self.server = EnsembleLinear(num_members, server_size + load_size, hidden_size, generator)
        self.server_head = EnsembleLinear(num_members, hidden_size, 2 * server_size, generator)
        self._start_wide()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew."""
        for layer in (self.user, self.user_head, self.load, self.server, self.server_head):
            layer.reset_parameters(generator)
        self._start_wide()

    @torch.no_grad()
    def _start_wide(self) -> None:
        for head in (self.user_head, self.server_head):
            head.bias.chunk(2, dim=-1)[1].fill_(INITIAL_LOG_VAR)

    def forward(
        self,
        token: Float[Tensor, "m_or_1 rows user number"],
        share: Float[Tensor, "m_or_1 rows user 2"],
        server: Float[Tensor, "m_or_1 rows server own"],
        target: Int[Tensor, "m_or_1 rows user"],
        members: Members = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and log-variance of the users' change [m, rows, U, …], then of the servers' [m, rows, S, …]."""
        num_members = len(self.user.weight) if members is None else len(members)
        rows, num_users = target.shape[1:]
        num_servers = server.shape[2]
        value = torch.cat((token, share), dim=-1).flatten(1, 2).expand(num_members, -1, -1)
        user = self.user_head(silu(self.user(value, members)), members)
        load = self.load(value, members).view(num_members, rows, num_users, -1)
        index = target[..., None].expand_as(load)
        pooled = load.new_zeros(num_members, rows, num_servers, load.shape[-1]).scatter_add(2, index, load)
        known = server.expand(num_members, -1, -1, -1)
        by_server = torch.cat((known, pooled / 10), dim=-1).flatten(1, 2)
        change = self.server_head(silu(self.server(by_server, members)), members)
        user_mean, user_log_var = user.view(num_members, rows, num_users, -1).chunk(2, dim=-1)
        mean, log_var = change.view(num_members, rows, num_servers, -1).chunk(2, dim=-1)
        return user_mean, bounded(user_log_var, *LOG_VAR_RANGE), mean, bounded(log_var, *LOG_VAR_RANGE)
