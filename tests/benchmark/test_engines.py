"""What computes the cells of a benchmark: processes and Ray do the same, and survive workers that die."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hadrl_lightning.benchmark import MAX_RETRIES, Engine, PlanSettings, make_plan, run_cells
from hadrl_lightning.cli import main
from hadrl_lightning.judge import LEAST_KNOWN
from tests.helpers import by_seed, trials

pytestmark = pytest.mark.unchecked

SMALL: dict[str, Any] = {
    "trainer": {"max_epochs": 2},
    "data": {
        "scenario": {"num_users": 3, "decisions_per_episode": 2, "slots_per_decision": 2},
        "num_envs": 2,
        "validation_episodes": 1,
        "test_episodes": 2,
    },
    "planning": {"seed_decisions": 2, "decisions_per_epoch": 2},
}
CLOCKS = ("training_s", "evaluation_s")


def results(folder: Path) -> dict[str, Any]:
    """The result files of a benchmark folder by name, without what a clock says."""
    found = {file.name: json.loads(file.read_text()) for file in (folder / "cells").iterdir()}
    for content in found.values():
        for clock in CLOCKS:
            assert content["result"].pop(clock) >= 0
    return found


@pytest.mark.slow
def test_ray_writes_the_same_files_as_processes_and_either_goes_on_where_the_other_was(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    Path("small.yaml").write_text(json.dumps(SMALL))
    words = ["benchmark", "--config", "small.yaml", "--policies", "twin-ddpg", "random+random"]
    words += ["--seeds", "0", "1", "--no_figures"]
    assert main([*words, "--output", "a"]) == 0
    assert main([*words, "--output", "b", "--workers", "1", "--engine", "ray"]) == 0
    assert len(results(Path("a"))) == 5
    assert results(Path("a")) == results(Path("b"))
    progress = capsys.readouterr().out
    assert progress.count("[5/5]") == 2
    assert main([*words, "--output", "a", "--engine", "ray"]) == 0
    assert "[5/5] computed before" in capsys.readouterr().out


@pytest.mark.parametrize(
    "engine",
    [pytest.param("processes", marks=pytest.mark.whole), pytest.param("ray", marks=pytest.mark.slow)],
)
def test_a_cell_whose_worker_dies_is_tried_again_and_costs_no_other(engine: Engine, tmp_path: Path) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    plan = make_plan(PlanSettings(policies=("random+random",), seeds=(0, 1, 2, 3), overrides=SMALL))
    folder, tried = tmp_path / "benchmark", tmp_path / "tried"
    tried.mkdir()
    outcomes = run_cells(plan.cells, folder, 2, engine=engine, compute=functools.partial(by_seed, tried))
    assert trials(tried) == {
        "random+random-0": 2,
        "random+random-1": 1 + MAX_RETRIES,
        "random+random-2": 1,
        "random+random-3": 1,
        f"{LEAST_KNOWN}-None": 1,
    }
    by_name = {(outcome.cell.policy, outcome.cell.seed): outcome for outcome in outcomes.values()}
    failed = {seed: outcome.error for (_, seed), outcome in by_name.items() if outcome.result is None}
    assert sorted(failed) == [1, 2]
    assert failed[2] == "RuntimeError: out of luck"
    lost = "its process died 3 times, at last with exit code 7"
    assert (lost if engine == "processes" else "WorkerCrashedError") in failed[1]
    file = by_name["random+random", 1].cell.file(folder)
    assert not file.exists()
    assert file.with_suffix(".failed.txt").read_text().strip().endswith(failed[1])


def test_a_cell_that_failed_before_leaves_no_trace_of_it_once_it_is_computed(tmp_path: Path) -> None:
    plan = make_plan(PlanSettings(policies=(LEAST_KNOWN,), seeds=(0,), overrides=SMALL))
    (cell,) = plan.cells

    def fail(cell: Any) -> Any:
        raise RuntimeError("out of luck")

    run_cells([cell], tmp_path, compute=fail)
    assert [file.suffix for file in (tmp_path / "cells").iterdir()] == [".txt"]
    run_cells([cell], tmp_path)
    assert [file.suffix for file in (tmp_path / "cells").iterdir()] == [".json"]
    run_cells([cell], tmp_path, compute=fail, refresh=True)
    assert [file.suffix for file in (tmp_path / "cells").iterdir()] == [".txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray_address", "auto"], "ray_address must come with --engine ray, got --engine processes"),
        (["--engine", "slurm"], "argument --engine: invalid choice: 'slurm'"),
        (["--engine", "ray", "--workers", "0"], "workers must be at least 1, got 0"),
    ],
)
def test_mistakes_about_engines_get_one_line_and_status_2(
    words: list[str], message: str, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "--policies", LEAST_KNOWN, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_ray_the_extra_is_named_before_anything_is_computed(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["benchmark", "--policies", LEAST_KNOWN, "--engine", "ray"]) == 2
    assert "pip install 'hadrl-lightning[ray]'" in capsys.readouterr().err
    assert not list(in_empty_folder.iterdir())


@pytest.mark.parametrize("address", ["nowhere", "http://127.0.0.1:1"])
def test_an_address_without_a_cluster_is_refused_in_one_line(
    address: str, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    words = ["benchmark", "--policies", LEAST_KNOWN, "--seeds", "0", "--episodes", "1", "--no_figures"]
    assert main([*words, "--engine", "ray", "--ray_address", address]) == 2
    error = capsys.readouterr().err
    assert f"ray_address must be of a cluster, got '{address}'" in error
    assert error.count("\n") == 1
