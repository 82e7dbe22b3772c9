"""What several tests use: published settings made smaller, scripts on several ranks, workers that die, sameness."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hadrl_lightning.benchmark import Cell, CellResult, compute, plan
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.config_files import load_config
from hadrl_lightning.planning import PlannerSettings

TESTS = Path(__file__).parent


def published_planner(**changes: Any) -> PlannerSettings:
    """The planner of `published.yaml` with other numbers; the information gain by its bounds."""
    settings = load_config("published.yaml")["model"]["planner"]
    return PlannerSettings(**{**settings, "information_estimator": "bounded", **changes})


def published_collection(**changes: Any) -> CEMPlanning:
    """The collection of `published.yaml` with other numbers."""
    return CEMPlanning(**{**load_config("published.yaml")["planning"], **changes})


def torchrun(ranks: int, script: str, *words: str) -> str:
    """Runs a script of this folder on gloo ranks of this machine, a thread each, and returns what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = subprocess.run(
        [*command, str(TESTS / script), *words],
        cwd=TESTS.parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def by_seed(folder: Path, cell: Cell) -> CellResult:
    """Seed 0 computes at the second trial, its worker is killed before; seed 1 always ends it; seed 2 raises."""
    name = f"{cell.policy}-{cell.seed}"
    with (folder / name).open("a") as file:
        file.write("tried\n")
    if cell.seed == 0 and trials(folder)[name] < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.seed == 1:
        os._exit(7)
    if cell.seed == 2:
        raise RuntimeError("out of luck")
    return compute(cell)


def trials(folder: Path) -> dict[str, int]:
    """How often each cell was tried."""
    return {file.name: len(file.read_text().splitlines()) for file in folder.iterdir()}


read_in_full, known = plan._checked, dict[str, Any]()


@pytest.fixture
def each_settings_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads what plans of benchmarks have for settings once in all tests: that takes a second, and a cell a tenth."""

    def checked(settings: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(settings, sort_keys=True)
        if text not in known:
            known[text] = read_in_full(settings)
        return copy.deepcopy(known[text])

    monkeypatch.setattr(plan, "_checked", checked)


def assert_same(first: object, second: object, where: str = "") -> None:
    """Bit for bit the same nest of tensors and plain values."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key, value in first.items():
            assert_same(value, second[key], f"{where}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, value in enumerate(first):
            assert_same(value, second[index], f"{where}/{index}")
    else:
        assert first == second or (first != first and second != second), where
