"""Replay memory for networks of several sizes: rows of several shapes, first in first out over all of them."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

import torch
from jaxtyping import Int64
from torch import Tensor

from hadrl_lightning.data.replay import ReplayBuffer, row_bytes
from hadrl_lightning.simulator.rows import AnyRows, Rows

Shapes = tuple[tuple[int, ...], ...]
"""Of one row of every tensor, in their order."""


@dataclass(eq=False)
class Numbered(Rows):
    """Rows, and how many rows of all shapes had been added before each."""

    rows: Any
    number: Int64[Tensor, "*rows"]


class SizedReplay(Generic[AnyRows]):
    """The newest rows of one kind in several shapes: a `ReplayBuffer` for each shape.

    Rows of all shapes together are no more than `capacity`, and take no more than `num_bytes` of memory: the oldest
    ones make room, whatever their shape. The same additions and the same generator give the same samples, also across
    `state_dict` and `load_state_dict`.

    Args:
        num_bytes: memory of all rows at most; the newest row is kept however large it is.
        capacity: rows kept at most.
        like: rows of the kind that is kept, none are enough: of whatever shapes.

    Raises:
        ValueError: `capacity` below 1.
    """

    def __init__(self, num_bytes: float, capacity: int, like: AnyRows) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity = capacity
        self.num_bytes = num_bytes
        self.like = like[:0]
        """Says what the rows are like, but for their shapes."""
        self.clear()

    def clear(self) -> None:
        """Forgets every row; numbers start at 0 again."""
        self.buffers: dict[Shapes, ReplayBuffer[Numbered]] = {}
        """The rows of each shape."""
        self._runs: deque[tuple[Shapes, int]] = (
            deque()
        )  # rows in the order in which they came: shape and count
        self._added = 0
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self.buffers.values()))

    @property
    def num_added(self) -> int:
        """Rows added so far, those that are forgotten included."""
        return self._added

    @property
    def nbytes(self) -> int:
        """Bytes of memory reserved for rows."""
        return sum(buffer.nbytes for buffer in self.buffers.values())

    @property
    def parts(self) -> list[ReplayBuffer[Numbered]]:
        """The buffers of all shapes."""
        return list(self.buffers.values())

    def add(self, rows: AnyRows) -> None:
        """Appends rows of one shape; the oldest rows make room.

        Args:
            rows: detached and converted here.

        Raises:
            ValueError: a tensor is missing or unknown, or they have different numbers of rows.
        """
        names, known = (tuple(name for name, _ in one.tensors()) for one in (rows, self.like))
        if names != known:
            raise ValueError(f"rows must have {', '.join(known)}, got {', '.join(names)}")
        number = torch.arange(self._added, self._added + len(rows), device=rows.device)
        self._take(Numbered(rows, number)[-self.capacity :])
        self._added += len(rows)
        self._forget_oldest()

    def sample(self, num_rows: int, generator: torch.Generator) -> AnyRows:
        """`num_rows` rows of one shape, drawn uniformly with replacement; every row is as likely to be among them.

        Raises:
            ValueError: the buffer is empty.
        """
        if not len(self):
            raise ValueError("the replay buffer must hold at least 1 row to sample from, got 0")
        count = torch.tensor([len(part) for part in self.parts])
        drawn = torch.randint(len(self), (1,), generator=generator, device=generator.device).cpu()
        which = int(torch.searchsorted(count.cumsum(0), drawn, right=True))
        return self.parts[which].sample(num_rows, generator).rows

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the rows kept, shape by shape; loads with `weights_only`."""
        return {"parts": [part.state_dict() for part in self.parts], "added": self._added}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces all rows by those of `state`; a smaller buffer keeps the newest.

        Raises:
            ValueError: the tensors of `state` are not those of this buffer; nothing is changed then.
        """
        if "parts" not in state:
            raise ValueError("rows must be of several shapes, got those of one")
        loaded = [self._numbered(dict(part["fields"]))[-self.capacity :] for part in state["parts"]]
        self.clear()
        for rows in loaded:
            self._take(rows)
        self._runs = self._runs_of(loaded)
        self._added = int(state["added"])
        self._forget_oldest()

    def _numbered(self, fields: dict[str, Tensor]) -> Numbered:
        like = Numbered(self.like, torch.zeros(0, dtype=torch.int64))
        names = [name for name, _ in like.tensors()]
        if names != list(fields):
            raise ValueError(f"rows must have {', '.join(names)}, got {', '.join(fields)}")
        return like.filled(fields.values())

    def _take(self, rows: Numbered) -> None:
        shapes = _shapes(rows)
        if not len(rows):
            return
        if shapes not in self.buffers:
            self.buffers[shapes] = ReplayBuffer(2 * self.capacity, rows)  # until the oldest are forgotten
        self.buffers[shapes].add(rows)
        self._bytes += len(rows) * row_bytes(rows)
        if self._runs and self._runs[-1][0] == shapes:
            self._runs[-1] = (shapes, self._runs[-1][1] + len(rows))
        else:
            self._runs.append((shapes, len(rows)))

    def _forget_oldest(self) -> None:
        """Down to `capacity` rows, and to half the memory: buffers reserve up to twice what they hold."""
        while len(self._runs):
            shapes, count = self._runs[0]
            part = self.buffers[shapes]
            size = row_bytes(part.like)
            over = max(len(self) - self.capacity, int(-(-(2 * self._bytes - self.num_bytes) // (2 * size))))
            newest = len(self._runs) == 1
            forgotten = min(over, count - 1 if newest else count)
            if forgotten <= 0:
                return
            part.forget(forgotten)
            self._bytes -= forgotten * size
            self._runs[0] = (shapes, count - forgotten)
            if forgotten == count:
                self._runs.popleft()
            if not len(part):
                del self.buffers[shapes]

    @staticmethod
    def _runs_of(loaded: list[Numbered]) -> deque[tuple[Shapes, int]]:
        if not loaded:
            return deque()
        which = torch.cat([torch.full((len(rows),), place) for place, rows in enumerate(loaded)])
        order = torch.cat([rows.number for rows in loaded]).argsort()
        place, count = torch.unique_consecutive(which[order], return_counts=True)
        kinds = [_shapes(rows) for rows in loaded]
        return deque((kinds[one], number) for one, number in zip(place.tolist(), count.tolist(), strict=True))


def _shapes(rows: Rows) -> Shapes:
    return tuple(tuple(value.shape[1:]) for _, value in rows.tensors())
