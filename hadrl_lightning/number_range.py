"""`Range`: numbers of a scenario that every network draws for itself."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hadrl_lightning.errors import shown
from hadrl_lightning.limits import as_floats


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
            raise ValueError(
                f"{name} must have low and high, and of {', '.join(known[2:])}, got {shown(value)}"
            )
        try:
            return cls(**value)
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from error

    def number(self, part: float) -> float:
        """The number that is such a part of the way, from 0 (`low`) to 1 (`high`)."""
        if self.log:
            return min(max(self.low * (self.high / self.low) ** part, self.low), self.high)
        return min(max(self.low + (self.high - self.low) * part, self.low), self.high)

    def numbers(self, parts: Sequence[float]) -> tuple[float, ...]:
        """`number` of each part; of the first one for all where they are alike."""
        return tuple(self.number(parts[0] if self.alike else part) for part in parts)


# `Range.of` says what is wrong with what users give: a run-time type checker in front of it would only hide that.
setattr(Range.__init__, "__no_type_check__", True)  # noqa: B010
