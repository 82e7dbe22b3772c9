"""What a rank holds: consecutive items of some that all ranks share."""

from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable


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
