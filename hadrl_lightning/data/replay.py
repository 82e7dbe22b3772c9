"""Replay memory: rows of tensors, first in first out."""

from collections.abc import Mapping
from typing import Any, Generic

import torch
from jaxtyping import Integer
from torch import Tensor

from hadrl_lightning.simulator.rows import AnyRows, Rows


def row_bytes(like: Rows) -> int:
    """Bytes that a row of this kind takes; 1 at least."""
    return max(1, sum(value.element_size() * value.shape[1:].numel() for _, value in like.tensors()))


class ReplayBuffer(Generic[AnyRows]):
    """The newest `capacity` rows of one kind, first in first out.

    Row 0 is always the oldest row kept and row `len(buffer) - 1` the newest, whatever the layout in memory,
    so the same additions and the same generator give the same samples, also across `state_dict` and
    `load_state_dict`. Memory is proportional to what is filled: it doubles on demand, up to `capacity` rows.

    Args:
        capacity: rows kept at most.
        like: rows of the kind that is kept, none are enough: every tensor keeps their type and the shape of a row.
        device: where the rows are kept.

    Raises:
        ValueError: `capacity` below 1, or rows without a tensor.
    """

    def __init__(self, capacity: int, like: AnyRows, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity = capacity
        self.device = torch.device(device)
        self.like = like[:0].to(self.device)
        """Says what the rows are like."""
        self._columns = dict(self.like.tensors())
        if not self._columns:
            raise ValueError("like must have at least one tensor, got none")
        self.shapes = {name: tuple(value.shape[1:]) for name, value in self._columns.items()}
        """Shape of one row of every tensor, by its name."""
        self._storage: dict[str, Tensor] = {}
        self.clear()

    @classmethod
    def within(cls, num_bytes: float, capacity: int, like: AnyRows) -> "ReplayBuffer[AnyRows]":
        """One of `capacity` rows, or of as many as take no more than so many bytes; one at least."""
        return cls(max(1, min(capacity, int(num_bytes // row_bytes(like)))), like)

    def __len__(self) -> int:
        return self._size

    @property
    def num_added(self) -> int:
        """Rows added so far, those that are forgotten included: the newest row is number `num_added - 1`."""
        return self._added

    def numbers(self, index: Integer[Tensor, "..."]) -> Integer[Tensor, "..."]:
        """How many rows had been added before each of the rows at `index` (0 = oldest): a row keeps its number."""
        return index + (self._added - self._size)

    @property
    def nbytes(self) -> int:
        """Bytes of memory reserved for rows."""
        return sum(field.nbytes for field in self._storage.values())

    def clear(self) -> None:
        """Forgets every row and gives its memory back; numbers start at 0 again."""
        self._storage = {name: self._empty(name, 0) for name in self.shapes}
        self._allocated = 0  # rows reserved
        self._start = 0  # where the oldest row lies
        self._size = 0
        self._added = 0

    def add(self, rows: AnyRows) -> None:
        """Appends rows; the oldest rows make room. Nothing is changed if a field is wrong.

        Args:
            rows: detached and converted here.

        Raises:
            ValueError: a field is missing, unknown, or not of shape `[n, *shape]` with one `n` for all.
        """
        self._add(dict(rows.tensors()))

    def _add(self, fields: Mapping[str, Tensor]) -> None:
        num_rows = self._check(fields)
        dropped = max(0, num_rows - self.capacity)  # of this very addition
        kept = num_rows - dropped
        self._added += num_rows
        if kept == 0:
            return
        self._reserve(min(self.capacity, self._size + kept))
        positions = (self._start + self._size + torch.arange(kept, device=self.device)) % self._allocated
        for name, values in fields.items():
            stored = self._storage[name]
            stored[positions] = values.detach()[dropped:].to(stored)
        overflow = max(0, self._size + kept - self._allocated)
        self._start = (self._start + overflow) % self._allocated
        self._size = min(self._size + kept, self._allocated)

    def forget(self, num_rows: int) -> None:
        """Drops the oldest rows; memory that is less than half full is given back."""
        num_rows = min(num_rows, self._size)
        self._size -= num_rows
        self._start = (self._start + num_rows) % max(1, self._allocated)
        if 2 * self._size < self._allocated:
            self._move(self._size)

    def gather(self, index: Integer[Tensor, "..."]) -> AnyRows:
        """The rows at `index` (0 = oldest), every tensor of shape `[*index.shape, *shape]`, copied.

        Raises:
            IndexError: an index outside 0 … `len(self) - 1`.
        """
        if index.numel() == 0:
            return self.like.filled(self._empty(name, *index.shape) for name in self.shapes)
        lowest, highest = int(index.min()), int(index.max())
        if lowest < 0 or highest >= self._size:
            raise IndexError(f"index must lie in 0 … {self._size - 1}, got {lowest} … {highest}")
        positions = (self._start + index.to(self.device)) % self._allocated
        return self.like.filled(self._storage[name][positions] for name in self.shapes)

    def sample(self, num_rows: int, generator: torch.Generator) -> AnyRows:
        """`num_rows` rows drawn uniformly with replacement.

        Raises:
            ValueError: the buffer is empty.
        """
        if self._size == 0:
            raise ValueError("the replay buffer must hold at least 1 row to sample from, got 0")
        index = torch.randint(self._size, (num_rows,), generator=generator, device=generator.device)
        return self.gather(index)

    def contents(self) -> AnyRows:
        """All rows from the oldest to the newest, copied."""
        return self.gather(torch.arange(self._size, device=self.device))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the rows kept, oldest first, without reserved memory; loads with `weights_only`."""
        return {"fields": dict(self.contents().tensors()), "added": self._added}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces all rows by those of `state`; a smaller buffer keeps the newest.

        Later additions, samples and numbers are the same as those of the buffer that was saved.

        Raises:
            ValueError: the fields or shapes of `state` are not those of this buffer; nothing is changed then.
        """
        fields = dict(state["fields"])
        self._check(fields)
        self.clear()
        self._add(fields)
        self._added = int(state["added"])

    def _check(self, fields: Mapping[str, Tensor]) -> int:
        for name in self.shapes:
            if name not in fields:
                raise ValueError(f"{name} must be given, got only {', '.join(fields) or 'nothing'}")
        num_rows: int | None = None
        for name, values in fields.items():
            if name not in self.shapes:
                raise ValueError(f"{name} must be one of {', '.join(self.shapes)}")
            shape, found = self.shapes[name], tuple(values.shape)
            wanted = ("n" if num_rows is None else num_rows, *shape)
            if not found or found[1:] != shape or num_rows not in (None, found[0]):
                text = ", ".join(str(size) for size in wanted)
                raise ValueError(f"{name} must have shape [{text}], got {list(found)}")
            num_rows = found[0]
        assert num_rows is not None
        return num_rows

    def _reserve(self, num_rows: int) -> None:
        if num_rows <= self._allocated:
            return
        self._move(min(self.capacity, max(num_rows, 2 * self._allocated)))

    def _move(self, allocated: int) -> None:
        """All rows to memory for so many of them, the oldest first."""
        first = min(self._size, self._allocated - self._start)  # rows up to the end of the old memory
        for name, old in self._storage.items():
            moved = self._empty(name, allocated)
            moved[:first] = old[self._start : self._start + first]
            moved[first : self._size] = old[: self._size - first]
            self._storage[name] = moved
        self._start, self._allocated = 0, allocated

    def _empty(self, name: str, *leading: int) -> Tensor:
        return self._columns[name].new_empty(*leading, *self.shapes[name])
