"""One step of experience at either level, as batches of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from hadrl_lightning.scenario import Preferences, Scenario
from hadrl_lightning.simulator import CachingView, View, offloading_view_of
from hadrl_lightning.simulator.rows import Rows, stacked

if TYPE_CHECKING:
    from typing import Self
else:  # a type checker at run time meets the annotations of methods apart from their class
    Self = Any


@dataclass(eq=False)
class Lessons(Rows):
    """What is learnt from, a row each."""

    weight: Float[Tensor, "*rows"] | None = field(default=None, kw_only=True)
    """Factor on the loss of each row, about 1 on average; None: all count the same."""


@dataclass(eq=False)
class Transitions(Lessons):
    """One step of each row: what an agent saw, did and got."""

    view: View | Float[Tensor, "*rows number"]
    """What was seen before the decision; flat models take it as a vector too."""

    action: Float[Tensor, "*rows action"]
    """Raw action in [-1, 1]."""

    reward: Float[Tensor, "*rows"]
    """What the step was worth."""

    next_view: View | Float[Tensor, "*rows number"]
    """What was seen after it."""


@dataclass(eq=False)
class OffloadingTransitions(Transitions):
    """One slot of each row: an `OffloadingView`; the action is targets, bandwidth and compute shares of all users."""

    latency: Float[Tensor, "*rows user"]
    """Measured latency of every user in the slot, s."""

    energy: Float[Tensor, "*rows user"] | None = field(default=None, kw_only=True)
    """Energy of every user, J; None where no preference asks for it, as the rest."""

    dropped: Bool[Tensor, "*rows user"] | None = field(default=None, kw_only=True)
    """Whose task was dropped."""

    @classmethod
    def of(cls, slot: Any, reward: Float[Tensor, "*rows"], preferences: Preferences) -> Self:
        """Of a slot that was played (`play.PlayedSlot`), with what outcomes these preferences ask for."""
        service = slot.service
        return cls(
            slot.seen,
            slot.act,
            reward,
            slot.seen_next,
            service.latency,
            energy=service.energy if preferences.energy_j else None,
            dropped=service.dropped if preferences.dropped else None,
        )

    @classmethod
    def none(cls, scenario: Scenario) -> Self:
        """No rows of a scenario, to say what its transitions are like."""
        view, nothing = offloading_view_of(scenario).none(scenario), torch.zeros(0)
        action, latency = (
            nothing.new_zeros(0, n) for n in (scenario.offloading_action_size, scenario.num_users)
        )
        wanted = scenario.preferences
        dropped = latency.bool() if wanted.dropped else None
        energy = latency if wanted.energy_j else None
        return cls(view, action, nothing, view, latency, energy=energy, dropped=dropped)


@dataclass(eq=False)
class CachingTransitions(Transitions):
    """One caching decision of each row: a `CachingView`; the action is server-major, the reward that of the frame."""

    cache: Bool[Tensor, "*rows server service"]
    """The cache that was executed."""

    @classmethod
    def none(cls, scenario: Scenario) -> Self:
        """No rows of a scenario, to say what its transitions are like."""
        view, nothing = CachingView.none(scenario), torch.zeros(0)
        return cls(view, nothing.new_zeros(0, scenario.caching_action_size), nothing, view, view.cache)


def _collate(rows: Sequence[Rows], *, collate_fn_map: Any = None) -> Rows:
    """What a `DataLoader` makes of single rows."""
    return stacked(rows)


default_collate_fn_map[Rows] = _collate
