"""A model over sets of users who share servers: permutation-equivariant, the same weights for any number of both.

Every user is a token. What it gets is its demand against its *share* of what it uses together with others, and a share
is a user's weight over the weights pooled over those it shares with (the users of its server, or all users). This law
of sharing is built in, and has the form of the physics that is to be learnt. Demands and weights are learnt: no
constant and no unit of the network is known here, nor which of its numbers matters for what.
"""

from collections.abc import Iterable
from math import log
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from hadrl_lightning.nn.perceptrons import EnsembleLinear, Members, bounded

LOG_VAR_RANGE = (-11.0, 1.0)
"""Bounds of the log-variance of each part of a latency, relative to the part."""
NUM_SHARES = 2
"""Shares that a user asks for: of bandwidth and of compute."""
INITIAL_POWER = 2.0
"""Of the share that a resource goes by before learning: one share each."""
INITIAL_LOG_DEMAND = -2.0
INITIAL_LOG_VAR = 2.0
"""Biases before learning: small parts, and a variance high in its range, so that the first errors weigh little."""
LOG_BOUND = 20.0
"""Learnt logarithms are cut off at ± this, so that no sum overflows."""
SMALL = 1e-3
"""What is small beside this is as good as 0; what is large beside it, about its logarithm."""


def compressed(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """arsinh(x / 0.001), a logarithm that is odd and 0 at 0: powers and ratios become sums, of whatever order."""
    return (value / SMALL).asinh()


class Demands(nn.Module):
    """What users demand of resources and wait for alone, from their tokens: a part of what `SharedResources` knows.

    By itself it is of a further outcome that comes about by the same shares, such as energy.

    Args:
        num_members: models in the ensemble.
        token_size: numbers of a token.
        hidden_size: width of the two hidden layers.
        num_resources: resources shared by the users of a server.
        num_common: resources pooled over all users.
        num_waits: terms that what is waited for alone is a sum of.
        generator: source of the initial weights; None: PyTorch's global one.
    """

    def __init__(
        self,
        num_members: int,
        token_size: int,
        hidden_size: int = 32,
        num_resources: int = 2,
        num_common: int = 0,
        num_waits: int = 3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_resources = num_resources
        self.num_common = num_common
        self.num_waits = num_waits
        shared = num_resources + num_common
        parts = shared + num_waits
        self.token = nn.ModuleList(
            [
                EnsembleLinear(num_members, token_size, hidden_size, generator),
                EnsembleLinear(num_members, hidden_size, hidden_size, generator),
            ]
        )
        self.heads = nn.ModuleList(
            [EnsembleLinear(num_members, hidden_size, parts + shared + 1, generator) for _ in range(2)]
        )
        """Of servers that don't hold the service, then of those that do: logarithms, then relative variances."""
        self.powers = nn.ModuleList(
            [EnsembleLinear(num_members, token_size, parts, generator) for _ in range(2)]
        )
        """The same logarithms' linear form."""
        self._start_small()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew."""
        for layer in cast(Iterable[EnsembleLinear], (*self.token, *self.heads, *self.powers)):
            layer.reset_parameters(generator)
        self._start_small()

    @property
    def num_parts(self) -> int:
        """Parts of a latency: what is shared, and what is waited for alone."""
        return self.num_resources + self.num_common + 1

    @torch.no_grad()
    def _start_small(self) -> None:
        shared = self.num_parts - 1
        for head in cast(Iterable[EnsembleLinear], self.heads):
            demand, variance = head.bias.split([shared + self.num_waits, shared + 1], dim=-1)
            demand.fill_(INITIAL_LOG_DEMAND)
            demand[..., shared:] -= log(self.num_waits)
            variance.fill_(INITIAL_LOG_VAR)
        for powers in cast(Iterable[EnsembleLinear], self.powers):
            powers.weight.zero_()

    def describe(
        self, token: Float[Tensor, "m_or_1 tokens number"], members: Members = None
    ) -> Float[Tensor, "m tokens description"]:
        """What does not depend on the shares asked for: demands, what is waited for alone, and relative variances."""
        num_members = len(cast(EnsembleLinear, self.token[0]).weight) if members is None else len(members)
        token = token.expand(num_members, -1, -1)
        value = token
        for layer in self.token:
            value = silu(layer(value, members))
        parts = self.num_parts - 1 + self.num_waits
        missing, held = (
            head(value, members) + pad(powers(token, members), (0, self.num_parts))
            for head, powers in zip(self.heads, self.powers, strict=True)
        )
        found = torch.where(token[..., -1:] > 0, held, missing)
        logarithm, variance = found.split([parts, self.num_parts], dim=-1)
        return torch.cat((self._summed(logarithm), bounded(variance, *LOG_VAR_RANGE).exp()), dim=-1)

    def _summed(
        self, logarithm: Float[Tensor, "*shape demand_and_wait"]
    ) -> Float[Tensor, "*shape resource_and_base"]:
        """Demands, and the sum of what is waited for alone, of their logarithms."""
        value = logarithm.clamp(-LOG_BOUND, LOG_BOUND).exp()
        demand, wait = value.split([self.num_parts - 1, self.num_waits], dim=-1)
        return torch.cat((demand, wait.sum(dim=-1, keepdim=True)), dim=-1)

    def demands(
        self, description: Float[Tensor, "m tokens description"]
    ) -> Float[Tensor, "m tokens resource_and_base"]:
        """Demand on every resource, and last what is waited for alone."""
        return description[..., : self.num_parts]

    def expected_demands(
        self, token: Float[Tensor, "m_or_1 tokens number"]
    ) -> Float[Tensor, "m tokens resource_and_base"]:
        """Mean demand of each token, by all members, where `demands` are medians: each part is a log-normal."""
        demand, variance = self.describe(token).chunk(2, dim=-1)
        return demand * (variance / 2).exp()

    def pair_demands(
        self,
        user: Float[Tensor, "rows user of_user"],
        server: Float[Tensor, "rows server of_server"],
        pair: Float[Tensor, "rows user server of_pair"],
        members: Members,
        pairs_at_once: int,
    ) -> Float[Tensor, "m rows resource_and_base user server"]:
        """Demand of every user at every server on each resource, and last what is waited for alone.

        The same as `demands` of the descriptions of all pairs, which are never all in memory: what users, servers and
        the cache add to the first layer is reckoned apart.

        Args:
            user: numbers of every user, the first of a token.
            server: numbers of every server, the next of a token.
            pair: numbers of every pair, the last of a token; of these the last is whether the server holds the service.
            members: the m members to evaluate; None: all.
            pairs_at_once: pairs of a user and a server, of all rows, in one product; a user's of every row at least.
        """
        first, second = cast(EnsembleLinear, self.token[0]), cast(EnsembleLinear, self.token[1])
        rows, num_users, num_servers, of_pair = pair.shape
        further, holds = pair.split([of_pair - 1, 1], dim=-1)
        parts = self.num_parts - 1 + self.num_waits
        sizes = [user.shape[-1], server.shape[-1], of_pair - 1, 1]
        layers = [first.select(members)]
        layers += [powers.select(members) for powers in cast(Iterable[EnsembleLinear], self.powers)]
        heads = [
            [value[..., :parts] for value in head.select(members)]
            for head in cast(Iterable[EnsembleLinear], self.heads)
        ]
        num_members = len(layers[0][0])
        by_user, by_server, of_further, of_holding = [], [], [], []
        for weight, bias in layers:
            of_user, of_server, of_both, holding = weight.split(sizes, dim=1)
            found = torch.baddbmm(bias, user.flatten(0, 1).expand(num_members, -1, -1), of_user)
            by_user.append(found.view(num_members, rows, num_users, 1, -1))
            found = server.flatten(0, 1).expand(num_members, -1, -1) @ of_server
            by_server.append(found.view(num_members, rows, 1, num_servers, -1))
            of_further.append(of_both)
            of_holding.append(holding[:, :, None, None])
        demand = user.new_empty(num_members, rows, self.num_parts, num_users, num_servers)
        size = max(1, pairs_at_once // max(1, rows * num_servers))
        for start in range(0, num_users, size):
            some = slice(start, start + size)
            value, *linear = (
                (own[:, :, some] + there).addcmul_(holds[:, some], holding)
                for own, there, holding in zip(by_user, by_server, of_holding, strict=True)
            )
            if of_pair > 1:
                own = further[:, some].flatten(0, 2).expand(num_members, -1, -1)
                for found, of_both in zip((value, *linear), of_further, strict=True):
                    found.add_((own @ of_both).view_as(found))
            value = silu(value, inplace=True)
            value = silu(second(value.flatten(1, 3), members), inplace=True)
            missing, held = (
                torch.baddbmm(bias, value, head).add_(powers.flatten(1, 3))
                for (head, bias), powers in zip(heads, linear, strict=True)
            )
            logarithm = torch.where((holds[:, some] > 0).flatten()[:, None], held, missing)
            found = self._summed(logarithm).view(num_members, rows, -1, num_servers, self.num_parts)
            demand[:, :, :, some] = found.permute(0, 1, 4, 2, 3)
        return demand


class SharedResources(Demands):
    """Each user's log latency (a Gaussian) from its token, its action and the weights of those it shares with.

    The law of sharing is given, not learnt: latency = Σ_w wait_w + Σ_r demand_r · (pooled weight_r / own weight_r).
    Learnt are demands and what is waited for alone, exponentials of a linear form of the token (whose numbers are about
    logarithms: a product of powers, which holds at any size) plus a small model; and weights, exponentials of the same
    kind of sum, of the action.
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
        num_waits: terms that what is waited for alone is a sum of.
        generator: source of the initial weights; None: PyTorch's global one.
    """

    def __init__(
        self,
        num_members: int,
        token_size: int,
        hidden_size: int = 32,
        weight_size: int = 16,
        num_resources: int = 2,
        num_common: int = 0,
        num_waits: int = 3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            num_members, token_size, hidden_size, num_resources, num_common, num_waits, generator
        )
        shared = num_resources + num_common
        self.weight_action = EnsembleLinear(num_members, 2, weight_size, generator)
        self.weight = EnsembleLinear(num_members, weight_size, shared, generator)
        self.weight_powers = EnsembleLinear(num_members, 2, shared, generator)
        self._share_alike()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew."""
        super().reset_parameters(generator)
        for layer in (self.weight_action, self.weight, self.weight_powers):
            layer.reset_parameters(generator)
        self._share_alike()

    @torch.no_grad()
    def _share_alike(self) -> None:
        """Before learning a resource goes by one share, so that all members call the same resource the same."""
        self.weight_powers.weight.zero_()
        for resource in range(min(self.num_parts - 1, NUM_SHARES)):
            self.weight_powers.weight[:, resource, resource] = INITIAL_POWER

    def weight_slopes(
        self, share: Float[Tensor, "tokens 2"], members: Members = None
    ) -> tuple[Float[Tensor, "m resource tokens"], Float[Tensor, "m resource 2 tokens"]]:
        """The weight of each user on every resource, and the slopes of its logarithm along its two share actions."""
        by_action, bias = self.weight_action.select(members)
        matrix, out_bias = (value.transpose(1, 2) for value in self.weight.select(members))
        num_members, num_resources = matrix.shape[:2]
        by_action = by_action.transpose(1, 2)
        value = torch.baddbmm(bias.transpose(1, 2), by_action, share.T.expand(num_members, -1, -1))
        part = value.sigmoid()
        value = value.mul_(part)
        slope = part.addcmul_(value, 1 - part)  # of x·sigmoid(x)
        direct, _ = self.weight_powers.select(members)  # its bias counts for all who share alike
        logarithm = torch.baddbmm(
            torch.baddbmm(out_bias, matrix, value),
            direct.transpose(1, 2),
            share.T.expand(num_members, -1, -1),
        )
        through = (matrix[:, :, None] * by_action.transpose(1, 2)[:, None]).flatten(1, 2)
        slopes = (through @ slope).view(num_members, num_resources, 2, -1)
        slopes.add_(direct.transpose(1, 2)[..., None])
        slopes.mul_(logarithm.abs()[:, :, None] < LOG_BOUND)
        return logarithm.clamp_(-LOG_BOUND, LOG_BOUND).exp_(), slopes

    def parts(
        self,
        description: Float[Tensor, "m tokens description"],
        share: Float[Tensor, "m_or_1 tokens 2"],
        target: Int[Tensor, "m_or_1 rows user"],
        num_servers: int,
        members: Members = None,
        asks: Bool[Tensor, "m_or_1 rows user"] | None = None,
    ) -> Float[Tensor, "m resource_and_base tokens"]:
        """What each user waits for on every resource, and last alone; arguments as of `combine`."""
        num_members = len(description)
        demand = self.demands(description).transpose(1, 2)
        share = share.expand(num_members, -1, -1)
        value = silu(self.weight_action(share, members))
        log_weight = (self.weight(value, members) + self.weight_powers(share, members)).transpose(1, 2)
        weight = log_weight.clamp(-LOG_BOUND, LOG_BOUND).exp()
        weights = weight.unflatten(2, target.shape[1:])
        pooled = _pooled(weights, target, num_servers, self.num_resources, asks)
        ratio = pooled.flatten(2) / weight
        return torch.cat((demand[:, :-1] * ratio, demand[:, -1:]), dim=1)

    def combine(
        self,
        description: Float[Tensor, "m tokens description"],
        share: Float[Tensor, "m_or_1 tokens 2"],
        target: Int[Tensor, "m_or_1 rows user"],
        num_servers: int,
        members: Members = None,
        asks: Bool[Tensor, "m_or_1 rows user"] | None = None,
    ) -> tuple[Float[Tensor, "m rows user"], Float[Tensor, "m rows user"]]:
        """Mean and log-variance of each user's log latency (up to the constant that the caller adds).

        Args:
            description: of each user at its target server, tokens = rows × users.
            share: the two share actions of each user.
            target: its server.
            num_servers: S.
            members: the m members to evaluate; None: all.
            asks: who has a task and so shares in anything; None: everybody. What is said of the others means nothing.
        """
        part = self.parts(description, share, target, num_servers, members, asks)
        variance = description.chunk(2, dim=-1)[1].transpose(1, 2)
        total = part.sum(dim=1)
        squares = (part.square() * variance).sum(dim=1)
        shape = (len(description), *target.shape[1:])
        return total.log().view(shape), (squares.log() - 2 * total.log()).view(shape)


def _pooled(
    weight: Float[Tensor, "m resource rows user"],
    target: Int[Tensor, "m_or_1 rows user"],
    num_servers: int,
    num_per_server: int,
    asks: Bool[Tensor, "m_or_1 rows user"] | None,
) -> Float[Tensor, "m resource rows user"]:
    """What each user shares: the sum over the users of its server, of the other resources the mean over all users.

    Of those who have a task.
    """
    if asks is not None:
        weight = weight * asks.unsqueeze(1)
    own, common = weight.split([num_per_server, weight.shape[1] - num_per_server], dim=1)
    place = target.unsqueeze(1).expand(own.shape)
    pooled = own.new_zeros(*own.shape[:-1], num_servers).scatter_add(-1, place, own).gather(-1, place)
    if not common.shape[1]:
        return pooled
    mean = common.mean(dim=-1, keepdim=True)
    if asks is not None:
        mean = mean / asks.to(mean).mean(dim=-1).clamp(min=1 / max(1, asks.shape[-1]))[:, None, :, None]
    return torch.cat((pooled, mean.expand_as(common)), dim=1)


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
        asks: Bool[Tensor, "m_or_1 rows user"] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and log-variance of the users' change [m, rows, U, …], then of the servers' [m, rows, S, …].

        Users put a load on servers who have a task (`asks`; None: everybody).
        """
        num_members = len(self.user.weight) if members is None else len(members)
        rows, num_users = target.shape[1:]
        num_servers = server.shape[2]
        value = torch.cat((token, share), dim=-1).flatten(1, 2).expand(num_members, -1, -1)
        user = self.user_head(silu(self.user(value, members)), members)
        load = self.load(value, members).view(num_members, rows, num_users, -1)
        if asks is not None:
            load = load * asks.unsqueeze(-1)
        index = target[..., None].expand_as(load)
        pooled = load.new_zeros(num_members, rows, num_servers, load.shape[-1]).scatter_add(2, index, load)
        known = server.expand(num_members, -1, -1, -1)
        by_server = torch.cat((known, pooled / 10), dim=-1).flatten(1, 2)
        change = self.server_head(silu(self.server(by_server, members)), members)
        user_mean, user_log_var = user.view(num_members, rows, num_users, -1).chunk(2, dim=-1)
        mean, log_var = change.view(num_members, rows, num_servers, -1).chunk(2, dim=-1)
        return user_mean, bounded(user_log_var, *LOG_VAR_RANGE), mean, bounded(log_var, *LOG_VAR_RANGE)
