"""Does a long training stay flat? Memory, time an epoch and files over 2,000 epochs of `hadrl fit`, in one process.

    OMP_NUM_THREADS=1 python benchmarks/soak.py                          # trains, judges, draws runs/soak.png
    python benchmarks/soak.py --judge runs/soak.csv              # judges what was measured before

It trains through the command line, with progress bar, checkpoints, TensorBoard events, metrics.csv and validations.
The settings are those of es2.yaml and quick.yaml; what only sets the price of an epoch is smaller (`SMALLER`), and the
replay buffers are so small that they are full long before the part that is judged: a buffer grows until it is full.

Judged are the last three quarters, by a straight line through means over 50 epochs. The status is 1 if memory or time
rise by more than noise: the line's 95 % confidence interval lies above 0, and the rise over the judged epochs is more
than `TOLERANCE` of the level; or if last.ckpt grows, or a log file grows faster than a row an epoch.
Needs hadrl-lightning[baselines,plots].
"""

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from scipy.stats import linregress

from hadrl_lightning.cli import main as hadrl
from hadrl_lightning.judge import student
from hadrl_lightning.plots.style import COLOURS, PAGE_IN, style

SMALLER = {
    "data.scenario.decisions_per_episode": 2,  # a validation plays whole episodes
    "data.samples_per_pass": 64,
    "planning.decisions_per_epoch": 2,
    "model.planner.share_steps": 2,
    "model.planner.target_sweeps": 1,
    "data.offloading_memory": 2000,  # full after 50 epochs of 4 networks x 2 decisions x 5 slots
    "data.caching_memory": 400,  # full after 50 epochs of 4 networks x 2 decisions
}
"""Settings in place of those of es2.yaml and quick.yaml."""
TOLERANCE = {"rss_mib": 0.01, "blocks": 0.01, "cpu_s": 0.05, "wall_s": 0.05, "last_ckpt_kib": 0.01}
"""A rise over the judged epochs that is less than this share of the level is none, whatever the interval says."""
WARM_UP = 0.25
"""Share of the epochs that is not judged: buffers fill, allocators and caches settle."""
BLOCK = 50
"""Epochs whose mean is one point of the line."""


class Recorder(Callback):
    """Writes a row an epoch: what the process holds, what the epoch before took, and how large the run's files are.

    Args:
        output: the CSV file.
    """

    def __init__(self, output: str) -> None:
        self.output = Path(output)
        self.before: tuple[float, float] | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything of the epoch before is done and logged."""
        now = (time.perf_counter(), time.process_time())
        before, self.before = self.before, now
        if before is None:
            return
        row = {
            "epoch": trainer.current_epoch,
            "rss_mib": round(resident_bytes() / 2**20, 3),
            "blocks": sys.getallocatedblocks(),
            "wall_s": round(now[0] - before[0], 5),
            "cpu_s": round(now[1] - before[1], 5),
            **file_sizes(Path(trainer.log_dir or ".")),
        }
        new = not self.output.exists()
        with self.output.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


def resident_bytes() -> int:
    """Memory that this process has in RAM, in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def file_sizes(folder: Path) -> dict[str, Any]:
    """Sizes of the files of a run in KiB, and how many there are."""
    sizes = {file.name: file.stat().st_size / 1024 for file in folder.iterdir()}
    events = sum(size for name, size in sizes.items() if name.startswith("events."))
    return {
        "last_ckpt_kib": round(sizes.get("last.ckpt", 0), 2),
        "metrics_kib": round(sizes.get("metrics.csv", 0), 2),
        "events_kib": round(events, 2),
        "files": len(sizes),
    }


def train(epochs: int, output: Path) -> None:
    """Train in this process, in a folder that is thrown away."""
    output.unlink(missing_ok=True)
    words = ["fit", "--config", "es2.yaml", "--config", "quick.yaml", "--trainer.max_epochs", str(epochs)]
    words += [word for key, value in SMALLER.items() for word in (f"--{key}", str(value))]
    words += ["--trainer.callbacks+=soak.Recorder", f"--trainer.callbacks.output={output.absolute()}"]
    with tempfile.TemporaryDirectory() as folder:
        status = hadrl([*words, "--trainer.default_root_dir", folder])
    if status:
        sys.exit(status)


class Trend(NamedTuple):
    """A straight line through a column over the judged epochs."""

    level: float
    """Mean."""
    slope: float
    """Per epoch."""
    half: float
    """Half of the slope's 95 % confidence interval."""
    epochs: int
    """How many were judged."""

    @property
    def rise(self) -> float:
        """Over the judged epochs, as a share of the level."""
        return self.slope * self.epochs / self.level


def trend(values: np.ndarray) -> Trend:
    """The line through the means of blocks of consecutive epochs.

    Neighbouring epochs are not independent (memory stays where it is, validations come every other epoch): means over
    blocks nearly are.
    """
    size = min(BLOCK, max(1, len(values) // 8))
    count = len(values) // size
    means = values[-count * size :].reshape(count, size).mean(axis=1)
    line = linregress((np.arange(count) + 0.5) * size, means)
    half = student(float(line.slope), float(line.stderr), count - 2).half
    return Trend(float(means.mean()), float(line.slope), half, count * size)


def judge(columns: dict[str, np.ndarray]) -> Iterator[tuple[str, str, bool]]:
    """What there is to say of every column: its name, the finding, whether it is well."""
    first = int(WARM_UP * len(columns["epoch"]))
    for name, tolerance in TOLERANCE.items():
        found = trend(columns[name][first:])
        rises = found.slope > found.half and found.rise > tolerance
        text = (
            f"{found.level:12,.4g} mean {found.slope:+11.3g} ± {found.half:.2g} an epoch  "
            f"{found.rise:+7.2%} over {found.epochs} epochs (allowed {tolerance:.0%})"
        )
        yield name, text, not rises
    for name in ("metrics_kib", "events_kib"):
        sizes = columns[name][first:]
        halves = np.diff(sizes[[0, len(sizes) // 2, len(sizes) // 2 * 2 - 1]]) / (len(sizes) // 2)
        text = f"{columns[name][-1]:12,.4g} KiB  {halves[0]:.3f} KiB an epoch, then {halves[1]:.3f}"
        yield name, text, bool(halves[1] <= 1.1 * halves[0])
    files = columns["files"][first:]
    yield (
        "files",
        f"{files[-1]:12.0f} in the run's folder, {files.min():.0f} to {files.max():.0f}",
        files[-1] <= files[0] + 1,
    )


def draw(columns: dict[str, np.ndarray], path: Path) -> None:
    """The columns over epochs; the part that is judged is not grey."""
    panels: list[tuple[str, list[tuple[str, str]]]] = [
        ("resident memory (MiB)", [("rss_mib", "resident memory")]),
        ("time an epoch (s)", [("wall_s", "wall"), ("cpu_s", "CPU")]),
        ("Python's memory blocks (1,000)", [("blocks", "blocks")]),
        (
            "files (KiB)",
            [("last_ckpt_kib", "last.ckpt"), ("events_kib", "events"), ("metrics_kib", "metrics.csv")],
        ),
    ]
    epoch = columns["epoch"]
    with style() as plt:
        figure, grid = plt.subplots(2, 2, figsize=(PAGE_IN, 4.2), sharex=True)
        for axes, (label, lines) in zip(grid.flat, panels, strict=True):
            axes.axvspan(0, WARM_UP * epoch[-1], color="#eeeeee", zorder=0)
            for index, (name, title) in enumerate(lines):
                values = columns[name] / (1000 if name == "blocks" else 1)
                look = {"color": COLOURS[index], "linestyle": ("-", "--", ":")[index], "label": title}
                if name in ("wall_s", "cpu_s"):
                    axes.plot(epoch, values, ".", markersize=1, alpha=0.25, color=COLOURS[index])
                    values = running_median(values)
                axes.plot(epoch, values, **look)
            axes.set_ylabel(label)
            if lines[0][0] != "rss_mib":  # its little rises and falls would not be seen
                axes.set_ylim(bottom=0)
            if len(lines) > 1:
                axes.legend()
        top = np.quantile(columns["wall_s"], 0.99) * 1.3
        grid.flat[1].set_ylim(0, top)
        for axes in grid[1]:
            axes.set_xlabel("epoch (grey: not judged)")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def running_median(values: np.ndarray) -> np.ndarray:
    """Median over the `BLOCK` epochs around each."""
    half = BLOCK // 2
    padded = np.pad(values, (half, BLOCK - half - 1), mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, BLOCK), axis=1)


def read(path: Path) -> dict[str, np.ndarray]:
    """The columns of what `Recorder` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def main() -> int:
    """Measure, judge, draw; 1 if something rises."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=2000, help="at least 100 (default: %(default)s)")
    parser.add_argument("--judge", type=Path, metavar="CSV", help="measured before: don't train")
    parser.add_argument("--csv", type=Path, default=Path("runs/soak.csv"), help="default: %(default)s")
    parser.add_argument("--figure", type=Path, default=Path("runs/soak.png"), help="default: %(default)s")
    options = parser.parse_args()
    if options.epochs < 100:
        parser.error(f"--epochs must be at least 100, got {options.epochs}")
    if options.judge is None:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        train(options.epochs, options.csv)
    columns = read(options.judge or options.csv)
    well = True
    for name, text, good in judge(columns):
        well &= bool(good)
        print(f"{name:14}{text}  {'flat' if good else 'RISES'}")
    draw(columns, options.figure)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
