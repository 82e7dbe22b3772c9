"""Loggers that share one folder and continue in it when a run is resumed."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ..files import replacing

Row = dict[str, str]
KeepRow = Callable[[int, Row], bool]


class EventsLogger(TensorBoardLogger):
    """TensorBoard events without the hparams.yaml beside them: config.yaml has it all."""

    @rank_zero_only
    def save(self) -> None:
        """Write what is pending to disk."""
        self.experiment.flush()


class MetricsLogger(CSVLogger):
    """One CSV file of metrics that survives an interruption.

    Every row is on disk as soon as it is logged. If the file exists, its rows are kept as far as `keep_row` says, so
    that a run which is resumed ends with the file of a run which was never interrupted.

    Args:
        folder: Where the file lies, all of its own logger's folder.
        file_name: Name of the file.
        keep_row: Tells, from its number and its cells, whether a row of an existing file stays; none does if None.
    """

    def __init__(self, folder: Path, file_name: str, keep_row: KeepRow | None = None) -> None:
        """See the class."""
        super().__init__(save_dir=folder.parent, name="", version=folder.name)
        self.file_name = file_name
        self.keep_row = keep_row or (lambda number, row: False)
        self.current_epoch: Callable[[], int] | None = None

    @property
    def num_rows(self) -> int:
        """Rows in the file so far, those of before an interruption included."""
        return self._experiment.num_rows if isinstance(self._experiment, _MetricsWriter) else 0

    @property
    def experiment(self) -> Any:
        """The writer of the file; a dummy on ranks other than 0."""
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._experiment = _MetricsWriter(Path(self.log_dir), self.file_name, self.keep_row)
        return self._experiment if self._experiment is not None else super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append a row, with the epoch it belongs to."""
        if self.current_epoch is not None:
            metrics = {"epoch": self.current_epoch(), **metrics}
        super().log_metrics(metrics, step)
        self.save()

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing: config.yaml has them all."""


class _MetricsWriter(ExperimentWriter):
    """Writes rows; begins with what `keep_row` keeps of an existing file."""

    def __init__(self, folder: Path, file_name: str, keep_row: KeepRow) -> None:
        self.NAME_METRICS_FILE = file_name
        self._keep_row = keep_row
        self.num_rows = 0
        super().__init__(str(folder))

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics_dict, step)
        self.num_rows += 1

    def _check_log_dir_exists(self) -> None:
        """Called by the base class before its first row: there it deletes the file."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        kept = [row for number, row in enumerate(rows) if self._keep_row(number, row)]
        self.num_rows = len(kept)
        self.metrics_keys = sorted({key for row in kept for key, cell in row.items() if key and cell})
        if not kept:
            path.unlink()
            return
        with replacing(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)


def rows_before(checkpoint: dict[str, Any], num_rows: int) -> KeepRow:
    """Which rows of metrics.csv a run resumed from `checkpoint` keeps.

    Kept are the rows that were written when the checkpoint was saved, and the rows of the epochs that had then ended:
    Lightning logs the last row of an epoch after the checkpoint of its end.

    Args:
        checkpoint: As loaded from the file.
        num_rows: Rows that were written when it was saved.
    """
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
    num_epochs = progress.get("processed", 0)

    def keep(number: int, row: Row) -> bool:
        return number < num_rows or float(row.get("epoch") or "inf") < num_epochs

    return keep
