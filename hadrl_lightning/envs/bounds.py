"""Least and largest value of every entry of an observation."""

from collections.abc import Callable
from typing import NamedTuple

from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import CachingView, Limits, Rules, View, offloading_view_of, rules
from hadrl_lightning.simulator.fields import sizes, vector_fields_of


class Bounds(NamedTuple):
    """Bounds of an observation, entry by entry."""

    low: tuple[float, ...]
    high: tuple[float, ...]


def join(*parts: Bounds) -> Bounds:
    """The bounds of observations that stand one behind the other."""
    return Bounds(sum((part.low for part in parts), ()), sum((part.high for part in parts), ()))


def caching_bounds(scenario: Scenario, physics: Physics) -> Bounds:
    """Bounds of the caching observation, K (1 + 2 S) + S entries."""
    limits = _limits_of_any(rules(physics).caching_limits, scenario)
    return vector_bounds(CachingView, scenario, rules(physics), limits)


def offloading_bounds(scenario: Scenario, physics: Physics) -> Bounds:
    """Bounds of the offloading observation, S K + 3 S + 3 U entries and those of further processes."""
    laws = rules(physics)
    limits = _limits_of_any(laws.offloading_limits, scenario)
    if offloading_view_of(scenario).idle_users:  # sizes of tasks are of processes, and so is what they leave
        of_tasks = {"input_bits", "cycles", *laws.below_zero}
        limits = {name: ends for name, ends in limits.items() if name not in of_tasks}
    return vector_bounds(offloading_view_of(scenario), scenario, laws, limits)


def _limits_of_any(limits: Callable[[Scenario], Limits], scenario: Scenario) -> Limits:
    """The limits that hold for every network of a scenario, whatever it draws from its ranges."""
    found = [limits(one) for one in scenario.corners()]
    return {
        name: (
            [min(ends) for ends in zip(*(one[name][0] for one in found), strict=True)],
            [max(ends) for ends in zip(*(one[name][1] for one in found), strict=True)],
        )
        for name in found[0]
    }


def vector_bounds(view: type[View], scenario: Scenario, physics: Rules, narrower: Limits) -> Bounds:
    """Bounds of the vector of a view: those that a physics knows of a field, else those of its declaration."""
    parts = []
    for field in vector_fields_of(view):
        declared = field.limits(sizes(scenario), field.name in physics.below_zero)
        limits = narrower.get(field.name, ([], []))
        beyond = field.size(scenario) - len(limits[0])  # of what the physics knows nothing
        ends = [known + [end] * beyond for known, end in zip(limits, declared, strict=True)]
        parts.append(Bounds(*(tuple((value + field.first) / field.scale for value in end) for end in ends)))
    return join(*parts)
