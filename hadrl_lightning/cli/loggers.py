"""Loggers that share one folder and continue in it when a run is resumed."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ..files import replacing, writing

Row = dict[str, Any]


class Rows(NamedTuple):
    """What a resumed run keeps of the file that is there."""

    number: int = 0
    """Rows that were written when the checkpoint was saved."""

    pending: Row | None = None
    """The row that was due right after it; in the file or not, by the moment at which the run ended."""


class EventsLogger(TensorBoardLogger):
    """TensorBoard events without the hparams.yaml beside them: config.yaml has it all."""

    @rank_zero_only
    def save(self) -> None:
        """Write what is pending to disk.

        Raises:
            OutputError: the disk is full.
        """
        with writing(self.log_dir):
            self.experiment.flush()


class MetricsLogger(CSVLogger):
    """One CSV file of metrics that survives an interruption.

    Every row is on disk as soon as it is logged. Of a file that is there the first rows are kept, so that a run which
    is resumed ends with the file of a run which was never interrupted.

    Args:
        folder: Where the file lies, all of its own logger's folder.
        file_name: Name of the file.
        kept: What stays of a file that is there.
    """

    def __init__(self, folder: Path, file_name: str, kept: Rows = Rows()) -> None:  # noqa: B008 (immutable)
        """See the class."""
        super().__init__(save_dir=folder.parent, name="", version=folder.name)
        self.file_name = file_name
        self.kept = kept
        self.current_epoch: Callable[[], int] | None = None

    @property
    def num_rows(self) -> int:
        """Rows in the file so far, those of before an interruption included."""
        return self._experiment.num_rows if isinstance(self._experiment, _MetricsWriter) else 0

    @property
    def experiment(self) -> Any:
        """The writer of the file; a dummy on ranks other than 0."""
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._experiment = _MetricsWriter(Path(self.log_dir), self.file_name, self.kept)
        return self._experiment if self._experiment is not None else super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append a row, with the epoch it belongs to.

        Raises:
            OutputError: the disk is full.
        """
        if self.current_epoch is not None:
            metrics = {"epoch": self.current_epoch(), **metrics}
        super().log_metrics(metrics, step)
        self.save()

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing: config.yaml has them all."""


class _MetricsWriter(ExperimentWriter):
    """Writes rows; begins with what is kept of an existing file."""

    def __init__(self, folder: Path, file_name: str, kept: Rows) -> None:
        self.NAME_METRICS_FILE = file_name
        self._kept = kept
        self.num_rows = 0
        with writing(folder / file_name):
            super().__init__(str(folder))

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics_dict, step)
        self.num_rows += 1

    def save(self) -> None:
        """Append the rows that were logged since the last time."""
        with writing(self.metrics_file_path):
            super().save()

    def _check_log_dir_exists(self) -> None:
        """Called by the base class before its first row: there it deletes the file."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        rows = _read(path)[: self._kept.number]
        if self._kept.pending is not None and len(rows) == self._kept.number:
            rows.append(self._kept.pending)
        self.num_rows = len(rows)
        self.metrics_keys = sorted(
            {key for row in rows for key, cell in row.items() if key and cell not in ("", None)}
        )
        if rows:
            self._replace(rows)
        else:
            path.unlink()

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Called by the base class when a row has new columns: there an interruption would cost the file."""
        self._replace(_read(Path(self.metrics_file_path)))

    def _replace(self, rows: list[Row]) -> None:
        with (
            replacing(self.metrics_file_path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


def _read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
