"""Least and largest value of every entry of an observation."""

from typing import NamedTuple

from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import CachingView, Limits, Rules, View, fields_of, offloading_view_of, rules
from hadrl_lightning.simulator.fields import sizes


class Bounds(NamedTuple):
    """Bounds of an observation, entry by entry."""

    low: tuple[float, ...]
    high: tuple[float, ...]


def join(*parts: Bounds) -> Bounds:
    """The bounds of observations that stand one behind the other."""
    return Bounds(sum((part.low for part in parts), ()), sum((part.high for part in parts), ()))


def caching_bounds(scenario: Scenario, physics: Physics) -> Bounds:
    """Bounds of the caching observation, K (1 + 2 S) + S entries."""
    return vector_bounds(CachingView, scenario, rules(physics), rules(physics).caching_limits(scenario))


def offloading_bounds(scenario: Scenario, physics: Physics) -> Bounds:
    """Bounds of the offloading observation, S K + 3 S + 3 U entries and those of further processes."""
    return vector_bounds(
        offloading_view_of(scenario), scenario, rules(physics), rules(physics).offloading_limits(scenario)
    )


def vector_bounds(view: type[View], scenario: Scenario, physics: Rules, narrower: Limits) -> Bounds:
    """Bounds of the vector of a view: those that a physics knows of a field, else those of its declaration."""
    parts = []
    for field in fields_of(view):
        declared = field.limits(sizes(scenario), field.name in physics.below_zero)
        limits = narrower.get(field.name, tuple([end] * field.size(scenario) for end in declared))
        parts.append(Bounds(*(tuple((value + field.first) / field.scale for value in end) for end in limits)))
    return join(*parts)
