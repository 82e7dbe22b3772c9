"""Tensors by name that have the same rows: what views and transitions are."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from typing import Self
else:  # a type checker at run time meets the annotations of methods apart from their class
    Self = Any

AnyRows = TypeVar("AnyRows", bound="Rows")


@dataclass(eq=False)
class Rows:
    """Tensors by name, with the same rows as their first dimensions; a field may be rows too, or None.

    Subclasses are dataclasses. What is done to rows is done to all their tensors alike.
    """

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors in their order; what is nested has a name with a dot, such as `view.cache`."""
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Rows):
                yield from ((f"{one.name}.{name}", tensor) for name, tensor in value.tensors())
            elif value is not None:
                yield one.name, value

    def filled(self, tensors: Iterable[Tensor]) -> Self:
        """Rows of the same kind with other tensors, which come in the order of `tensors()`."""
        rest = iter(tensors)

        def other(value: Any) -> Any:
            if isinstance(value, Rows):
                return value.filled(rest)
            return None if value is None else next(rest)

        return replace(self, **{one.name: other(getattr(self, one.name)) for one in fields(self)})

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The rows with every tensor changed alike."""
        return self.filled(change(value) for _, value in self.tensors())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The rows on another device, and their real numbers in another format."""
        return self.map(
            lambda value: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        )

    def clone(self) -> Self:
        """The rows in memory of their own."""
        return self.map(torch.clone)

    def split(self, size: int) -> list[Self]:
        """Parts of `size` rows; the last one has the rest."""
        return [self[first : first + size] for first in range(0, len(self), size)]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(value.device for _, value in self.tensors())

    @property
    def dtype(self) -> torch.dtype:
        """The format of the real numbers; the default one where there are none."""
        formats = (value.dtype for _, value in self.tensors() if value.is_floating_point())
        return next(formats, torch.get_default_dtype())

    def __getitem__(self, rows: Any) -> Self:
        return self.map(lambda value: value[rows])

    def __len__(self) -> int:
        return len(next(value for _, value in self.tensors()))


def stacked(parts: Sequence[AnyRows]) -> AnyRows:
    """Rows of one kind along a new first dimension."""
    return _joined(torch.stack, parts)


def concatenated(parts: Sequence[AnyRows]) -> AnyRows:
    """The rows of some of one kind, one after the other."""
    return _joined(torch.cat, parts)


def kinds_of(parts: Sequence[Tensor]) -> tuple[Int[Tensor, " kind"], Int[Tensor, " batch"]]:
    """The first row of each kind, and which kind each row is of: rows are alike that are so in all of these numbers."""
    key = torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)
    _, kind = torch.unique(key, dim=0, return_inverse=True)
    first = torch.full((int(kind.max()) + 1,), len(key), device=kind.device)
    return first.scatter_reduce(0, kind, torch.arange(len(key), device=kind.device), "amin"), kind


def _joined(join: Callable[[list[Tensor]], Tensor], parts: Sequence[AnyRows]) -> AnyRows:
    columns = zip(*(part.tensors() for part in parts), strict=True)
    return parts[0].filled(join([value for _, value in column]) for column in columns)
