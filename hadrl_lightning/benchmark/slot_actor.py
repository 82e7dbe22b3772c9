"""An actor and a critic over sets of users and servers: what the PPO over networks is made of.

Users decide one after the other, those who ask for most first: the target of each depends on what those before it have
put on every server, so that likes can part. Shares follow from the pair of user and target.
"""

from math import log
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from hadrl_lightning.nn.normaliser import RunningNormaliser
from hadrl_lightning.nn.set_encoder import compressed
from hadrl_lightning.nn.tokens import TokenFields
from hadrl_lightning.simulator import Allocation, OffloadingView, weighted_shares

HIDDEN_SIZE = 32
NUM_LOADS = 4
"""Kinds of load that users put on servers."""
LOG_BOUND = 8.0
"""Logarithms of loads are cut off at ± this."""
NO_LOAD = 1e-3
"""Beside a load of about 1 as good as none."""
SMALL_START = 0.01
"""Of what the last layers begin with: targets at random, equal shares."""
LOG_NOISE = log(0.15)
"""Standard deviation of what is explored about the share actions, at the start."""
LEAST_ASKED = -1e30
"""Logarithm of what a task asks for that is nothing."""
FIELDS = TokenFields.of(OffloadingView)


class SlotNumbers(NamedTuple):
    """What is seen of a slot of B networks; users and servers beyond those of a network are absent, behind the others.

    So are users without a task.
    Users come in the order in which they decide.
    """

    user: Float[Tensor, "batch user of_user"]
    server: Float[Tensor, "batch server of_server"]
    holds: Float[Tensor, "batch user server"]
    """1 where the server holds what the user asks for."""
    present: Bool[Tensor, "batch user"]
    there: Bool[Tensor, "batch server"]

    @classmethod
    def of(cls, view: OffloadingView) -> tuple["SlotNumbers", Int[Tensor, "batch user"]]:
        """The numbers of a view, and which of its users decides first, second, …: who asks for most."""
        seen = FIELDS.read(view)
        asked = view.input_bits.log() - view.spectral_efficiency.log() + view.cycles.log()
        if view.asking is not None:  # a task of no cycles comes before none
            asked = torch.where(view.asking, asked.clamp(min=LEAST_ASKED), -torch.inf)
        order = asked.argsort(dim=1, descending=True, stable=True)
        user, holds = (
            value.gather(1, order.unsqueeze(-1).expand_as(value))
            for value in (compressed(seen.user), FIELDS.holds(seen))
        )
        server = compressed(seen.server)
        present, there = (
            torch.ones(value.shape[:2], dtype=torch.bool, device=user.device) for value in (user, server)
        )
        if view.asking is not None:  # who asks for nothing comes last
            present = view.asking.gather(1, order)
        return cls(user, server, holds, present, there), order

    def cropped(self) -> "SlotNumbers":
        """Without users and servers that are absent from all networks."""
        users, servers = (int(mask.sum(dim=1).max()) for mask in (self.present, self.there))
        return SlotNumbers(
            self.user[:, :users],
            self.server[:, :servers],
            self.holds[:, :users, :servers],
            self.present[:, :users],
            self.there[:, :servers],
        )


def allocation_of(
    target: Int[Tensor, "batch user"],
    share: Float[Tensor, "batch user 2"],
    order: Int[Tensor, "batch user"],
    num_servers: int,
) -> Allocation:
    """The decision in the order that users have in the view."""
    server = torch.empty_like(target).scatter_(1, order, target)
    shares = torch.empty_like(share).scatter_(1, order.unsqueeze(-1).expand_as(share), share)
    return Allocation(
        server, *(weighted_shares(server, one.contiguous(), num_servers) for one in shares.unbind(-1))
    )


class PairEncoder(nn.Module):
    """Every present user at every server: its token and a code that knows of all others by means over them."""

    token_size = 2 * (FIELDS.token_size + 2) + 1

    def __init__(self) -> None:
        super().__init__()
        self.user_normaliser = RunningNormaliser(len(FIELDS.user))
        self.server_normaliser = RunningNormaliser(len(FIELDS.server))
        self.first = nn.Linear(self.token_size, HIDDEN_SIZE)
        self.second = nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE)
        self.third = nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE)
        self.of_means = nn.ModuleList([nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE, bias=False) for _ in range(3)])
        """What is added for the means over a user's servers, over a server's users, and over all."""

    def see(self, seen: SlotNumbers) -> None:
        """Take the scale of numbers from some slots."""
        self.user_normaliser.update(seen.user[seen.present])
        self.server_normaliser.update(seen.server[seen.there])

    def forward(self, seen: SlotNumbers) -> "Pairs":
        """Rows are the present users of all networks."""
        network, place = seen.present.nonzero(as_tuple=True)
        counts = torch.stack([seen.present.sum(dim=1), seen.there.sum(dim=1)], dim=1)
        counts = counts.clamp(min=1)  # of a network in which nobody asks no row is looked up
        users, servers = counts.unbind(1)
        there = seen.there[network].unsqueeze(-1)
        of_network = torch.cat([counts.log() / 2 - 1, ((users / servers).log() / 2 - 1)[:, None]], dim=1)
        of_user = torch.cat(
            [self.user_normaliser.normalise(seen.user[seen.present]), of_network[network]], dim=1
        )
        of_server = self.server_normaliser.normalise(seen.server)
        shape = (*there.shape[:2], -1)
        numbers = torch.cat([of_user.unsqueeze(1).expand(*shape), of_server[network]], dim=-1)
        holds = seen.holds[seen.present].unsqueeze(-1) - 0.5
        token = torch.cat([numbers, holds, holds * numbers], dim=-1)
        code = silu(self.second(silu(self.first(token)))) * there
        by_user = code.sum(dim=1) / servers[network, None]
        by_server = code.new_zeros(len(users), *code.shape[1:]).index_add(0, network, code)
        by_server = by_server / users[:, None, None]
        whole = by_server.sum(dim=1) / servers[:, None]
        user_mean, server_mean, whole_mean = self.of_means
        of_server = server_mean(by_server) + whole_mean(whole).unsqueeze(1)
        code = silu(self.third(code) + user_mean(by_user).unsqueeze(1) + of_server[network])
        return Pairs(network, place, there.squeeze(-1), token, code)


class Pairs(NamedTuple):
    """Present users, a row each, at every server."""

    network: Int[Tensor, " row"]
    place: Int[Tensor, " row"]
    """Which one in the order of its network."""
    there: Bool[Tensor, "row server"]
    token: Float[Tensor, "row server number"]
    code: Float[Tensor, "row server hidden"]

    def at(self, target: Int[Tensor, " row"]) -> "Pairs":
        """Every user at its target alone."""
        row = torch.arange(len(target), device=target.device)
        alone = (value[row, target].unsqueeze(1) for value in (self.there, self.token, self.code))
        return Pairs(self.network, self.place, *alone)


class PairLinear(nn.Module):
    """A linear form of code and token of a pair."""

    def __init__(self, size: int, start: float = 1.0) -> None:
        super().__init__()
        self.code = nn.Linear(HIDDEN_SIZE, size)
        self.token = nn.Linear(PairEncoder.token_size, size, bias=False)
        with torch.no_grad():
            for value in self.parameters():
                value.mul_(start)

    def forward(self, pairs: Pairs) -> Float[Tensor, "row server number"]:
        """Of every pair."""
        value: Tensor = self.code(pairs.code) + self.token(pairs.token)
        return value


class SlotActor(nn.Module):
    """Draws a target and two share actions for every user, or says how likely given ones are."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = PairEncoder()
        self.of_pair = PairLinear(HIDDEN_SIZE + NUM_LOADS)
        self.of_load = nn.Linear(NUM_LOADS, HIDDEN_SIZE)
        self.logit = nn.Linear(HIDDEN_SIZE, 1, bias=False)
        self.share = PairLinear(2, SMALL_START)
        self.log_noise = nn.Parameter(torch.full((2,), LOG_NOISE))
        with torch.no_grad():
            self.logit.weight.mul_(SMALL_START)

    def act(
        self, seen: SlotNumbers, deterministic: bool = False
    ) -> tuple[Int[Tensor, "batch user"], Float[Tensor, "batch user 2"]]:
        """Targets and share actions; of absent users 0."""
        pairs = self.pairs(seen)
        of_pair, load = (
            value.new_zeros(*seen.holds.shape, value.shape[-1]).index_put((pairs.network, pairs.place), value)
            for value in self._described(pairs)
        )
        taken = load.new_zeros(len(load), *load.shape[2:])
        targets = []
        for place in range(seen.holds.shape[1]):
            logits = self._logits(of_pair[:, place], taken, seen.there)
            if not deterministic:
                logits = (
                    logits - torch.empty_like(logits).exponential_().log()
                )  # Gumbel: the largest is a draw
            chosen = logits.argmax(dim=1)
            targets.append(chosen)
            mine = torch.nn.functional.one_hot(chosen, seen.holds.shape[2]).unsqueeze(-1)
            taken = taken + load[:, place] * mine
        target = torch.stack(targets, dim=1) * seen.present
        mean = self.share(pairs.at(target[seen.present])).squeeze(1)
        noise = 0 if deterministic else self.log_noise.exp() * torch.randn_like(mean)
        share = mean.new_zeros(*target.shape, 2).index_put((pairs.network, pairs.place), mean + noise)
        return target, share

    def judge(
        self, seen: SlotNumbers, target: Int[Tensor, "batch user"], share: Float[Tensor, "batch user 2"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Log-likelihood of decisions and entropy of targets, both the mean over users."""
        pairs = self.pairs(seen)
        row = (pairs.network, pairs.place)
        target, share = target[row], share[row]
        of_pair, load = self._described(pairs)
        load = load * torch.nn.functional.one_hot(target, load.shape[1]).unsqueeze(-1)
        mine = load.new_zeros(*seen.holds.shape, NUM_LOADS).index_put(row, load)
        taken = (mine.cumsum(dim=1) - mine)[row].clamp(min=0)
        log_part = self._logits(of_pair, taken, pairs.there).log_softmax(dim=-1)
        noise = (share - self.share(pairs.at(target)).squeeze(1)) / self.log_noise.exp()
        density = -(noise.square() / 2 + self.log_noise).sum(dim=-1) - log(2 * torch.pi)
        likely = log_part.gather(1, target[:, None]).squeeze(1) + density
        entropy = -(log_part.exp() * log_part.clamp(min=-LOG_BOUND * 2)).sum(dim=1)
        users = seen.present.sum(dim=1).clamp(min=1)
        return tuple(
            value.new_zeros(len(users)).index_add(0, pairs.network, value) / users
            for value in (likely, entropy)
        )  # type: ignore[return-value]

    def _described(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """What is known of pairs without the users before, and the loads that each would put on the server."""
        of_pair, load = self.of_pair(pairs).split([HIDDEN_SIZE, NUM_LOADS], dim=-1)
        return of_pair, load.clamp(-LOG_BOUND, LOG_BOUND).exp()

    def _logits(self, of_pair: Tensor, taken: Tensor, there: Tensor) -> Tensor:
        logit: Tensor = self.logit(silu(of_pair + self.of_load((taken + NO_LOAD).log()))).squeeze(-1)
        return logit.masked_fill(~there, -1e9)


class SlotCritic(nn.Module):
    """Expects the reward of a slot."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = PairEncoder()
        self.of_slot = nn.Linear(3 * HIDDEN_SIZE, 2 * HIDDEN_SIZE)
        self.value = nn.Linear(2 * HIDDEN_SIZE, 1)

    def forward(self, seen: SlotNumbers) -> Float[Tensor, " batch"]:
        """Of every network."""
        pairs = self.pairs(seen)
        servers = pairs.there.sum(dim=1)[:, None]
        of_user = [
            (pairs.code * pairs.there.unsqueeze(-1)).sum(dim=1) / servers,
            pairs.code.masked_fill(~pairs.there.unsqueeze(-1), -1.0).amax(dim=1),
        ]
        users = seen.present.sum(dim=1).clamp(min=1)[:, None]
        both = torch.cat(of_user, dim=1)
        mean = both.new_zeros(len(users), both.shape[1]).index_add(0, pairs.network, both) / users
        top = both.new_full((len(users), HIDDEN_SIZE), -1.0)
        index = pairs.network[:, None].expand(-1, HIDDEN_SIZE)
        top = top.scatter_reduce(0, index, of_user[0], "amax")
        value: Tensor = self.value(silu(self.of_slot(torch.cat([mean, top], dim=1)))).squeeze(-1)
        return value
