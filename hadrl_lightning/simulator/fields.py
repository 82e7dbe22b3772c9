"""What a number of a view is: the one place that says its axes, unit, scale and limits; and views as vectors and back.

A view is a dataclass of tensors whose fields are declared by `number`. Vectors, bounds and checks are made from these
declarations. In a vector, for flat agents and for Gymnasium, the fields of a view stand one behind the other in their
order, each row-major and in its scale, but for those that the published layout has not (`Field.in_vector`).
"""

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.errors import shown
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.rows import Rows

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
    in_vector: bool = True
    """Whether it is part of vectors."""
    constant: str = ""
    """Of a field that is not: the scenario's constant that it is; empty for what vectors say nothing of."""
    usual: float | None = None
    """What it is where nobody tells; None: it has to be told, and is 0 where a vector can't."""
    beyond: int = 0
    """Of a field of servers: entries behind them, of targets that are no servers (`View.beyond`)."""
    in_token: bool = True
    """Whether a latency may depend on it: it then is part of the tokens of structured models."""

    def shape(self, scenario: Scenario) -> tuple[int, ...]:
        """Of one row."""
        lengths = sizes(scenario)
        return tuple(lengths[axis] + (self.beyond if axis == SERVER else 0) for axis in self.axes)

    def size(self, scenario: Scenario) -> int:
        """Entries of one row."""
        count = 1
        for length in self.shape(scenario):
            count *= length
        return count

    def tensor(self, value: Any) -> Tensor:
        """Plain numbers as a tensor with a dimension of networks.

        Raises:
            ValueError: they are no numbers, of another shape, or not whole where they have to be.
        """
        try:
            numbers = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self.name} must be an array of real numbers, got {shown(value)}") from error
        if numbers.is_complex():
            raise ValueError(f"{self.name} must be an array of real numbers, got {numbers.dtype}")
        real = numbers if numbers.is_floating_point() else numbers.to(torch.get_default_dtype())
        if numbers.ndim == len(self.axes):
            numbers, real = numbers[None], real[None]
        if numbers.ndim != len(self.axes) + 1:
            one, several = (", ".join(axes) for axes in (self.axes, ("networks", *self.axes)))
            raise ValueError(f"{self.name} must have shape [{one}] or [{several}], got {list(numbers.shape)}")
        if self.dtype is None:
            return real.to(torch.get_default_dtype())
        least, most = (0.0, 1.0) if self.dtype == torch.bool else (-math.inf, math.inf)
        wrong = ~((real == real.round()) & (real >= least) & (real <= most))
        if bool(wrong.any()):
            words = "0 or 1" if self.dtype == torch.bool else "whole numbers"
            raise ValueError(f"{self.name} must be {words}, got {float(real[wrong][0]):g}")
        return numbers.to(self.dtype)

    def limits(self, lengths: dict[str, int], below_zero: bool) -> tuple[float, float]:
        """Least and largest value of an entry that the declaration allows, for these lengths of axes."""
        if self.dtype == torch.bool:
            return 0.0, 1.0
        if self.of is not None:
            return 0.0, lengths[self.of] - 1.0
        return -math.inf if below_zero else self.low, self.high

    def scaled(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """As numbers of a vector, in this format if they are indices or flags."""
        if self.dtype is not None:
            return (value + self.first if self.first else value).to(dtype)
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
        beyond = getattr(view, "beyond", 0)
        known = _FIELDS[view] = tuple(replace(one, name=name, beyond=beyond) for name, one in declared)
    return known


def vector_fields_of(view: type) -> tuple[Field, ...]:
    """Those of the fields of a view that are part of vectors."""
    return tuple(one for one in fields_of(view) if one.in_vector)


@dataclass(eq=False)
class View(Rows):
    """What a level sees of B networks. Subclasses are dataclasses whose fields `number` declares."""

    beyond: ClassVar[int] = 0
    """Targets that are no servers, which fields of servers have behind them."""

    @classmethod
    def of(cls, **values: Any) -> Self:
        """The view of some networks from lists, arrays or tensors.

        Args:
            values: every field of the view by its name, in SI units, services and servers counted from 0; of several
                networks, or of one without the dimension of networks, which then becomes a batch of one. Fields that
                have a usual value may be left out.

        Raises:
            ValueError: a field is missing, is unknown, is no array of numbers, has another shape than its axes say or
                than the other fields, or has numbers that are not whole where they have to be.
        """
        declared = {one.name: one for one in fields_of(cls)}
        for name in (*declared, *values):
            if name not in declared:
                raise ValueError(f"{name} must be one of {', '.join(declared)}")
            if name not in values and declared[name].usual is None:
                raise ValueError(f"{name} must be given")
        given = {name: one.tensor(values[name]) for name, one in declared.items() if name in values}
        lengths, rows = _lengths([(declared[name], list(value.shape)) for name, value in given.items()])
        for name, one in declared.items():
            if name not in given and one.usual is not None:
                given[name] = torch.full(
                    (*rows, *[lengths[axis] for axis in one.axes]), one.usual, dtype=one.dtype
                )
        return cls(**given)

    @classmethod
    def none(cls, scenario: Scenario) -> Self:
        """No rows of a scenario, to say what its views are like."""
        empty = {one.name: torch.zeros(0, *one.shape(scenario), dtype=one.dtype) for one in fields_of(cls)}
        return cls(**empty)

    def sizes(self) -> dict[str, int]:
        """Length of every axis.

        Raises:
            ValueError: two fields differ in it, or in their rows.
        """
        return _lengths([(one, list(getattr(self, one.name).shape)) for one in fields_of(type(self))])[0]


def _lengths(shapes: list[tuple[Field, list[int]]]) -> tuple[dict[str, int], list[int]]:
    """Length of every axis of some fields with these shapes, and the shape of their rows.

    Raises:
        ValueError: two fields differ in it, or in their rows.
    """
    lengths: dict[str, int] = {}
    rows: list[int] | None = None
    for one, shape in shapes:
        leading = shape[: max(0, len(shape) - len(one.axes))]
        if len(shape) < len(one.axes) or rows not in (None, leading):
            expected = ", ".join(map(str, (*(["…"] if rows is None else rows), *one.axes)))
            raise ValueError(f"{one.name} must have shape [{expected}], got {shape}")
        rows = leading
        for axis, length in zip(one.axes, shape[len(rows) :], strict=True):
            if lengths.setdefault(axis, length) != length:
                raise ValueError(f"{one.name} must be of {lengths[axis]} {axis}s, got {length}")
    return lengths, rows or []


AnyView = TypeVar("AnyView", bound=View)
Seen = View | Tensor
"""What an agent sees: a view or, for a flat agent, numbers without names."""


def vector_size(view: type[View], scenario: Scenario) -> int:
    """Numbers of the vector of a view."""
    return sum([field.size(scenario) for field in vector_fields_of(view)])


def to_vector(seen: Seen) -> Float[Tensor, "*rows number"]:
    """A view as a vector, in the format of its real numbers; a vector stays one."""
    if not isinstance(seen, View):
        return seen
    parts, dtype = [], seen.dtype
    for field in vector_fields_of(type(seen)):
        value: Tensor = getattr(seen, field.name)
        value = field.scaled(value, dtype)
        parts.append(value.flatten(value.ndim - len(field.axes)))
    return torch.cat(parts, dim=-1)


def from_vector(view: type[AnyView], vector: Float[Tensor, "*rows number"], scenario: Scenario) -> AnyView:
    """The view of a vector.

    Raises:
        ValueError: the vector has another size.
    """
    expected = vector_size(view, scenario)
    if vector.ndim < 1 or vector.shape[-1] != expected:
        raise ValueError(f"observation must have shape [..., {expected}], got {list(vector.shape)}")
    fields = vector_fields_of(view)
    parts = vector.split([field.size(scenario) for field in fields], dim=-1)
    values = {
        field.name: field.unscaled(part.unflatten(-1, field.shape(scenario)))
        for field, part in zip(fields, parts, strict=True)
    }
    for field in fields_of(view):
        if not field.in_vector:
            known = (
                getattr(scenario, field.constant)
                if field.constant
                else torch.full(field.shape(scenario), field.usual or 0.0)
            )
            constant = torch.as_tensor(known, dtype=torch.float64).to(vector)
            values[field.name] = constant.expand(*vector.shape[:-1], *constant.shape)
    return view(**values)
