"""What the structured world model knows of outcomes beyond latency, and what all of them cost by the preferences."""

from math import sqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, silu

from hadrl_lightning.nn.normaliser import RunningNormaliser
from hadrl_lightning.nn.perceptrons import EnsembleLinear, Members, gaussian_nll
from hadrl_lightning.nn.set_encoder import Demands, SharedResources
from hadrl_lightning.scenario import Preferences

MIN_ENERGY_J = 1e-12
"""Measured energies count as at least this, so that their logarithm is finite."""
LOADS = 4
"""Numbers that the users of a server add up to there, by which tasks are dropped."""
SMOOTHING = (2.0, 1.0, 0.5)
"""What the deviation of a log latency is at least while a plan nears its deadlines, round by round: from far away a
deadline has a slope too."""


class Chances(nn.Module):
    """How likely each user's task is dropped, by its token and by what the users of its server add up to there."""

    def __init__(
        self, num_members: int, token_size: int, hidden_size: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.token = EnsembleLinear(num_members, token_size, hidden_size + LOADS, generator)
        self.load = EnsembleLinear(num_members, LOADS, hidden_size, generator)
        self.head = EnsembleLinear(num_members, hidden_size, 1, generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew."""
        for layer in (self.token, self.load, self.head):
            layer.reset_parameters(generator)

    @property
    def size(self) -> int:
        """Numbers of a description."""
        return self.hidden_size + LOADS

    def describe(
        self, token: Float[Tensor, "m_or_1 tokens number"], members: Members = None
    ) -> Float[Tensor, "m tokens description"]:
        """What does not depend on who else goes where."""
        num_members = len(self.token.weight) if members is None else len(members)
        return self.token(token.expand(num_members, -1, -1), members)

    def logits(
        self,
        description: Float[Tensor, "m tokens description"],
        pooled: Float[Tensor, "m tokens load"],
        members: Members = None,
    ) -> Float[Tensor, "m tokens"]:
        """Logarithms of the odds, where the users of each server add up to so much."""
        own = description[..., : self.hidden_size]
        return self.head(silu(own + self.load(pooled.log1p(), members)), members).squeeze(-1)

    def loads(self, description: Float[Tensor, "m tokens description"]) -> Float[Tensor, "m tokens load"]:
        """What each user adds at its server."""
        return nn.functional.softplus(description[..., self.hidden_size :])

    def combine(
        self,
        description: Float[Tensor, "m tokens description"],
        target: Int[Tensor, "m_or_1 rows user"],
        num_servers: int,
        members: Members = None,
        asks: Bool[Tensor, "m_or_1 rows user"] | None = None,
    ) -> Float[Tensor, "m rows user"]:
        """The logits of users at their targets, tokens = rows × users."""
        load = self.loads(description).unflatten(1, target.shape[1:])
        if asks is not None:
            load = load * asks.unsqueeze(-1)
        place = target.unsqueeze(-1).expand_as(load)
        of_server = load.new_zeros(*load.shape[:2], num_servers, LOADS).scatter_add(2, place, load)
        pooled = of_server.gather(2, place).flatten(1, 2)
        return self.logits(description, pooled, members).view(len(description), *target.shape[1:])

    def at_all(
        self,
        description: Float[Tensor, "m tokens description"],
        target: Int[Tensor, "1 rows user"],
        num_servers: int,
        members: Members = None,
        asks: Bool[Tensor, "rows user"] | None = None,
    ) -> Float[Tensor, "rows user server"]:
        """Chances of every user at every server, where the others go to their targets; mean over members.

        Descriptions are of all pairs, tokens = rows × users × servers.
        """
        rows, users = target.shape[1:]
        load = self.loads(description).view(-1, rows, users, num_servers, LOADS)
        here = nn.functional.one_hot(target, num_servers).unsqueeze(-1).to(load.dtype)
        here = here if asks is None else here * asks[..., None, None]
        there = (load * here).sum(dim=2, keepdim=True) - load * here + load
        found = self.logits(description, there.flatten(1, 3), members)
        return found.sigmoid().mean(dim=0).view(rows, users, num_servers)


class Outcomes(nn.Module):
    """Energy and drops, learnt beside latency, and the cost of all outcomes by the preferences.

    Energy comes about by the shares that latency does: it is a sum over resources of demands of its own
    (`nn.set_encoder.Demands`), with the same weights. A deadline is missed where the predicted latency, a log-normal,
    is above it, and a task is dropped with a chance that is learnt.

    Args:
        preferences: what each outcome counts.
        sizes: members, numbers of a token, hidden size, and of the resources shared, common, and waits.
        generator: source of the initial weights; None: the global one.
    """

    def __init__(
        self,
        preferences: Preferences,
        sizes: tuple[int, int, int, int, int, int],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.preferences = preferences
        members, token, hidden, shared, common, waits = sizes
        self.energy: Demands | None = None
        if preferences.energy_j:
            self.energy = Demands(members, token, hidden, shared, common, waits, generator)
        self.energy_normaliser = RunningNormaliser(1) if preferences.energy_j else None
        self.drops = Chances(members, token, hidden, generator) if preferences.dropped else None

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew."""
        for part in (self.energy, self.drops):
            if part is not None:
                part.reset_parameters(generator)

    @property
    def energy_unit_j(self) -> Float[Tensor, "1"]:
        """The energy of a demand of 1, J."""
        assert self.energy_normaliser is not None
        return self.energy_normaliser.centre.exp()

    @torch.no_grad()
    def observe(self, energy: Tensor | None, asks: Tensor | None, synchronise: bool) -> None:
        """Takes measured energies into the normaliser."""
        if self.energy_normaliser is not None and energy is not None:
            value = energy.clamp(min=MIN_ENERGY_J).log()
            value = value if asks is None else value[asks]
            self.energy_normaliser.update(value.unsqueeze(-1), synchronise)

    def describe(
        self, token: Float[Tensor, "m_or_1 tokens number"], members: Members = None
    ) -> list[Float[Tensor, "m tokens description"]]:
        """What does not depend on shares and on who else goes where."""
        parts = (self.energy, self.drops)
        return [part.describe(token, members) for part in parts if part is not None]

    def parted(self, description: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Of energy and of drops, of such descriptions one behind the other."""
        size = 0 if self.drops is None else self.drops.size
        energy, drops = description.tensor_split([description.shape[-1] - size], dim=-1)
        return energy if self.energy is not None else None, drops if self.drops is not None else None

    def log_costs(
        self,
        mean: Float[Tensor, "m rows user"],
        log_var: Float[Tensor, "m rows user"],
        energy: tuple[Tensor, Tensor] | None,
        logits: Float[Tensor, "m rows user"] | None,
        deadline_s: Float[Tensor, "rows user"] | None,
    ) -> Float[Tensor, "m rows user"]:
        """Means of the log costs of tasks, which vary as the log latencies do.

        Args:
            mean: of the log latencies, ln s.
            log_var: of them.
            energy: the same two of the log energies, ln J.
            logits: of being dropped.
            deadline_s: of the tasks.
        """
        wanted, half = self.preferences, log_var.exp() / 2
        cost = wanted.latency_s * (mean + half).exp()
        if energy is not None:
            cost = cost + wanted.energy_j * (energy[0] + energy[1].exp() / 2).exp()
        if wanted.missed and deadline_s is not None:
            cost = cost + wanted.missed * missing(mean, log_var, deadline_s)
        if logits is not None:
            cost = cost + wanted.dropped * logits.sigmoid()
        return cost.clamp(min=torch.finfo(cost.dtype).tiny).log() - half

    def weights(
        self,
        mean: Float[Tensor, "m rows user"],
        log_var: Float[Tensor, "m rows user"],
        deadline_s: Float[Tensor, "rows user"] | None,
        round_: int,
    ) -> Float[Tensor, "rows user"]:
        """What a second of each user's latency costs at these latencies: a deadline that is near makes it dear."""
        wanted = self.preferences
        if not wanted.missed or deadline_s is None:
            return torch.full_like(mean[0], wanted.latency_s)
        least = SMOOTHING[round_] if round_ < len(SMOOTHING) else 0.0
        deviation = (log_var / 2).exp().clamp(min=least)
        off = (mean - deadline_s.log()) / deviation
        density = (-off.square() / 2).exp() / (deviation * sqrt(2 * torch.pi))
        return wanted.latency_s + wanted.missed * (density / mean.exp()).mean(dim=0)

    def losses(
        self,
        resources: SharedResources,
        further: Tensor,
        share: Tensor,
        target: Tensor,
        num_servers: int,
        measured: tuple[Tensor | None, Tensor | None],
        asks: Tensor | None,
    ) -> list[Float[Tensor, "m rows user"]]:
        """Negative log-likelihoods of energies in J and of drops that were measured, of users who are described."""
        energy, drops = self.parted(further)
        joules, dropped = measured
        found = []
        if energy is not None and joules is not None:
            mean, log_var = resources.combine(energy, share, target, num_servers, asks=asks)
            wanted = joules.clamp(min=MIN_ENERGY_J).log() - self.energy_unit_j.log()
            found.append(gaussian_nll(mean, log_var, wanted))
        if drops is not None and self.drops is not None and dropped is not None:
            logits = self.drops.combine(drops, target, num_servers, asks=asks)
            wanted = dropped.to(logits.dtype).expand_as(logits)
            found.append(binary_cross_entropy_with_logits(logits, wanted, reduction="none"))
        return found


def missing(
    mean: Float[Tensor, "m rows user"],
    log_var: Float[Tensor, "m rows user"],
    deadline_s: Float[Tensor, "rows user"],
) -> Float[Tensor, "m rows user"]:
    """The chance that a log-normal latency is above the deadline."""
    off = (mean - deadline_s.log()) / (log_var / 2).exp()
    return torch.special.ndtr(off)
