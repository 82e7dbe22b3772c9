"""What the structured world model learns of the work that slots leave at servers, and of what that costs later.

The value of a state is a sum over many slots of what chance brings, and hard to learn. Its slope is not: while a plan
is held, a second more of work at a server costs what each task that is computed there waits longer, until the queue is
empty. So the price of a second is learnt by temporal differences of its own (Werbos's dual heuristic programming),

    price(b) ← (cost of the slot with b + 1 s − cost with b s) + discount · price(b′)

without the last where the server has no work left;
the difference is what the world model expects of the slot that was played, and b′ what was seen next. By the
envelope theorem that a plan would change too makes no difference to first order.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import huber_loss, silu, softplus

from hadrl_lightning.nn.perceptrons import EnsembleLinear, Members
from hadrl_lightning.planning.carried import CarriedWork
from hadrl_lightning.planning.model import PAIRS_AT_ONCE
from hadrl_lightning.simulator.decisions import sum_per_server
from hadrl_lightning.simulator.rows import Rows

BACKLOG = "backlog_s"
"""Field of servers that says what work was left there, in s of their full speed."""
STEP_S = 1.0
"""How much more work it is that a price is the cost of, s."""
INITIAL_LOG_WORK = -3.0
LOG_BOUND = 10.0
"""Bound of the logarithms of work."""


@dataclass(eq=False)
class CarriedLessons(Rows):
    """What is learnt of it from slots that were played: rows of transitions."""

    backlog: Float[Tensor, "*rows server"]
    """Before the slot, s."""
    next_backlog: Float[Tensor, "*rows server"]
    """After it, s."""
    next_server: Float[Tensor, "*rows server number"]
    """Numbers of servers after it, normalised."""
    token: Float[Tensor, "*rows user entry"]
    """Of every user at its target server, were there `STEP_S` more of work."""
    deadline_s: Float[Tensor, "*rows user"] | None
    """Of the users' tasks, where preferences ask for it."""


class CarriedWorkModel(nn.Module):
    """The work that users bring to servers, what these work off in a slot, and the price of a second that is left.

    Args:
        num_members: models in the ensemble.
        token_size: numbers of a user at a server.
        server_size: numbers of a server.
        backlog: which of these is the work that was left there.
        hidden_size: width of hidden layers.
        discount: what a later slot counts beside the one before.
        generator: source of the initial weights; None: PyTorch's global one.
    """

    def __init__(
        self,
        num_members: int,
        token_size: int,
        server_size: int,
        backlog: int,
        hidden_size: int,
        discount: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.backlog = backlog
        self.discount = discount
        self.token = EnsembleLinear(num_members, token_size, hidden_size, generator)
        self.work = EnsembleLinear(num_members, hidden_size, 1, generator)
        self.power = EnsembleLinear(num_members, token_size, 1, generator)
        self.done = EnsembleLinear(num_members, server_size, 1, generator)
        self.context = EnsembleLinear(num_members, 2 * server_size, hidden_size, generator)
        self.price = EnsembleLinear(num_members, hidden_size, 2, generator)
        self._start_small()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew."""
        for layer in self.children():
            cast(EnsembleLinear, layer).reset_parameters(generator)
        self._start_small()

    @torch.no_grad()
    def _start_small(self) -> None:
        self.power.weight.zero_()
        self.done.weight.zero_()
        self.power.bias.fill_(INITIAL_LOG_WORK)
        self.price.bias.fill_(INITIAL_LOG_WORK)

    def work_of(
        self, token: Float[Tensor, "m_or_1 tokens entry"], members: Members = None
    ) -> Float[Tensor, "m tokens"]:
        """What each user brings to a server, in s of its full speed."""
        count = len(self.token.weight) if members is None else len(members)
        token = token.expand(count, -1, -1)
        logarithm = self.work(silu(self.token(token, members)), members) + self.power(token, members)
        return logarithm.clamp(-LOG_BOUND, LOG_BOUND).exp().squeeze(-1)

    def done_by(
        self, server: Float[Tensor, "m_or_1 rows server number"], members: Members = None
    ) -> Float[Tensor, "m rows server"]:
        """What each server can work off in a slot, s; whatever is left there."""
        own = self._known(server, members).flatten(1, 2)
        done = self.done(own, members).clamp(-LOG_BOUND, LOG_BOUND).exp()
        return done.view(len(own), *server.shape[1:3])

    def prices(
        self,
        server: Float[Tensor, "m_or_1 rows server number"],
        num_users: int,
        members: Members = None,
    ) -> tuple[Float[Tensor, "m rows server"], Float[Tensor, "m rows server"]]:
        """Of a first second that is left at each server, and how it rises with each: by the server and all the others.

        Without anything learnt they are about what a fair share of the users costs who wait so long for one slot.
        """
        own = self._known(server, members)
        every = server.expand(len(own), -1, -1, -1).mean(dim=2, keepdim=True).expand_as(own)
        value = silu(self.context(torch.cat((own, every), dim=-1).flatten(1, 2), members))
        found = softplus(self.price(value, members)).view(len(own), *server.shape[1:3], 2)
        price, rise = (found * (num_users / server.shape[2])).unbind(dim=-1)
        return price, rise

    def _known(self, server: Tensor, members: Members) -> Float[Tensor, "m rows server number"]:
        """Numbers of servers without their own backlog."""
        count = len(self.token.weight) if members is None else len(members)
        mask = torch.ones(server.shape[-1], dtype=server.dtype, device=server.device)
        mask[self.backlog] = 0.0
        return (server * mask).expand(count, -1, -1, -1)

    def carried(
        self,
        token: Float[Tensor, "1 tokens entry"],
        server: Float[Tensor, "1 networks server number"],
        backlog: Float[Tensor, "networks server"],
        asks: Bool[Tensor, "networks user"] | None,
        members: Members = None,
        tokens_at_once: int = PAIRS_AT_ONCE,
    ) -> CarriedWork:
        """For a plan, of every user at every server: tokens = networks × users × servers, so many at once."""
        networks, servers = backlog.shape
        parts = [self.work_of(part, members) for part in token.split(tokens_at_once, dim=1)]
        work = torch.cat(parts, dim=1).unflatten(1, (networks, -1, servers))
        if asks is not None:
            work = work * asks[..., None]
        price, rise = self.prices(server, work.shape[2], members)
        later = self.discount
        return CarriedWork(work, backlog, self.done_by(server, members), later * price, later * rise)

    def losses(
        self,
        lessons: CarriedLessons,
        token: Float[Tensor, "m_or_1 rows user entry"],
        server: Float[Tensor, "m_or_1 rows server number"],
        target: Int[Tensor, "m_or_1 rows user"],
        asks: Bool[Tensor, "m_or_1 rows user"] | None,
        dearer: Float[Tensor, "m rows user"],
    ) -> Float[Tensor, "m rows server loss"]:
        """How far off the next backlog and the prices are.

        Args:
            lessons: what was seen of servers.
            token: of users at their targets.
            server: numbers of servers before the slot, normalised.
            target: where tasks went.
            asks: who had one; None: everybody.
            dearer: what each user's task would have cost more with `STEP_S` more of work at every server.
        """
        before, after = lessons.backlog, lessons.next_backlog
        num_users, num_servers = target.shape[-1], before.shape[-1]
        work = self.work_of(token.flatten(1, 2)).unflatten(1, target.shape[1:])
        work = work if asks is None else work * asks
        expected = before + sum_per_server(work, target, num_servers) - self.done_by(server)
        # Of a server that is empty nothing more is known than that it had time enough.
        expected = torch.where(after > 0, expected, expected.clamp(min=0.0))
        off = huber_loss(expected, after.expand_as(expected), reduction="none")
        unit = num_servers / num_users
        price, rise = self.prices(server, num_users)
        with torch.no_grad():
            later, more = self.prices(lessons.next_server, num_users)
            later = torch.where(after > 0, later + more * after, 0.0)
            now = sum_per_server(dearer, target, num_servers).clamp(min=0.0) / STEP_S
        wanted = unit * (now + self.discount * later)
        return torch.stack(
            (off, huber_loss(unit * (price + rise * before), wanted, reduction="none")), dim=-1
        )
