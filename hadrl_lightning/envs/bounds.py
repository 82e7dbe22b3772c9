"""Least and largest value of every entry of an observation."""

import math
from typing import NamedTuple

from hadrl_lightning.scenario import Physics, Scenario

MARGIN = 1 + 1e-5
"""Widens bounds a little, so that rounding in the simulator's number format never leaves them."""
BITS_PER_GIB = 8.0 * 1024**3


class Bounds(NamedTuple):
    """Bounds of an observation, entry by entry."""

    low: tuple[float, ...]
    high: tuple[float, ...]


def join(*parts: Bounds) -> Bounds:
    """The bounds of observations that stand one behind the other."""
    return Bounds(sum((part.low for part in parts), ()), sum((part.high for part in parts), ()))


def caching_bounds(scenario: Scenario, physics: Physics) -> Bounds:
    """Bounds of the caching observation, K (1 + 2 S) + S entries.

    The published request gain is a quotient whose denominator can come close to 0: it has none.
    """
    pairs, services = scenario.num_servers * scenario.num_services, scenario.num_services
    flags = Bounds((0.0,) * pairs, (1.0,) * pairs)
    if physics == "strict":
        shares = Bounds((0.0,) * (services + pairs), (1.0,) * (services + pairs))
        room = _between([0.0] * scenario.num_servers, scenario.usable_cache_bits, 1e9)
        return join(flags, shares, room)
    gain = Bounds((-math.inf,) * services, (math.inf,) * services)
    # Counts of hits: (max - x) / (max - 0.1) with max at least 1, or all 0.
    popularity = Bounds((0.0,) * pairs, (MARGIN / 0.9,) * pairs)
    return join(flags, gain, popularity, _cache_left(scenario, physics, 1e9))


def offloading_bounds(scenario: Scenario, physics: Physics) -> Bounds:
    """Bounds of the offloading observation, S K + 3 S + 3 U entries."""
    servers, users = scenario.num_servers, scenario.num_users
    pairs = servers * scenario.num_services
    bits = cycles = 0.0
    if physics == "published":  # what is left may fall below 0 by all that the users can ask of one server
        bits, cycles = users * max(scenario.input_bits), users * max(scenario.cycles)
    bandwidth, compute = scenario.bandwidth_per_server_hz, scenario.compute_per_server_hz
    return join(
        Bounds((0.0,) * pairs, (1.0,) * pairs),
        _cache_left(scenario, physics, BITS_PER_GIB),
        _between([min(hz - bits, 0.0) for hz in bandwidth], bandwidth, 1e5),
        _between([min(hz - cycles, 0.0) for hz in compute], compute, 1e9),
        Bounds((0.0,) * users, (float(scenario.num_services),) * users),
        _between([0.0] * users, [max(scenario.input_bits)] * users, 1e6),
        _between([0.0] * users, [max(scenario.cycles)] * users, 1e9),
    )


def _cache_left(scenario: Scenario, physics: Physics, unit: float) -> Bounds:
    """`strict` keeps to the usable cache; `published` never checks what it stores."""
    if physics == "strict":
        largest = scenario.usable_cache_bits
        return _between([-1e-5 * bits for bits in largest], largest, unit)
    largest = scenario.cache_per_server_bits
    return _between([min(bits - sum(scenario.storage_bits), 0.0) for bits in largest], largest, unit)


def _between(
    low: list[float] | tuple[float, ...], high: list[float] | tuple[float, ...], unit: float
) -> Bounds:
    return Bounds(
        tuple(MARGIN * value / unit for value in low),
        tuple(MARGIN * value / unit for value in high),
    )
