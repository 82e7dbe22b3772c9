"""What is wanted of an edge network: how much each outcome counts against the others."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hadrl_lightning.errors import shown
from hadrl_lightning.scenario.checks import check_number


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Weights of the outcomes: what one unit of each costs. Their weighted sum, the *cost*, is what is kept low.

    It is what plans minimise, what caches are chosen and caching agents rewarded by, what learners are paid with, and
    what says which validation is best. By default it is the latency in s. In the terms of active inference a preference
    is a density over outcomes, and the cost its negative logarithm but for a constant (Friston et al. 2015).

    Raises:
        ValueError: a weight is negative, infinite or no number, or nothing that a decision changes counts.
    """

    latency_s: float = 1.0
    """Of a second of latency of a task."""
    energy_j: float = 0.0
    """Of a joule that a user's radio and device take."""
    missed: float = 0.0
    """Of a task that misses its deadline, or is dropped."""
    dropped: float = 0.0
    """Of a task that is dropped, beside what it counts as in latency (`dropped_s` of the process that drops it)."""
    handovers: float = 0.0
    """Of a user's change of the home server; no decision changes it, but it counts where agents are compared."""
    switching_s: float = 0.0
    """Of a second that it takes to fetch newly cached services, at each caching decision."""

    def __post_init__(self) -> None:
        for name in NAMES:
            check_number(name, getattr(self, name), least=0.0, most=1e9)
            object.__setattr__(self, name, float(getattr(self, name)))
        if not (self.latency_s or self.energy_j):
            raise ValueError("latency_s must be above 0 where energy_j is 0: every decision counts, got 0")

    @classmethod
    def of(cls, weights: Any) -> "Preferences":
        """Of weights by their names; None: the usual ones.

        Raises:
            ValueError: there is no such outcome, or a weight is out of range.
        """
        if isinstance(weights, cls):
            return weights
        if not isinstance(weights, Mapping | None):
            raise ValueError(f"preferences must be weights by the names of outcomes, got {shown(weights)}")
        for name in weights or ():
            if name not in NAMES:
                raise ValueError(f"preferences must be of {', '.join(NAMES)}, got {shown(name)}")
        try:
            return cls(**dict(weights or {}))
        except ValueError as error:
            raise ValueError(f"preferences.{error}") from error

    @property
    def latency_alone(self) -> bool:
        """Whether the cost is the latency in s."""
        return self == USUAL

    @property
    def figure(self) -> str:
        """What scores call the cost: `latency` where it is that alone, else `cost`."""
        return "latency" if self.latency_alone else "cost"


# The class checks its own arguments, with messages for users, and takes whole numbers too, as YAML gives them.
setattr(Preferences.__init__, "__no_type_check__", True)  # noqa: B010
NAMES = tuple(one.name for one in fields(Preferences))
"""Outcomes that can be weighed."""
USUAL = Preferences()
"""Latency alone, in s."""
