"""A cell: one policy in one scenario with one seed. Plain data, known by a hash of everything that determines it."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hadrl_lightning.files import replacing

FORMAT = 2
"""Raised when cells computed before must not be used any more: other contents, or episodes that are drawn otherwise."""


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
        text = json.dumps([FORMAT, asdict(self)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def file(self, folder: Path) -> Path:
        """Where the result of this cell lies in a benchmark folder."""
        return folder / "cells" / f"{Path(self.policy).stem}-{self.key}.json"


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
    versions: dict[str, str] = field(default_factory=dict)
    """Of what computed it."""


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
