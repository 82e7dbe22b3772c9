"""The whole system: training stops, resumes and is judged; Lightning's promises hold."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hadrl_lightning.cli import main

QUICK = ["--config", "es2.yaml", "--config", "quick.yaml"]
SMALL = [
    "--data.num_envs=2",
    "--data.passes_per_epoch=2",
    "--data.samples_per_pass=64",
    "--data.validation_episodes=1",
    "--data.test_episodes=1",
    "--planning.seed_decisions=3",
    "--planning.decisions_per_epoch=3",
    "--trainer.check_val_every_n_epoch=1",
]
"""Fewer numbers than quick.yaml, the same parts."""


def fit(*words: str) -> None:
    assert main(["fit", *QUICK, *SMALL, *words]) == 0


def checkpoint(name: str = "last.ckpt", version: int = 0) -> dict:
    path = Path(f"checkpoints/es2-quick/version_{version}") / name
    return torch.load(path, map_location="cpu", weights_only=True)


def rows(version: int = 0) -> list[dict[str, str]]:
    with Path(f"checkpoints/es2-quick/version_{version}/metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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


@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_stopped_after_any_epoch_and_resumed_equals_the_uninterrupted_one(
    in_empty_folder: Path, stop: int
) -> None:
    fit("--trainer.max_epochs=3")
    fit(f"--trainer.max_epochs={stop}")
    resumed = "checkpoints/es2-quick/version_1/last.ckpt" if stop == 1 else "last"
    fit("--trainer.max_epochs=3", "--ckpt_path", resumed)
    assert not Path("checkpoints/es2-quick/version_2").exists()
    whole, parts = checkpoint(version=0), checkpoint(version=1)
    for part in ("state_dict", "optimizer_states", "TransitionDataModule"):
        key = next(name for name in whole if name.endswith(part))
        assert_same(whole[key], parts[key], part)
    assert_same(whole["callbacks"]["CEMPlanning"], parts["callbacks"]["CEMPlanning"])
    assert rows(0) == rows(1)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(in_empty_folder: Path) -> None:
    for seed in (5, 5, 6):
        fit("--trainer.max_epochs=2", f"--data.seed={seed}")
    assert_same(checkpoint(version=0)["state_dict"], checkpoint(version=1)["state_dict"])
    assert rows(0) == rows(1)
    assert rows(0) != rows(2)


def test_a_checkpoint_holds_the_best_validation_and_the_end(in_empty_folder: Path) -> None:
    fit("--trainer.max_epochs=3")
    latencies = [float(row["val/latency"]) for row in rows() if row.get("val/latency")]
    assert len(latencies) == 3
    best = min(range(3), key=latencies.__getitem__)
    assert checkpoint("best.ckpt")["epoch"] == best
    assert checkpoint("last.ckpt")["epoch"] == 2


def test_metrics_are_logged_against_environment_slots(in_empty_folder: Path) -> None:
    fit("--trainer.max_epochs=2")
    steps = [int(row["step"]) for row in rows() if row.get("train/world_model/total")]
    assert steps == [3 * 5 * 2, 2 * 3 * 5 * 2]  # decisions * slots a decision * networks
    expected = {
        "collect/free_energy",
        "collect/pragmatic",
        "collect/epistemic",
        "collect/elite_spread",
        "collect/caching_noise",
        "collect/offloading_noise",
        "collect/offloading_reward",
        "collect/caching_reward",
        "val/hit_ratio",
        "val/latency",
        "val/latency_p95",
    }
    assert expected <= set(rows()[0])


def test_training_and_planning_work_in_bf16(in_empty_folder: Path) -> None:
    fit("--trainer.max_epochs=2", "--trainer.precision=bf16-mixed")
    state = checkpoint()["state_dict"]
    assert all(value.isfinite().all() for name, value in state.items() if "best_reward" not in name)


def test_predict_writes_a_row_for_every_user_and_slot(in_empty_folder: Path) -> None:
    fit("--trainer.max_epochs=1")
    assert main(["predict", *QUICK, "--ckpt_path", "last", "--data.predict_episodes=2"]) == 0
    folder = Path("checkpoints/es2-quick/version_0")
    with (folder / "decisions.csv").open(newline="") as file:
        decisions = list(csv.DictReader(file))
    assert len(decisions) == 2 * 50 * 30
    assert {row["server"] for row in decisions} <= {"0", "1"}
    shares: dict[tuple[str, str, str], float] = {}
    for row in decisions:
        key = (row["episode"], row["slot"], row["server"])
        shares[key] = shares.get(key, 0.0) + float(row["bandwidth_share"])
    assert all(share == pytest.approx(1, abs=1e-3) for share in shares.values())
    with (folder / "caches.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 10 * 2


def test_the_test_command_shows_the_agent_beside_the_references(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("--trainer.max_epochs=1")
    capsys.readouterr()
    assert main(["test", *QUICK, "--ckpt_path", "last", "--data.test_episodes=2"]) == 0
    shown = capsys.readouterr().out
    for name in ("HADRL", "random", "home server", "best known"):
        assert name in shown


@pytest.mark.parametrize("scenario", ["es3.yaml", "es4.yaml", "es5.yaml"])
def test_a_checkpoint_of_another_scenario_is_refused_in_one_line(
    in_empty_folder: Path, scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("--trainer.max_epochs=1", "--data.scenario.num_users=10")
    capsys.readouterr()
    path = "checkpoints/es2-quick/version_0/last.ckpt"
    assert main(["fit", "--config", scenario, "--config", "quick.yaml", "--ckpt_path", path]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "scenario" in error


def test_two_processes_explore_differently_and_agree_on_weights(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_processes.py")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees") == 2, done.stdout + done.stderr
