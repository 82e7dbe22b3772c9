"""A cell: one policy in one scenario with one seed, known by a hash of everything that determines it; its result, what
becomes of it when it is computed, and how it is stored.
"""

import hashlib
import json
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.files import replacing
from hadrl_lightning.process import one_thread

FORMAT = 3
"""Raised when cells computed before must not be used any more: other contents, or episodes that are drawn otherwise."""
MAX_RETRIES = 2
"""How often a cell is tried again whose worker died. One that raises an exception would raise it again."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is to be computed."""

    policy: str
    """Name of the policy."""
    settings: dict[str, Any]
    """All that the policy and its judgement depend on, as plain values (see `plan.cell_settings`)."""
    seed: int | None
    """Seed of training and of the policy's draws; None where nothing is drawn: one computation serves all seeds."""

    @property
    def key(self) -> str:
        """Hash of the contents: equal for equal cells, in any process."""
        return _hash([FORMAT, asdict(self)])

    @property
    def training_key(self) -> str | None:
        """Hash of the training that cells of several scenarios share; None where a cell has all to itself."""
        if "training" not in self.settings:
            return None
        own = [self.settings["modules"]] if "modules" in self.settings else []
        return _hash([FORMAT, self.settings["training"], self.settings["physics"], self.seed, *own])

    def training_file(self, folder: Path) -> Path:
        """Where what they share lies in a benchmark folder."""
        return folder / "trainings" / f"{Path(self.policy).stem}-{self.training_key}.ckpt"

    def file(self, folder: Path) -> Path:
        """Where the result of this cell lies in a benchmark folder."""
        return folder / "cells" / f"{Path(self.policy).stem}-{self.key}.json"


def _hash(contents: Any) -> str:
    text = json.dumps(contents, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """What came out. Latencies are summed over users, in s."""

    scores: dict[str, float]
    """Mean over the test episodes: hit_ratio, latency, latency_p95, on_time, energy (J; under other physics
    `energy_dbm_s`), switching (s a caching
    decision), bandwidth_over_subscription, compute_over_subscription, own_best_known (latency of the best known
    decisions under this policy's caches); `optimal_hit_ratio`, what any caches allow; and under the caches of least
    latency `exact_caches`, 1 if they are the optimum, 0 if a local search found them. A score that makes no sense is
    left out."""
    episodes: dict[str, list[float]]
    """The scores that exist episode by episode, in the same order for all policies."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Validations while training, fields of `judge.Validation` each."""
    slots: int = 0
    """Slots trained on, over all networks that collect."""
    training_s: float = 0.0
    """Wall time of training in s, its validations included."""
    evaluation_s: float = 0.0
    """Wall time of the test episodes in s."""
    wall_s: float = 0.0
    """Wall time of all of it in s: making or reading the policy, training, test episodes, and what they are held
    against; 0 in results of before it was noted."""
    held: list[list[float]] = field(default_factory=list)
    """[S][K], the share of the frames of all test episodes in which a server held a service; empty where no caches were
    played, where networks differ in size, and in results of before it was noted."""
    decision_ms: dict[str, float] = field(default_factory=dict)
    """Wall time of decisions, by the names of `judge.TIMES`: as it happened to be, so no score. This and what follows
    are empty in results of before they were noted."""
    task_quantiles: list[float] = field(default_factory=list)
    """Quantiles 0, 0.01, …, 1 of the latency of all tasks of all test episodes in s; empty where there was none."""
    around_changes: dict[str, list[float]] = field(default_factory=dict)
    """`judge.AroundChanges` by name, mean over all changes of all test episodes; empty where nothing changed."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of what computed it."""

    @property
    def figure(self) -> str:
        """What its scores call the cost by the preferences of the scenario: see `Preferences.figure`."""
        return "cost" if "cost" in self.scores else "latency"

    @property
    def cost(self) -> float:
        """By the preferences of the scenario: by default the latency in s."""
        return self.scores.get(self.figure, math.nan)

    @property
    def episode_costs(self) -> list[float]:
        """The same of every episode."""
        return self.episodes[self.figure]


def read_result(cell: Cell, folder: Path) -> CellResult | None:
    """The result of a cell computed earlier; None where there is none or its file is damaged."""
    return result_in(cell.file(folder))


def result_in(file: Path) -> CellResult | None:
    """The result in a file; None where there is none or it is damaged."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return CellResult(**stored["result"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_result(cell: Cell, result: CellResult, folder: Path) -> None:
    """Store a result under the cell's key, with seven significant digits.

    The file is whole or not there, whatever interrupts the writing.
    """
    text = json.dumps({"cell": asdict(cell), "result": rounded(asdict(result))}, separators=(",", ":"))
    with replacing(cell.file(folder)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """The same plain value with seven significant digits, which is all that there is of a 32-bit number."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


Compute = Callable[[Cell], CellResult]


class Attempt(NamedTuple):
    """What computing a cell led to."""

    result: CellResult | None
    """None if it failed."""
    failure: str = ""
    """One line of what a user can mend, the traceback of anything else, or how its worker ended."""


Attempts = Iterator[tuple[Cell, Attempt]]
"""What an engine yields: every cell once, in the order in which they are done."""


class Outcome(NamedTuple):
    """What became of a cell."""

    cell: Cell
    result: CellResult | None
    """None if it failed."""
    error: str = ""
    """The last line of what went wrong; the rest is in the file `.failed.txt` beside the cell's."""
    reused: bool = False
    """It was computed earlier."""


def attempt(cell: Cell, compute: Compute) -> Attempt:
    """Compute a cell, with one thread of torch. An exception is a failure of this cell only."""
    try:
        with one_thread():
            return Attempt(compute(cell))
    except HadrlError as error:
        return Attempt(None, str(error))
    except Exception:
        return Attempt(None, traceback.format_exc())


def stored(cell: Cell, folder: Path, archived: Mapping[str, CellResult]) -> Outcome | None:
    """The outcome of a cell that was computed earlier, by its file or by the archive; None if there is none."""
    result = read_result(cell, folder) or archived.get(cell.key)
    return None if result is None else Outcome(cell, result, reused=True)


def store(cell: Cell, tried: Attempt, folder: Path) -> Outcome:
    """Write the result, or what went wrong, in place of what is there."""
    file = cell.file(folder)
    failed = file.with_suffix(".failed.txt")
    if tried.result is not None:
        write_result(cell, tried.result, folder)
        failed.unlink(missing_ok=True)
        return Outcome(cell, tried.result)
    file.unlink(missing_ok=True)
    failed.parent.mkdir(parents=True, exist_ok=True)
    failed.write_text(tried.failure.rstrip() + "\n", encoding="utf-8")
    return Outcome(cell, None, error=tried.failure.strip().splitlines()[-1])
