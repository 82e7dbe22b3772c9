"""Views as vectors and back, for flat agents and for Gymnasium: the one place that knows the layout.

The fields of a view stand one behind the other in their order, each row-major and in its scale, but for those that the
published layout has not (`Field.in_vector`).
"""

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.fields import View, fields_of, vector_fields_of

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
