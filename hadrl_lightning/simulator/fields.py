"""What a number of a view is: the one place that says its axes, unit, scale and limits.

A view is a dataclass of tensors whose fields are declared by `number`. Vectors, bounds and checks are made from these
declarations.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hadrl_lightning.scenario import Scenario

if TYPE_CHECKING:
    from typing import Self
else:  # a type checker at run time meets the annotations of methods apart from their class
    Self = Any

SERVER, SERVICE, USER = "server", "service", "user"
"""Axes of fields."""
_KEY = "number"
_FIELDS: "dict[type, tuple[Field, ...]]" = {}


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a view."""

    name: str = ""
    axes: tuple[str, ...]
    """What its dimensions stand for, from the first one behind the batch."""
    text: str
    """What it is, in words; {} stands for the index of the entry."""
    unit: str = ""
    """Of the field; empty for pure numbers."""
    scale: float = 1.0
    """What 1 in a vector stands for, in the unit."""
    first: int = 0
    """What index 0 is in a vector, for fields that are indices."""
    dtype: torch.dtype | None = None
    """`torch.bool` or `torch.long`; None for the number format of the network."""
    whole: bool = False
    """Whether only whole numbers make sense."""
    of: str | None = None
    """The axis of which it is an index, if it is one."""
    low: float = 0.0
    """Least value, where the physics says nothing of it."""
    high: float = math.inf
    """Largest value, where the physics says nothing of it."""

    def shape(self, scenario: Scenario) -> tuple[int, ...]:
        """Of one row."""
        return tuple(sizes(scenario)[axis] for axis in self.axes)

    def size(self, scenario: Scenario) -> int:
        """Entries of one row."""
        count = 1
        for length in self.shape(scenario):
            count *= length
        return count

    def scaled(self, value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """As numbers of a vector."""
        if self.first:
            value = value + self.first
        if not value.is_floating_point():
            return value.to(dtype or torch.get_default_dtype())
        return value / self.scale if self.scale != 1 else value

    def unscaled(self, value: Tensor) -> Tensor:
        """From the numbers of a vector; whatever is no whole number becomes the nearest one where only those are."""
        if self.dtype is not None:
            value = value.nan_to_num(self.first).round()
            return (value - self.first).to(self.dtype)
        return value * self.scale if self.scale != 1 else value


def sizes(scenario: Scenario) -> dict[str, int]:
    """Length of every axis."""
    return {SERVER: scenario.num_servers, SERVICE: scenario.num_services, USER: scenario.num_users}


def number(*axes: str, text: str, **more: Any) -> dict[str, Field]:
    """What declares a field of a view, as its metadata; arguments as of `Field`."""
    return {_KEY: Field(axes=axes, text=text, **more)}


def fields_of(view: type) -> tuple[Field, ...]:
    """The fields of a view in their order."""
    known = _FIELDS.get(view)
    if known is None:
        declared = [(one.name, one.metadata[_KEY]) for one in fields(view) if _KEY in one.metadata]
        known = _FIELDS[view] = tuple(replace(one, name=name) for name, one in declared)
    return known


class View:
    """Tensors by name, with the same rows: what a level sees of B networks. Subclasses are dataclasses."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors."""
        for one in fields_of(type(self)):
            yield one.name, getattr(self, one.name)

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The view with every tensor changed alike."""
        return type(self)(**{name: change(value) for name, value in self.tensors()})

    def to(self, *place: Any, **more: Any) -> Self:
        """The view on another device."""
        return self.map(lambda value: value.to(*place, **more))

    def __getitem__(self, rows: Any) -> Self:
        return self.map(lambda value: value[rows])

    def __len__(self) -> int:
        return len(next(value for _, value in self.tensors()))
