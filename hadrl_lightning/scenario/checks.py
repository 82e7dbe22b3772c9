"""What a scenario refuses, in one line that names the field, what is allowed and the value; and what it warns of."""

import math
import warnings
from typing import TYPE_CHECKING, Any

from hadrl_lightning.errors import HadrlWarning, shown
from hadrl_lightning.scenario.limits import (
    BY_COUNT,
    COUNTS,
    FORMULAS,
    LEAST,
    LISTS,
    POINTS,
    POSITIVE,
    PUBLISHED_POPULARITY,
    SIZES,
    beyond_memory,
    network_bytes,
)
from hadrl_lightning.typed import as_floats

if TYPE_CHECKING:
    from hadrl_lightning.scenario.scenario import Points, Scenario


def check_counts(scenario: "Scenario") -> None:
    """Check the whole numbers, and that a network of such sizes fits into memory.

    Raises:
        ValueError: one is no whole number or out of its range, or there is not enough memory.
    """
    for name, largest in COUNTS.items():
        check_integer(name, getattr(scenario, name), LEAST.get(name, 1), largest)
    _check_memory(scenario.counts)


def check_beside_sizes(scenario: "Scenario") -> None:
    """Check counts that are ranges, and what is given beside them.

    Raises:
        ValueError: an end of such a range is no whole number or out of its range, there is not enough memory for the
            largest network, or something is listed one by one for a count that is a range.
    """
    listed = {name: of for name, of in {**LISTS, **BY_COUNT}.items() if of in scenario.ranges}
    for name in SIZES:
        for end in ("low", "high") if name in scenario.ranges else ():
            value = getattr(scenario.ranges[name], end)
            if value != int(value):
                raise ValueError(f"{name}.{end} must be a whole number, got {value:g}")
            check_integer(name, int(value), LEAST.get(name, 1), COUNTS[name])
    _check_memory(scenario.largest_counts)
    for name, of in listed.items():
        value = getattr(scenario, name)
        if name not in scenario.ranges and (isinstance(value, tuple) or value == "published"):
            instead = {"popularity": "zipf or a range", "offload_thresholds": "null"}
            allowed = instead.get(name, "a range" if name in POINTS else "no list")
            raise ValueError(f"{name} must be {allowed} where {of} is a range, got {shown(value)}")


def check_fields(scenario: "Scenario") -> None:
    """Check all other fields, of one network.

    Raises:
        ValueError: a field is out of its range or a list has the wrong length.
    """
    for name, (least, most) in POSITIVE.items():
        if name not in LISTS:
            check_number(name, getattr(scenario, name), above=0.0, least=least, most=most)
    for name, most in (("zipf_exponent", 1e3), ("cloud_delay_s", 1e12)):
        check_number(name, getattr(scenario, name), least=0.0, most=most)
    check_number("transmit_power_dbm", scenario.transmit_power_dbm, least=-1000.0, most=60.0)
    for name in ("noise_dbm", "path_loss_constant_db", "path_loss_slope_db"):
        check_number(name, getattr(scenario, name), least=-1000.0, most=1000.0)
    for name, of in LISTS.items():
        _check_list(scenario, name, of)
    _check_popularity(scenario)
    _check_points("server_positions_m", scenario.server_positions_m, scenario.num_servers, "num_servers")
    _check_points("user_positions_m", scenario.user_positions_m, scenario.num_users, "num_users")
    _check_thresholds(scenario.offload_thresholds)
    _check_formulas(scenario)


def warn_of_values(scenario: "Scenario") -> None:
    """Warn of positions that look like degrees, and of values that change nothing.

    Said once a process, however often a scenario is made: the place in the code is always this one.
    """
    for name in POINTS:
        points = getattr(scenario, name)
        if points and _look_like_degrees(points):
            text = f"{name} look like degrees, got {points[0]} and others within 1 m: give metres"
            warnings.warn(text, HadrlWarning, stacklevel=1)
    if scenario.popularity != "zipf" and scenario.zipf_exponent != type(scenario).zipf_exponent:
        text = "zipf_exponent changes nothing without popularity: zipf"
        warnings.warn(text, HadrlWarning, stacklevel=1)
    settled = scenario.user_positions_m is not None or bool(scenario.processes)
    if scenario.server_positions_m is not None and not settled:
        whose = "user_positions_m, data.users or users who move"
        where = "" if scenario.published_homes == scenario.cells else "under physics strict "
        warnings.warn(
            f"server_positions_m, or places in data.sites, change nothing {where}without {whose}: "
            "users are drawn around their own server, whose link they use",
            HadrlWarning,
            stacklevel=1,
        )


def check_integer(name: str, value: Any, least: int, most: int | float) -> None:
    """Raise a ValueError that names the field if the value is no whole number in this range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {as_floats(value):g}")


def check_number(
    name: str, value: Any, least: float | None = None, above: float | None = None, most: float | None = None
) -> None:
    """Raise a ValueError that names the field if the value is no finite number in this range."""
    value = as_floats(value)
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    if above is not None and value <= above:
        raise ValueError(f"{name} must be greater than {above:g}, got {value:g}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least:g}, got {value:g}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most:g}, got {value:g}")


def _check_memory(counts: dict[str, int]) -> None:
    servers, users, services = (counts[name] for name in SIZES)
    lacking = beyond_memory(network_bytes(servers, users, services))
    if lacking:
        name, other = "num_servers", "num_services"
        if counts["num_services"] > counts["num_servers"]:
            name, other = other, name
        size, beside = (as_floats(counts[one]) for one in (name, other))
        raise ValueError(
            f"{name} must be as many as fit into memory with {other} = {beside:g}, got {size:g}: {lacking}"
        )


def _check_list(scenario: "Scenario", name: str, of: str) -> None:
    value, length, optional = getattr(scenario, name), getattr(scenario, of), of == "num_services"
    if optional and value is None:
        return
    if optional and not isinstance(value, tuple):
        raise ValueError(f"{name} must be a list of one value for each of {of} = {length}, got {value!r}")
    if isinstance(value, tuple) and len(value) != length:
        raise ValueError(f"{name} must have one value for each of {of} = {length}, got {len(value)}")
    least, most = POSITIVE[name]
    for item in value if isinstance(value, tuple) else (value,):
        check_number(name, item, above=0.0, least=least, most=most)


def _check_popularity(scenario: "Scenario") -> None:
    value, number = scenario.popularity, scenario.num_services
    if value == "published":
        if number != len(PUBLISHED_POPULARITY):
            raise ValueError(
                f"popularity must be zipf or a list of weights where num_services is not "
                f"{len(PUBLISHED_POPULARITY)}, got published with num_services = {number}"
            )
    elif isinstance(value, tuple):
        if len(value) != number:
            raise ValueError(
                f"popularity must have one weight for each of num_services = {number}, got {len(value)}"
            )
        for item in value:
            check_number("popularity", item, least=0.0, most=1e100)
        if math.fsum(value) == 0:
            raise ValueError(f"popularity must have a positive sum, got {value}")
    elif value != "zipf":
        raise ValueError(f"popularity must be published, zipf or a list of weights, got {value!r}")


def _check_points(name: str, points: Any, length: int, of: str) -> None:
    if points is None:
        return
    if not isinstance(points, tuple) or len(points) != length:
        got = len(points) if isinstance(points, tuple) else repr(points)
        raise ValueError(f"{name} must have one point for each of {of} = {length}, got {got}")
    for point in points:
        if not isinstance(point, tuple) or len(point) != 2:
            raise ValueError(f"{name} must hold pairs of x and y in metres, got {point!r}")
        for coordinate in point:
            check_number(name, coordinate, least=-1e7, most=1e7)


def _check_thresholds(thresholds: Any) -> None:
    if thresholds is None:
        return
    if not isinstance(thresholds, tuple):
        raise ValueError(f"offload_thresholds must be a list of numbers, got {thresholds!r}")
    for threshold in thresholds:
        check_number("offload_thresholds", threshold, least=-1.0, most=1.0)
    if list(thresholds) != sorted(set(thresholds)):
        raise ValueError(f"offload_thresholds must increase, got {thresholds}")


def _check_formulas(scenario: "Scenario") -> None:
    """What grows with the number of services stays within what single precision holds."""
    for name, (given, most) in FORMULAS.items():
        if getattr(scenario, given) is None:
            check_number(name, getattr(scenario, name), most=most / scenario.num_services)
    if scenario.workload_cycles is None:
        most = POSITIVE["workload_cycles"][1]
        check_number("workload_cycles by the formula", max(scenario.cycles), most=most)


def _look_like_degrees(points: "Points") -> bool:
    """Several points that could be longitude and latitude, in either order, all within what would be a metre."""
    spread = max(max(axis) - min(axis) for axis in zip(*points, strict=True))
    small, large = sorted(max(map(abs, axis)) for axis in zip(*points, strict=True))
    return 0 < spread < 1 and small <= 90 and large <= 180
