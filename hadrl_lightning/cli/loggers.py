"""Loggers that write into the folder of a run and continue in it when the run is resumed."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from hadrl_lightning.cli.runs import METRICS_FILE, RunFolder
from hadrl_lightning.files import replacing, writing

Row = dict[str, Any]


class Rows(NamedTuple):
    """What a resumed run keeps of the rows that are there."""

    number: int = 0
    """Rows that were written when the checkpoint was saved."""

    pending: Row | None = None
    """The row that was due right after it; in the file or not, by the moment at which the run ended."""


class EventsLogger(TensorBoardLogger):
    """TensorBoard events without the hparams.yaml beside them: config.yaml has it all."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(save_dir=folder.path.parent, name="", default_hp_metric=False)
        self.folder = folder

    @property
    def log_dir(self) -> str:
        """The folder of the run."""
        return str(self.folder.path)

    @property
    def version(self) -> str:
        """Name of the folder."""
        return self.folder.path.name

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log; what the disk refused to TensorBoard's thread comes up here.

        Raises:
            OutputError: the disk is full.
        """
        with writing(self.log_dir):
            super().log_metrics(metrics, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the rest.

        Raises:
            OutputError: the disk is full.
        """
        with writing(self.log_dir):
            super().finalize(status)

    @rank_zero_only
    def save(self) -> None:
        """Write what is pending to disk.

        Raises:
            OutputError: the disk is full.
        """
        with writing(self.log_dir):
            self.experiment.flush()


class MetricsLogger(Logger):
    """metrics.csv: one row a step that is logged, on disk as soon as it is there, so that it survives an interruption.

    Of the file of the run that is resumed the first rows are kept, so that it ends with the file of a run that was
    never interrupted.

    Args:
        folder: where the file lies.
        kept: what is kept of an earlier file.
        earlier: that file, in this folder or that of the run which goes on here.
    """

    def __init__(self, folder: RunFolder, kept: Rows = Rows(), earlier: Path | None = None) -> None:  # noqa: B008 (immutable)
        super().__init__()
        self.folder = folder
        self.kept = kept
        self.earlier = earlier
        self.current_epoch: Callable[[], int] | None = None
        self._columns: list[str] | None = None
        self._num_rows = 0

    @property
    def name(self) -> str:
        """Of the logger."""
        return ""

    @property
    def version(self) -> str:
        """Name of the folder."""
        return self.folder.path.name

    @property
    def save_dir(self) -> str:
        """Where the folders of the runs lie."""
        return str(self.folder.path.parent)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder.path / METRICS_FILE

    @property
    def num_rows(self) -> int:
        """Rows in the file so far, those of before an interruption included; 0 on ranks other than 0."""
        self._begin()
        return self._num_rows

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append a row, with the epoch it belongs to.

        Raises:
            OutputError: the disk is full.
        """
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        if self.current_epoch is not None:
            row = {"epoch": self.current_epoch(), **row}
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        row["step"] = self.num_rows if step is None else step
        self._append(row)

    @rank_zero_only
    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml has them all."""

    @rank_zero_only
    def _begin(self) -> None:
        """Take over what is kept, once."""
        if self._columns is not None:
            return
        rows = _read(self.earlier) if self.earlier is not None else []
        kept = rows[: self.kept.number]
        if self.kept.pending is not None and len(kept) == self.kept.number:
            kept.append(self.kept.pending)
        self._columns = sorted({key for row in kept for key, cell in row.items() if cell not in ("", None)})
        self._num_rows = len(kept)
        if kept:
            self._replace(kept)
        elif rows and self.earlier is not None and self.earlier.absolute() == self.path:
            self.path.unlink()

    def _append(self, row: Row) -> None:
        self._begin()
        assert self._columns is not None
        if set(row) <= set(self._columns):
            with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, fieldnames=self._columns).writerow(row)
        else:
            self._columns = sorted({*self._columns, *row})
            self._replace([*_read(self.path), row])
        self._num_rows += 1

    def _replace(self, rows: list[Row]) -> None:
        """Write the file anew: whatever interrupts it, the whole old file or the whole new one is there."""
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=self._columns or [], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
