"""What drawn slots cost under any caches, user by user: for networks of so few users that a crowd says little.

Where a crowd's users can be split over servers, these can't, and each goes where it costs least beside those who ask
in the same slot (`planning.sums.best_targets`). What a change of a cache is about worth follows from what the users
who ask for the service would save or lose, each by itself.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from hadrl_lightning.planning.frames import MOST_CELLS, Frames, Parts
from hadrl_lightning.planning.sums import best_targets, moved_targets, targets_cost

FEW_A_SERVER = 8
"""With as many users a server a relaxed decision is within 0.1 % of the best known."""


def users_are_few(users: int, servers: int) -> bool:
    """Whether so few users share a server that splitting them, as crowds and relaxed decisions do, costs much less."""
    return users < FEW_A_SERVER * servers


class Pairs(NamedTuple):
    """Every user of some slots at every server, rows are slots."""

    root: Float[Tensor, "row resource user server"]
    """Roots of what is demanded of each resource."""
    base: Float[Tensor, "row user server"]
    """What the user waits for alone, s."""

    def repeated(self, times: int) -> "Pairs":
        """All rows so many times, one time behind the other."""
        return Pairs(*(value.repeat(times, *[1] * (value.ndim - 1)) for value in self))


class NamedSlots:
    """Drawn slots of one network, as `cache_descent.Descent` searches in them.

    Args:
        missing: users at servers that do not hold what they ask for, and at targets behind the servers, if any.
        holding: users at servers that do, and as before behind them.
        asked: which service each user asks for.
        num_services: K.
    """

    def __init__(
        self, missing: Pairs, holding: Pairs, asked: Int[Tensor, "slot user"], num_services: int
    ) -> None:
        self._missing, self._holding, self._asked = missing, holding, asked
        counts = torch.bincount(asked.flatten(), minlength=num_services)
        self.asking = (counts.to(missing.base) / max(1, len(asked))).unsqueeze(0)
        """Users that ask for each service, mean over slots."""

    @classmethod
    def of(cls, frames: Frames, row: int, asked: Int[Tensor, "slot user"]) -> "NamedSlots":
        """One network of some frames in slots that are drawn, by what its users ask for (`Frames.asked`)."""
        missing, holding = (
            Pairs(root.transpose(0, 1)[asked].transpose(1, 2), base[asked])
            for root, base in zip(frames.root[row], frames.base[row])
        )
        return cls(missing, holding, asked, frames.asking.shape[1])

    def best_parts(
        self,
        row: Int[Tensor, " n"],
        cache: Bool[Tensor, "n server service"],
        part: Int[Tensor, "n slot user"] | None = None,
    ) -> Parts:
        """As of `Frames`; where users are served is `part`, the server of each user in every slot."""
        blocks = [
            self._best_parts(cache[some], None if part is None else part[some])
            for some in self._blocks(len(cache))
        ]
        return Parts(*(torch.cat(values) for values in zip(*blocks)))

    def _best_parts(self, cache: Tensor, part: Tensor | None) -> tuple[Tensor, Tensor]:
        pairs = self._at(cache)
        if part is None:
            target = best_targets(pairs.root, pairs.base, None)
        else:
            target = moved_targets(pairs.root, pairs.base, part.flatten(0, 1))
        shape = (len(cache), *self._asked.shape)
        return targets_cost(pairs.root, pairs.base, target).view(shape[:2]).mean(dim=1), target.view(shape)

    def worth(
        self,
        row: Int[Tensor, " n"],
        cache: Bool[Tensor, "n server service"],
        part: Int[Tensor, "n slot user"],
    ) -> Float[Tensor, "n server service"]:
        """As of `Frames`: of what is held, what would be lost without it, of what is not, what it would save."""
        return torch.cat([self._worth(cache[some], part[some]) for some in self._blocks(len(cache))])

    def _worth(self, cache: Tensor, part: Tensor) -> Tensor:
        target, now = part.flatten(0, 1), self._at(cache)
        place = target.unsqueeze(2)
        here = torch.zeros_like(now.base, dtype=torch.bool).scatter_(2, place, True)
        own = now.root * here.unsqueeze(1)
        others = own.sum(dim=2, keepdim=True) - own  # the load of every server less the user itself
        copies = len(cache)

        def added(pairs: Pairs) -> Tensor:
            return (pairs.root * (pairs.root + 2 * others)).sum(dim=1) + pairs.base

        at = added(now)
        missing, holding = (added(pairs.repeated(copies)) for pairs in (self._missing, self._holding))
        pays = at.gather(2, place)
        saved = (pays - holding).clamp(min=0)
        least = at.masked_fill(here, torch.inf).amin(dim=2, keepdim=True)
        lost = torch.where(here, torch.minimum(least, missing) - pays, 0.0)
        held = self._held(cache)
        value = torch.where(held, lost, saved)[..., : cache.shape[1]].reshape(copies, -1, cache.shape[1])
        service = self._asked.flatten()
        found = value.new_zeros(copies, self.asking.shape[1], cache.shape[1]).index_add_(1, service, value)
        return found.transpose(1, 2) / max(1, len(self._asked))

    def _held(self, cache: Bool[Tensor, "n server service"]) -> Bool[Tensor, "row user server"]:
        """Whether each server holds what each user asks for."""
        held = cache.transpose(1, 2)[:, self._asked].flatten(0, 1)
        return pad(held, (0, self._missing.base.shape[2] - held.shape[2]))

    def _at(self, cache: Bool[Tensor, "n server service"]) -> Pairs:
        """Users under some caches; rows are the slots under the first, under the second, …"""
        held = self._held(cache)
        holding, missing = (pairs.repeated(len(cache)) for pairs in (self._holding, self._missing))
        root = torch.where(held.unsqueeze(1), holding.root, missing.root)
        return Pairs(root, torch.where(held, holding.base, missing.base))

    def _blocks(self, count: int) -> tuple[Tensor, ...]:
        size = max(1, MOST_CELLS // max(1, self._missing.root.numel()))
        return torch.arange(count, device=self._asked.device).split(size)
