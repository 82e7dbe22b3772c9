"""The whole system: training stops, resumes and is judged; Lightning's promises hold."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hadrl_lightning.callbacks.references import random_policies
from hadrl_lightning.cli import main
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.play import episode_scores, run_episode
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import Use
from tests.helpers import assert_same

pytestmark = pytest.mark.unchecked

QUICK = ["--config", "es2.yaml", "--config", "quick.yaml"]
SMALL = [
    "--data.scenario.decisions_per_episode=3",
    "--data.num_envs=2",
    "--data.passes_per_epoch=2",
    "--data.samples_per_pass=64",
    "--data.validation_episodes=1",
    "--data.test_episodes=1",
    "--planning.seed_decisions=3",
    "--planning.decisions_per_epoch=3",
    "--trainer.check_val_every_n_epoch=1",
    "--evaluation.references=false",
]
"""Fewer numbers than quick.yaml, the same parts."""


def fit(*words: str) -> None:
    assert main(["fit", *QUICK, *SMALL, *words]) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three epochs, never interrupted, as version_0."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["hadrl"])
        fit("--trainer.max_epochs=3")
    return folder


@pytest.fixture
def in_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the folder of the finished run."""
    monkeypatch.chdir(finished)
    monkeypatch.setattr(sys, "argv", ["hadrl"])
    return finished


def last_version() -> int:
    return max(int(path.name.removeprefix("version_")) for path in Path("checkpoints/es2-quick").iterdir())


def checkpoint(name: str = "last.ckpt", version: int = 0) -> dict:
    path = Path(f"checkpoints/es2-quick/version_{version}") / name
    return torch.load(path, map_location="cpu", weights_only=True)


def rows(version: int = 0) -> list[dict[str, str]]:
    with Path(f"checkpoints/es2-quick/version_{version}/metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("stop", "ckpt_path"), [(1, "PATH"), pytest.param(2, "last", marks=pytest.mark.whole)]
)
def test_a_run_stopped_after_any_epoch_and_resumed_equals_the_uninterrupted_one(
    in_run: Path, stop: int, ckpt_path: str
) -> None:
    fit(f"--trainer.max_epochs={stop}")
    version = last_version()
    path = f"checkpoints/es2-quick/version_{version}/last.ckpt" if ckpt_path == "PATH" else ckpt_path
    fit("--trainer.max_epochs=3", "--ckpt_path", path)
    version += 1
    assert last_version() == version  # more epochs than were asked for at first: a folder of its own
    whole, parts = checkpoint(version=0), checkpoint(version=version)
    for part in ("state_dict", "optimizer_states", "TransitionDataModule"):
        key = next(name for name in whole if name.endswith(part))
        assert_same(whole[key], parts[key], part)
    assert_same(whole["callbacks"]["CEMPlanning"], parts["callbacks"]["CEMPlanning"])
    assert rows(0) == rows(version)


@pytest.mark.filterwarnings("ignore:weights. none")
@pytest.mark.parametrize("slow_level", ["lookahead", "set"])
def test_fit_learns(slow_level: str, in_empty_folder: Path) -> None:
    """What `hadrl fit` has trained beats its own start and random decisions by far, at both levels.

    Untrained the look ahead knows how users share servers, and holds what is asked for most: latency alone is to gain.
    """
    words = ["--config", "es2.yaml", "--config", "quick.yaml", "--data.scenario.num_users=8"]
    words += ["--data.scenario.cache_bytes=60GiB", "--data.validation_episodes=1", "--data.test_episodes=4"]
    words += ["--planning.decisions_per_epoch=6", "--data.caching_updates_per_epoch=30"]
    words += ["--evaluation.references=false", "--data.scenario.decisions_per_episode=5"]
    words += [f"--model.slow_level={slow_level}"]
    assert main(["fit", *words]) == 0
    # with weights that nothing has taught: of the kind that ships, it would be the agent that ships
    assert main(["test", *words, "--model.set_world_model.hidden_size=31"]) == 0
    files = Path("checkpoints/es2-quick/version_0/test-best.csv"), *Path().rglob("untrained/test*.csv")
    fitted, start = (next(csv.DictReader(file.read_text().splitlines())) for file in files)
    scenario = Scenario(num_users=8, cache_bytes=60 * GIB, decisions_per_episode=5)
    networks = EpisodeStream(scenario, "strict", 4, 4, 2002, Use.TEST_NETWORKS).networks(0)
    drawn = episode_scores(run_episode(networks, *random_policies("strict")))
    latency, hits = (float(fitted[f"test/{name}"]) for name in ("latency", "hit_ratio"))
    assert latency < (0.9 if slow_level == "lookahead" else 0.3) * float(start["test/latency"])
    assert latency < 0.3 * float(drawn.latency.mean())
    if slow_level == "set":
        assert 1 - hits < 0.5 * (1 - float(start["test/hit_ratio"]))
    assert hits > float(drawn.hit_ratio.mean()) + 0.2


@pytest.mark.whole
def test_another_seed_gives_another_run(in_run: Path) -> None:
    fit("--trainer.max_epochs=1", "--data.seed=6")
    assert rows(0)[0] != rows(last_version())[0]


def test_a_checkpoint_holds_the_best_validation_and_the_end(in_run: Path) -> None:
    latencies = [float(row["val/latency"]) for row in rows() if row.get("val/latency")]
    assert len(latencies) == 3
    best = min(range(3), key=latencies.__getitem__)
    assert checkpoint("best.ckpt")["epoch"] == best
    assert checkpoint("last.ckpt")["epoch"] == 2


def test_metrics_are_logged_against_environment_slots(in_run: Path) -> None:
    steps = [int(row["step"]) for row in rows() if row.get("train/world_model/total")]
    frame = 5 * 2  # slots of a decision * networks
    assert steps == [3 * frame, 6 * frame, 9 * frame]
    expected = {
        "collect/free_energy",
        "collect/pragmatic",
        "collect/epistemic",
        "collect/elite_spread",
        "collect/caching_noise",
        "collect/offloading_noise",
        "collect/offloading_reward",
        "collect/caching_reward",
        "collect/frame_error",
        "val/hit_ratio",
        "val/latency",
        "val/latency_p95",
    }
    assert expected <= set(rows()[0])


def test_caching_decisions_of_the_warm_up_are_not_learnt_from(in_run: Path) -> None:
    (data,) = (value for key, value in checkpoint().items() if key.endswith("TransitionDataModule"))
    stored = data["ranks"][0]["caching_buffer"]["fields"]["reward"]
    assert len(stored) == 2 * 3 * 2  # quick.yaml warms up for 1 of 3 epochs; 3 decisions each, 2 networks
    assert data["ranks"][0]["decisions"] == 3 * 3 * 2


@pytest.mark.whole
def test_training_and_planning_work_in_bf16(in_run: Path) -> None:
    fit("--trainer.max_epochs=2", "--trainer.precision=bf16-mixed")
    state = checkpoint(version=last_version())["state_dict"]
    assert all(value.isfinite().all() for name, value in state.items() if "best_reward" not in name)


def test_the_published_models_train_and_plan_too(in_run: Path) -> None:
    words = ["--config", "es2.yaml", "--config", "published.yaml", "--config", "quick.yaml", *SMALL]
    tiny = [
        "--model.world_model.ensemble_size=3",
        "--model.world_model.hidden_size=16",
        "--model.planner.plan_horizon=2",
    ]
    assert main(["fit", *words, *tiny, "--trainer.max_epochs=2"]) == 0
    state = torch.load("checkpoints/es2-published-quick/version_0/last.ckpt", weights_only=True)["state_dict"]
    assert "world_model.dynamics.first.weight" in state


def test_predict_writes_a_row_for_every_user_and_slot(
    in_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "checkpoints/es2-quick/version_0/last.ckpt"
    assert main(["predict", "--ckpt_path", path, "--data.predict_episodes=2"]) == 0
    folder = Path(
        "checkpoints/es2-quick/version_0/predict-last-1"
    )  # the run's own number of episodes is another
    with (folder / "settings.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"data.predict_episodes": "2"}]
    written = ("decisions.csv", "caches.csv", "switching.csv", "columns.md", "scenario.yaml")
    assert f"Outputs: {', '.join(f'{folder}/{name}' for name in written)}\n" in capsys.readouterr().out
    with (folder / "decisions.csv").open(newline="") as file:
        decisions = list(csv.DictReader(file))
    assert len(decisions) == 2 * 15 * 30
    assert {row["server"] for row in decisions} <= {"0", "1"}
    shares: dict[tuple[str, str, str], float] = {}
    for row in decisions:
        key = (row["episode"], row["slot"], row["server"])
        shares[key] = shares.get(key, 0.0) + float(row["bandwidth_share"])
    assert all(share == pytest.approx(1, abs=1e-3) for share in shares.values())
    with (folder / "caches.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 3 * 2


def test_the_test_command_shows_the_agent_beside_the_references(
    in_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--ckpt_path", "checkpoints/es2-quick/version_0/last.ckpt", "--evaluation.references=true"]
    assert main(["test", *words]) == 0
    shown = capsys.readouterr().out
    for name in (
        "HADRL",
        "random, both levels",
        "home, equal, same caches",
        "best known, same caches",
        "least known",
    ):
        assert name in shown


def test_structured_agents_act_for_other_numbers_of_users_without_retraining(
    in_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "checkpoints/es2-quick/version_0/last.ckpt"
    assert main(["test", "--ckpt_path", path, "--data.scenario.num_users=45"]) == 0
    assert "HADRL" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_of_another_scenario_is_refused_in_one_line(
    in_run: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", "es3.yaml", "--ckpt_path", "checkpoints/es2-quick/version_0/last.ckpt"]
    flat = ["--model.fast_level=flat"] if command == "test" else []
    assert main([command, *words, *flat]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "scenario" in error


@pytest.mark.whole
def test_two_processes_explore_differently_and_agree_on_weights(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "helpers/ranks.py"
    done = subprocess.run(
        [sys.executable, str(script), "explore"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(script.parents[2])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees") == 2, done.stdout + done.stderr


@pytest.mark.parametrize("key", ["planning.planner", "model.planner"])
def test_a_value_out_of_range_is_refused_by_its_dotted_name(
    in_empty_folder: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", "es2.yaml", f"--{key}.optimisation_iters", "0"]) == 2
    assert capsys.readouterr().err == f"hadrl: error: {key}.optimisation_iters must be at least 1, got 0\n"
    assert not Path("checkpoints").exists()
