"""Shares and exchanges: what of a whole each rank holds, and how ranks put together what each has a part of.

An exchange is called by every rank, in the same order and with the same sizes. Without `torch.distributed` there is one
rank.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, distributed


@runtime_checkable
class HasRows(Protocol):
    """Something with rows: a tensor, or tensors with the same rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


Batch = TypeVar("Batch", bound=HasRows)


class Share(NamedTuple):
    """`count` items from `first` on, of `total`."""

    first: int
    count: int  # type: ignore[assignment]  # of items: a share is no sequence to count in
    total: int

    @staticmethod
    def whole(total: int) -> "Share":
        """All of them."""
        return Share(0, total, total)

    @staticmethod
    def fair(total: int, rank: int, ranks: int) -> "Share":
        """The share of a rank: together they are all items, each once; sizes differ by 1 at most."""
        first, end = (total * r // ranks for r in (rank, rank + 1))
        return Share(first, end - first, total)

    @staticmethod
    def equal(total: int, rank: int, ranks: int) -> "Share":
        """The share of a rank where all must be of one size: the last ones overlap if `ranks` does not divide."""
        count = -(-total // ranks)
        return Share(min(rank * count, total - count), count, total)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self.count == self.total

    @property
    def fraction(self) -> float:
        """Part of all items."""
        return self.count / self.total

    @property
    def items(self) -> slice:
        """Where they lie among all."""
        return slice(self.first, self.first + self.count)


class DataShare(NamedTuple):
    """Which part of each batch a rank takes the gradient of.

    Losses and gradients are *parts* of those of the whole batch: they add up over ranks.
    """

    rank: int = 0
    ranks: int = 1

    def of(self, num_rows: int) -> Share:
        """Rows of this rank; all rows where there are fewer than ranks."""
        if num_rows < self.ranks:
            return Share.whole(num_rows)
        return Share.fair(num_rows, self.rank, self.ranks)

    def weight(self, num_rows: int) -> float:
        """What the mean over the rank's rows counts in the mean over all."""
        return 1 / self.ranks if num_rows < self.ranks else self.of(num_rows).fraction

    def rows(self, batch: Batch) -> Batch:
        """This rank's rows of a batch."""
        return batch[self.of(len(batch)).items]


ALONE = DataShare()
"""The whole batch."""


class ActingAsOne:
    """Mark of a strategy whose ranks do together what one process does: they share networks and train on the same."""


def this_rank() -> DataShare:
    """Number of this rank, and of all."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return DataShare()
    return DataShare(distributed.get_rank(), distributed.get_world_size())


def of_each_rank(own: Any) -> list[Any]:
    """What every rank brings, by rank; anything that can be pickled."""
    ranks: list[Any] = [own] * this_rank().ranks
    if len(ranks) > 1:
        distributed.all_gather_object(ranks, own)
    return ranks


def largest_of_ranks(own: int, device: torch.device) -> int:
    """The largest number that a rank brings; `device` is that of this rank."""
    return own if this_rank().ranks == 1 else int(largest(torch.tensor(int(own), device=device)))


def summed(value: Tensor) -> Tensor:
    """The sum over ranks."""
    return _reduced(value, "SUM")


def largest(value: Tensor) -> Tensor:
    """Of every number the largest over ranks."""
    return _reduced(value, "MAX")


def _reduced(value: Tensor, operation: str) -> Tensor:
    result = value.detach().clone().contiguous()
    if this_rank().ranks > 1:
        distributed.all_reduce(result, getattr(distributed.ReduceOp, operation))
    return result


def whole_rows(rows: Sequence[Tensor], total: int) -> list[Tensor]:
    """All `total` rows of some tensors, of which each rank has its `Share.equal`; exact, in one exchange."""
    every = rows_of_every_rank(rows)
    if this_rank().ranks == 1:
        return every
    count = len(rows[0])
    row = torch.arange(total, device=rows[0].device)
    rank = row // count
    start = torch.clamp(rank * count, max=total - count)
    return [one[rank * count + row - start] for one in every]


def rows_of_every_rank(rows: Sequence[Tensor]) -> list[Tensor]:
    """The rows of rank 0, then those of rank 1, ..., as many each, of some tensors; exact, in one exchange."""
    ranks = this_rank().ranks
    if ranks == 1:
        return list(rows)
    count = len(rows[0])
    # detached, and as bytes, so that tensors of all types travel together
    plain = (row.detach().reshape(count, -1).clone(memory_format=torch.contiguous_format) for row in rows)
    pieces = [row.view(torch.uint8) for row in plain]
    parts = _gathered(torch.cat(pieces, dim=1)).split([piece.shape[1] for piece in pieces], dim=1)
    aligned = (part.clone(memory_format=torch.contiguous_format) for part in parts)
    return [
        part.view(like.dtype).reshape(ranks * count, *like.shape[1:]) for part, like in zip(aligned, rows)
    ]


def _gathered(rows: Tensor) -> Tensor:
    ranks = this_rank().ranks
    every = rows.new_empty(ranks * len(rows), *rows.shape[1:])
    distributed.all_gather(list(every.chunk(ranks)), rows.contiguous())
    return every


class _GatherRows(torch.autograd.Function):
    """The rows of every rank, one after the other; the gradient is the sum of what all ranks made of them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return _gathered(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        rank, ranks = this_rank()
        total = summed(gradients[0])
        count = len(total) // ranks
        return total[rank * count : (rank + 1) * count]


class _Exchange(torch.autograd.Function):
    """Sends `sent[r]` items to each rank r and receives `received[r]` from it; the gradient takes the way back."""

    @staticmethod
    def forward(ctx: Any, items: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sizes = (received, sent)
        return _exchange(items, sent, received)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _exchange(gradients[0], *ctx.sizes), None, None


def _exchange(items: Tensor, sent: list[int], received: list[int]) -> Tensor:
    result = items.new_empty(sum(received), *items.shape[1:])
    distributed.all_to_all_single(result, items.contiguous(), received, sent)
    return result


def actions_of_every_rank(actions: Tensor) -> Tensor:
    """The rows of rank 0, then those of rank 1, ...: as many each; differentiable."""
    return _GatherRows.apply(actions)


def predictions_of_every_member(own: Tensor, counts: list[int]) -> Tensor:
    """What all members say of this rank's rows; differentiable.

    Args:
        own: `[members here, ranks * rows, numbers]`, what this rank's members say of the rows of every rank.
        counts: members at each rank.

    Returns:
        `[members, rows, numbers]`, the members of rank 0 first.
    """
    ranks = len(counts)
    members, num_rows, numbers = own.shape[0], own.shape[1] // ranks, own.shape[2]
    by_rank = own.reshape(members, ranks, num_rows, numbers).transpose(0, 1)
    items = by_rank.reshape(ranks * members, num_rows, numbers)
    return _Exchange.apply(items, [members] * ranks, counts)


def gathered_on_root(own: Tensor, shares: Sequence[Share]) -> Tensor | None:
    """The whole of a tensor whose first dimension the ranks share: on the CPU of rank 0, None elsewhere."""
    rank, ranks = this_rank()
    if rank > 0:
        distributed.send(own.detach().contiguous(), 0)
        return None
    whole = torch.empty(shares[0].total, *own.shape[1:], dtype=own.dtype)
    whole[shares[0].items] = own.detach().cpu()
    for other in range(1, ranks):
        part = own.new_empty(shares[other].count, *own.shape[1:])
        if prod(part.shape):
            distributed.recv(part, other)
        whole[shares[other].items] = part.cpu()
    return whole
