"""`Range`: numbers of a scenario that every network draws for itself, and which fields can be given as one."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hadrl_lightning.errors import HadrlWarning, shown
from hadrl_lightning.scenario.limits import BY_COUNT, LISTS, POINTS, SIZES
from hadrl_lightning.typed import as_floats
from hadrl_lightning.units import read_units

RANGED = {
    **dict.fromkeys(
        (
            *SIZES,
            "input_step_bytes",
            "storage_step_bytes",
            "deadline_step_s",
            "zipf_exponent",
            "usable_cache_fraction",
            "backhaul_bytes_per_s",
            "cloud_rate_bit_per_s",
            "cloud_compute_hz",
            "cloud_delay_s",
            "transmit_power_dbm",
            "noise_dbm",
            "path_loss_constant_db",
            "path_loss_slope_db",
            "min_distance_m",
        ),
        "",
    ),
    **LISTS,
    **{name: of for name, of in BY_COUNT.items() if name != "offload_thresholds"},
}
"""Fields that networks can draw from a range, and what each of a network has one number of (positions: two)."""
CAPACITIES = ("num_servers", "compute_hz", "bandwidth_hz", "cache_bytes", "usable_cache_fraction")
"""Those of them that say what a server can do; most others say what is asked of it."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """From where to where the numbers of a field lie, in the unit of the field.

    Raises:
        ValueError: an end is no finite number, they are in the wrong order, or the logarithm of one does not exist.
    """

    low: float
    """The least number."""
    high: float
    """The largest number; at least `low`."""
    log: bool = False
    """Whether every factor is as likely, and not every difference; both ends must be above 0."""
    alike: bool = False
    """Whether all servers or services of a network have the same number, and not each one of its own."""

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = as_floats(getattr(self, name))
            if not isinstance(value, float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {shown(value)}")
            object.__setattr__(self, name, value)
        for name in ("log", "alike"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {shown(getattr(self, name))}")
        if self.high < self.low:
            raise ValueError(f"high must be at least low = {self.low:g}, got {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 where log is true, got {self.low:g}")

    @classmethod
    def of(cls, name: str, value: Any) -> "Range":
        """The range that a setting says: one already, or a mapping of its fields.

        Raises:
            ValueError: the mapping has other fields, lacks one, or the range is not allowed; the line begins with the
                name of the setting.
        """
        if isinstance(value, Range):
            return value
        known = [one.name for one in fields(cls)]
        if not isinstance(value, Mapping) or not {"low", "high"} <= set(value) <= set(known):
            raise ValueError(f"{name} must have low and high, and may have log and alike, got {shown(value)}")
        try:
            return cls(**value)
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from error

    def number(self, part: float) -> float:
        """The number that is such a part of the way, from 0 (`low`) to 1 (`high`)."""
        if self.log:
            return min(max(self.low * (self.high / self.low) ** part, self.low), self.high)
        return min(max(self.low + (self.high - self.low) * part, self.low), self.high)

    def whole(self, part: float) -> int:
        """The whole number that is such a part of the way: each as likely, or by `log` every factor."""
        if self.log:
            return math.floor(self.number(part) + 0.5)
        return min(math.floor(self.low + (self.high - self.low + 1) * part), int(self.high))

    def numbers(self, parts: Sequence[float]) -> tuple[float, ...]:
        """`number` of each part; of the first one for all where they are alike."""
        return tuple(self.number(parts[0] if self.alike else part) for part in parts)


def ranges_given(ranges: Any, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Range]:
    """The ranges of a scenario, by the names of their fields. A number in the place of a range wins over it.

    Args:
        ranges: those that are told as such, by the names of fields.
        values: of all fields, some of them ranges.
        defaults: of all fields.

    Raises:
        ValueError: a range of something that is the same for all networks, or one that `Range.of` refuses.
    """
    if not isinstance(ranges, Mapping):
        raise ValueError(f"ranges must be ranges by the names of fields, got {shown(ranges)}")
    kept: dict[str, Range] = {}
    for name, value in ranges.items():
        if name not in RANGED:
            raise ValueError(f"ranges must be of some of {', '.join(RANGED)}, got {shown(name)}")
        kept[name] = Range.of(name, read_units(value, name))
    for name, value in values.items():
        if is_range(value):
            if name not in RANGED:
                raise ValueError(f"{name} must be the same for all networks, got the range {shown(value)}")
            kept[name] = Range.of(name, read_units(value, name))
        elif name in kept and not _is_middle(name, as_floats(value), kept[name]):
            if value == defaults[name]:  # which someone may not have given
                text = f"{name} is {shown(value)}, which takes the place of its range in ranges"
                warnings.warn(text, HadrlWarning, stacklevel=4)
            del kept[name]
    return kept


def is_range(value: Any) -> bool:
    """Whether the value of a field is a range in place of numbers."""
    return isinstance(value, Mapping | Range)


def middle(name: str, range_: Range, number: int) -> Any:
    """What stands for a range where numbers are shown: the middle; for points some on a line."""
    if name in POINTS:
        line = [range_.number((index + 0.5) / number) for index in range(number)]
        return tuple(zip(line, line, strict=True))
    if name in SIZES:
        return range_.whole(0.5)
    middle = range_.number(0.5)
    return (middle,) * number if RANGED[name] == "num_services" else middle


def _is_middle(name: str, value: Any, range_: Range) -> bool:
    """Whether a value is `middle`, of whatever number of servers, users and services."""
    return value == middle(name, range_, len(value) if isinstance(value, tuple) else 1)


# `Range.of` says what is wrong with what users give: a run-time type checker in front of it would only hide that.
setattr(Range.__init__, "__no_type_check__", True)  # noqa: B010
