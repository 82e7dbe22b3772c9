"""Least and largest value of every entry of an observation."""

from typing import NamedTuple

from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import CachingView, Limits, View, fields_of, offloading_view_of, rules


class Bounds(NamedTuple):
    """Bounds of an observation, entry by entry."""

    low: tuple[float, ...]
    high: tuple[float, ...]


def join(*parts: Bounds) -> Bounds:
    """The bounds of observations that stand one behind the other."""
    return Bounds(sum((part.low for part in parts), ()), sum((part.high for part in parts), ()))


def caching_bounds(scenario: Scenario, physics: Physics) -> Bounds:
    """Bounds of the caching observation, K (1 + 2 S) + S entries."""
    return _scaled(CachingView, rules(physics).caching_limits(scenario), scenario)


def offloading_bounds(scenario: Scenario, physics: Physics) -> Bounds:
    """Bounds of the offloading observation, S K + 3 S + 3 U entries and those of further processes."""
    return _scaled(offloading_view_of(scenario), rules(physics).offloading_limits(scenario), scenario)


def _scaled(view: type[View], limits: Limits, scenario: Scenario) -> Bounds:
    """Limits of a view's fields as those of its vector."""
    parts = []
    for field in fields_of(view):
        count = field.size(scenario)
        found = limits.get(field.name, ([field.low] * count, [field.high] * count))
        ends = (tuple((value + field.first) / field.scale for value in end) for end in found)
        parts.append(Bounds(*ends))
    return join(*parts)
