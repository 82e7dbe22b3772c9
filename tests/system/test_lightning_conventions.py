"""Lightning's conventions: what a Trainer can be asked for works, or is refused in one line; the whole system: training
stops, resumes and is judged.
"""

import ast
import csv
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning import pytorch as lightning_pytorch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from hadrl_lightning.agents import HADRL, SetWorldModel, SetWorldModelSettings, check_trainer
from hadrl_lightning.callbacks import (
    CEMPlanning,
    EpisodeEvaluation,
    EpochMetrics,
    FiniteNumbers,
    RandomState,
    TrainingProgress,
)
from hadrl_lightning.callbacks.references import random_policies
from hadrl_lightning.cli import main
from hadrl_lightning.cli.app import HadrlCLI
from hadrl_lightning.data import EpisodeStream, TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.play import episode_scores, run_episode
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import GIB, Scenario
from hadrl_lightning.simulator import Use
from tests.helpers import assert_same
from tests.helpers.logs import rows_without_times, without_times
from tests.helpers.stand_in import CALLBACKS, files, fit, hadrl, refused, rows, stand_in

pytestmark = pytest.mark.unchecked

__all__ = ["stand_in"]

SCENARIO = Scenario(num_users=3, decisions_per_episode=2)
PLANNER = PlannerSettings(plan_horizon=1, n_candidates=8, top_candidates=2, optimisation_iters=1)


def agent(**settings: Any) -> HADRL:
    return HADRL(
        SCENARIO,
        fast_level="set",
        slow_level="flat",
        planner=PLANNER,
        reset_world_model=False,
        **settings,
    )


def data(**settings: Any) -> TransitionDataModule:
    small = {
        "num_envs": 1,
        "passes_per_epoch": 2,
        "samples_per_pass": 16,
        "batch_size": 8,
        "caching_batch_size": 4,
    }
    small |= {"caching_updates_per_epoch": 2, "validation_episodes": 1, "test_episodes": 2}
    return TransitionDataModule(SCENARIO, **{**small, **settings})


def collecting() -> CEMPlanning:
    return CEMPlanning(seed_decisions=2, decisions_per_epoch=2, caching_warmup_epochs=0)


# --- what can't work


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--trainer.gradient_clip_val=1.5"],
            "trainer.gradient_clip_val must be null, got 1.5: the world model ",
        ),
        (
            ["--trainer.gradient_clip_algorithm=norm"],
            "trainer.gradient_clip_algorithm must be null, got norm: ",
        ),
        (
            ["--trainer.accumulate_grad_batches=2"],
            "trainer.accumulate_grad_batches must be 1, got 2: data.batch",
        ),
        (
            ["--trainer.precision=64-true"],
            "trainer.precision must be 32-true, bf16-mixed or 16-mixed, got 64-true",
        ),
        (
            ["--trainer.precision=bf16-true"],
            "trainer.precision must be 32-true, bf16-mixed or 16-mixed, got bf16",
        ),
        (
            ["--trainer.callbacks=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"],
            "trainer.callbacks must be without StochasticWeightAveraging, which",
        ),
    ],
)
def test_what_a_training_with_its_own_steps_cannot_do_gets_one_line_before_anything_is_written(
    words: list[str], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert refused(capfd, "fit", "--config", "tiny.yaml", *words).startswith(line)


def test_from_python_it_is_refused_too() -> None:
    with pytest.raises(HadrlError, match="precision must be"):
        quiet_trainer(precision="64-true", max_epochs=1).fit(agent(), datamodule=data())
    with pytest.raises(HadrlError, match="without StochasticWeightAveraging"):
        check_trainer(quiet_trainer(callbacks=[StochasticWeightAveraging(swa_lrs=0.1)]))


@pytest.mark.usefixtures("stand_in")
def test_a_damaged_checkpoint_of_any_name_gets_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    Path("broken.ckpt").write_bytes(random.Random(0).randbytes(1000))
    for command in ("fit", "test"):
        line = refused(capfd, command, "--config", "tiny.yaml", "--ckpt_path", "broken.ckpt")
        assert line.startswith("ckpt_path must ")
        assert "got broken.ckpt" in line


# --- half precision


def half(scale: float) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


@pytest.mark.parametrize("plugins", [[], [half(2.0**10)]])
def test_gradients_are_clipped_when_no_scale_is_on_them(
    plugins: list[MixedPrecision], monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []

    class Watched(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            if closure is not None:
                closure()
            gradients = [value.grad for group in self.param_groups for value in group["params"]]
            norms.append(float(torch.nn.utils.get_total_norm([one for one in gradients if one is not None])))
            return super().step()

    def configure(self: SetWorldModel) -> Any:
        return Watched(self.parameters(), lr=self.settings.learning_rate)

    monkeypatch.setattr(SetWorldModel, "configure_optimizers", configure)
    module = agent(set_world_model=SetWorldModelSettings(grad_clip_norm=0.01))
    trainer = quiet_trainer(accelerator="cpu", max_epochs=2, plugins=plugins, callbacks=[collecting()])
    trainer.fit(module, datamodule=data())
    assert len(norms) == 8
    assert norms == pytest.approx([0.01] * 8, rel=1e-3)


def test_an_update_that_is_skipped_in_half_precision_leaves_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner = SetWorldModel.loss

    def broken(self: SetWorldModel, *args: Any) -> Any:
        loss = inner(self, *args)
        return loss._replace(total=loss.total * float("nan"))

    monkeypatch.setattr(SetWorldModel, "loss", broken)
    module, finite = agent(), FiniteNumbers("skip")
    before = {name: value.clone() for name, value in module.world_model.named_parameters()}
    trainer = quiet_trainer(
        accelerator="cpu", max_epochs=1, plugins=[half(2.0**10)], callbacks=[collecting(), finite]
    )
    trainer.fit(module, datamodule=data())
    assert finite.totals == {"loss": 4, "gradient": 0, "plan": 0, "transition": 0}
    after: dict[str, Tensor] = dict(module.world_model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- bars and checkpoints of one's own


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.enable_progress_bar=false"],
        ["--trainer.enable_progress_bar=true", "--trainer.callbacks=TQDMProgressBar"],
        ["--trainer.enable_progress_bar=true"],
    ],
)
def test_there_is_one_progress_bar_at_most_and_it_is_the_one_asked_for(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[str] = []
    monkeypatch.setitem(CALLBACKS, "progress", TrainingProgress)
    monkeypatch.setattr(
        HadrlCLI,
        "_run_subcommand",
        lambda self, _: bars.append(type(self.trainer.progress_bar_callback).__name__),
    )
    fit(*words)
    wanted = (
        "TQDMProgressBar" if len(words) == 2 else "TrainingProgress" if "true" in words[0] else "NoneType"
    )
    assert bars == [wanted]


@pytest.mark.usefixtures("stand_in")
def test_a_run_without_checkpoints_is_tested_as_it_ends() -> None:
    fit("--trainer.enable_checkpointing=false")
    assert not [name for name in files("checkpoints") if name.endswith(".ckpt")]
    assert rows("checkpoints/tiny/version_0/metrics.csv")[-1]["test/latency"]


# --- loggers


class Notes(Logger):
    """A logger of somebody else's, that knows of no folder."""

    logged: ClassVar[list[dict[str, Any]]] = []

    @property
    def name(self) -> str:
        return "notes"

    @property
    def version(self) -> str:
        return "1"

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append({**metrics, "step": step or 0})


OTHERS = {
    "none": "false",
    "csv": "{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: others}}",
    "own": "{class_path: tests.system.test_lightning_conventions.Notes}",
    "several": (
        "[{class_path: TensorBoardLogger, init_args: {save_dir: others}},"
        " {class_path: CSVLogger, init_args: {save_dir: others}}]"
    ),
}


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("logger", OTHERS)
def test_a_run_has_its_folder_with_every_logger(logger: str) -> None:
    words = ["--trainer.logger", OTHERS[logger], "--trainer.max_epochs=1"]
    for number in range(2):
        fit(*words)
        run = f"checkpoints/tiny/version_{number}"
        wanted = {"best.ckpt", "config.yaml", "last.ckpt", "test-best.csv"}
        assert {path.name for path in Path(run).iterdir()} == wanted | (
            set() if logger == "none" else {"metrics.csv"}
        )
        assert float(rows(f"{run}/test-best.csv")[0]["test/latency"]) > 0
    assert not [path for path in Path().iterdir() if path.suffix == ".ckpt"]
    assert hadrl("test", "--ckpt_path", "last") == 0
    assert Path("checkpoints/tiny/version_1/test-last.csv").is_file()
    if logger in ("csv", "several"):
        assert list(Path("others").rglob("metrics.csv"))


@pytest.mark.usefixtures("stand_in")
def test_checkpoints_of_ones_own_lie_in_the_folder_of_the_run_too() -> None:
    own = "{class_path: ModelCheckpoint, init_args: {save_last: true, monitor: val/latency}}"
    fit("--trainer.callbacks", own, "--trainer.max_epochs=2")
    run = Path("checkpoints/tiny/version_0")
    assert {path.name for path in run.glob("*.ckpt")} == {"best.ckpt", "last.ckpt"}
    assert (run / "checkpoints/last.ckpt").is_file()


@pytest.mark.usefixtures("stand_in")
def test_a_dry_run_writes_nothing() -> None:
    before = files()
    fit("--trainer.fast_dev_run=true")
    assert files() == before


# --- from Python


def plain_trainer(folder: Path, **settings: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(**{**quiet, "num_sanity_val_steps": 0, "default_root_dir": folder, **settings})


@pytest.mark.whole
def test_a_test_is_logged_at_the_slots_and_the_epoch_that_the_agent_was_trained_to(tmp_path: Path) -> None:
    module, networks, notes = agent(), data(), Notes()
    notes.logged.clear()
    trainer = plain_trainer(tmp_path, max_epochs=2, logger=notes, check_val_every_n_epoch=1)
    short = CEMPlanning(seed_decisions=2, decisions_per_epoch=2)
    trainer.callbacks += [short, EpisodeEvaluation(references=False)]  # type: ignore[attr-defined]
    before = [value.clone() for value in module.parameters()]
    trainer.fit(module, datamodule=networks)
    assert networks.slots == 4 * SCENARIO.slots_per_decision
    assert any(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    (scores,) = trainer.test(module, datamodule=networks)
    assert scores["test/latency"] > 0
    test = next(row for row in notes.logged if "test/latency" in row)
    assert (test["step"], test["epoch"]) == (networks.slots, 1)

    for file in tmp_path.rglob("*.ckpt"):  # another process: the file says what was learnt from
        again = plain_trainer(tmp_path, logger=notes)
        (stored,) = again.test(agent(), datamodule=data(), ckpt_path=file)
        first, second = without_times(scores), without_times(stored)
        assert {**second, "epoch": 1.0} == {**first, "epoch": 1.0}
        assert stored["step"] == networks.slots
        break
    else:
        raise AssertionError("there is a checkpoint")


def test_a_trainer_lacks_nothing_that_the_command_line_has(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path, max_epochs=1, logger=False, enable_checkpointing=False, fast_dev_run=1)
    trainer.fit(agent(), datamodule=data())
    kinds = {type(one) for one in trainer.callbacks}  # type: ignore[attr-defined]
    assert kinds >= {CEMPlanning, EpisodeEvaluation, FiniteNumbers, RandomState, EpochMetrics}
    assert trainer.callback_metrics["collect/latency"] > 0
    assert trainer.callback_metrics["val/latency"] > 0


def test_judging_without_our_data_says_what_is_missing(tmp_path: Path) -> None:
    networks = data()
    with pytest.raises(
        HadrlError, match="datamodule must be a TransitionDataModule to test with, got NoneType"
    ):
        plain_trainer(tmp_path, logger=False).test(agent(), dataloaders=networks.test_dataloader())


# --- what of Lightning is private

PRIVATE = {
    "_checkpoint_connector",  # a checkpoint whose writing may fail on one rank
    "_logger_connector",  # the row that comes after a checkpoint
    "_first_loop_iter",
    "_batches_that_stepped",
    "_results",  # the means of an unfinished epoch
    "_signal_connector",  # stopping where a resume can go on
    "_sigterm_notifier_fn",
    "_parse_ckpt_path",  # LightningCLI: a checkpoint's settings would win over the command line's
    "_prepare_subcommand_parser",
    "_run_subcommand",
}
"""Every private name of Lightning that the package uses or overrides. It may shrink."""


def test_no_more_of_lightning_that_is_private_is_used_and_what_is_used_is_there(root: Path) -> None:
    assert len(PRIVATE) <= 10
    lightning = Path(lightning_pytorch.__file__).parents[1]
    theirs: set[str] = set()
    for path in [*lightning.glob("pytorch/**/*.py"), *lightning.glob("fabric/**/*.py")]:
        theirs |= set(re.findall(r"(?:def |self\.)(_[a-z]\w+)", path.read_text()))
    assert theirs >= PRIVATE
    used: set[str] = set()
    for path in [*(root / "hadrl_lightning").rglob("*.py"), *(root / "callbacks").glob("*.py")]:
        text = path.read_text()
        if "lightning" not in text:
            continue
        tree = ast.parse(text)
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        own |= _assigned(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                if not of_self or node.attr not in own:
                    used.add(node.attr)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning"):
                used |= {alias.name for alias in node.names if alias.name.startswith("_")}
            elif (
                isinstance(node, ast.FunctionDef)
                and path.name == "app.py"
                and hasattr(LightningCLI, node.name)
            ):
                used.add(node.name)
    assert {name for name in used & theirs if not name.startswith("__")} - OWN <= PRIVATE


OWN = {"_asdict", "_replace", "_make", "_fields", "_actions", "_ddp_params_and_buffers_to_ignore"}
"""Of named tuples, which are public, of argparse, and of PyTorch's DistributedDataParallel."""


def _assigned(tree: ast.AST) -> set[str]:
    """Attributes that a module's classes give themselves."""
    found: set[str] = set()
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            found |= (
                {one.attr for one in ast.walk(target) if isinstance(one, ast.Attribute)} if target else set()
            )
    return found


# --- the whole system

QUICK = ["--config", "es2.yaml", "--config", "quick.yaml"]
SMALL = [
    "--data.scenario.num_users=10",
    "--data.scenario.decisions_per_episode=3",
    "--data.num_envs=2",
    "--data.passes_per_epoch=2",
    "--data.samples_per_pass=64",
    "--data.validation_episodes=1",
    "--data.test_episodes=1",
    *("--model.lookahead.num_starts=1", "--model.lookahead.num_finalists=2"),
    "--planning.seed_decisions=3",
    "--planning.decisions_per_epoch=3",
    "--trainer.check_val_every_n_epoch=1",
    "--evaluation.references=false",
]
"""Fewer numbers than quick.yaml, the same parts."""


def train(*words: str) -> None:
    assert main(["fit", *QUICK, *SMALL, *words]) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of three epochs, never interrupted, as version_0."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["hadrl"])
        train("--trainer.max_epochs=3")
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


def metrics(version: int = 0) -> list[dict[str, str]]:
    """What was logged, without the times that decisions took, which no two runs share."""
    return rows_without_times(Path(f"checkpoints/es2-quick/version_{version}/metrics.csv"))


@pytest.mark.parametrize(
    ("stop", "ckpt_path"), [(1, "PATH"), pytest.param(2, "last", marks=pytest.mark.whole)]
)
def test_a_run_stopped_after_any_epoch_and_resumed_equals_the_uninterrupted_one(
    in_run: Path, stop: int, ckpt_path: str
) -> None:
    train(f"--trainer.max_epochs={stop}")
    version = last_version()
    path = f"checkpoints/es2-quick/version_{version}/last.ckpt" if ckpt_path == "PATH" else ckpt_path
    train("--trainer.max_epochs=3", "--ckpt_path", path)
    version += 1
    assert last_version() == version  # more epochs than were asked for at first: a folder of its own
    whole, parts = checkpoint(version=0), checkpoint(version=version)
    for part in ("state_dict", "optimizer_states", "TransitionDataModule"):
        key = next(name for name in whole if name.endswith(part))
        assert_same(whole[key], parts[key], part)
    assert_same(whole["callbacks"]["CEMPlanning"], parts["callbacks"]["CEMPlanning"])
    assert metrics(0) == metrics(version)


LESS = [
    *("--trainer.max_epochs=2", "--planning.seed_decisions=6", "--planning.decisions_per_epoch=4"),
    *("--model.lookahead.num_starts=1", "--model.lookahead.num_finalists=2"),
]
"""Fewer epochs and decisions than quick.yaml, and searches of fewer caches than usual."""


@pytest.mark.filterwarnings("ignore:weights. none")
@pytest.mark.parametrize(
    ("slow_level", "num_decisions", "num_tests", "less"),
    [
        ("lookahead", 2, 2, LESS),
        pytest.param("lookahead", 5, 4, [], marks=pytest.mark.slow),
        ("set", 3, 2, []),
    ],
)
def test_fit_learns(
    slow_level: str, num_decisions: int, num_tests: int, less: list[str], in_empty_folder: Path
) -> None:
    """What `hadrl fit` has trained beats its own start and random decisions by far, at both levels.

    Untrained the look ahead knows how users share servers, and holds what is asked for most: latency alone is to gain.
    """
    words = ["--config", "es2.yaml", "--config", "quick.yaml", "--data.scenario.num_users=8"]
    words += [
        "--data.scenario.cache_bytes=60GiB",
        "--data.validation_episodes=1",
        f"--data.test_episodes={num_tests}",
    ]
    words += ["--planning.decisions_per_epoch=6", "--data.caching_updates_per_epoch=30"]
    words += ["--evaluation.references=false", f"--data.scenario.decisions_per_episode={num_decisions}"]
    words += [f"--model.slow_level={slow_level}", *less]
    assert main(["fit", *words]) == 0
    # with weights that nothing has taught: of the kind that ships, it would be the agent that ships
    assert main(["test", *words, "--model.set_world_model.hidden_size=31"]) == 0
    files = Path("checkpoints/es2-quick/version_0/test-best.csv"), *Path().rglob("untrained/test*.csv")
    fitted, start = (next(csv.DictReader(file.read_text().splitlines())) for file in files)
    scenario = Scenario(num_users=8, cache_bytes=60 * GIB, decisions_per_episode=num_decisions)
    networks = EpisodeStream(scenario, "strict", num_tests, num_tests, 2002, Use.TEST_NETWORKS).networks(0)
    drawn = episode_scores(run_episode(networks, *random_policies("strict")))
    latency, hits = (float(fitted[f"test/{name}"]) for name in ("latency", "hit_ratio"))
    assert latency < (0.9 if slow_level == "lookahead" else 0.3) * float(start["test/latency"])
    assert latency < 0.3 * float(drawn.latency.mean())
    if slow_level == "set":
        assert 1 - hits < 0.5 * (1 - float(start["test/hit_ratio"]))
    assert hits > float(drawn.hit_ratio.mean()) + 0.2


@pytest.mark.whole
def test_another_seed_gives_another_run(in_run: Path) -> None:
    train("--trainer.max_epochs=1", "--data.seed=6")
    assert metrics(0)[0] != metrics(last_version())[0]


def test_a_checkpoint_holds_the_best_validation_and_the_end(in_run: Path) -> None:
    latencies = [float(row["val/latency"]) for row in metrics() if row.get("val/latency")]
    assert len(latencies) == 3
    best = min(range(3), key=latencies.__getitem__)
    assert checkpoint("best.ckpt")["epoch"] == best
    assert checkpoint("last.ckpt")["epoch"] == 2


def test_metrics_are_logged_against_environment_slots(in_run: Path) -> None:
    steps = [int(row["step"]) for row in metrics() if row.get("train/world_model/total")]
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
    assert expected <= set(metrics()[0])


def test_caching_decisions_of_the_warm_up_are_not_learnt_from(in_run: Path) -> None:
    (data,) = (value for key, value in checkpoint().items() if key.endswith("TransitionDataModule"))
    stored = data["ranks"][0]["caching_buffer"]["fields"]["reward"]
    assert len(stored) == 2 * 3 * 2  # quick.yaml warms up for 1 of 3 epochs; 3 decisions each, 2 networks
    assert data["ranks"][0]["decisions"] == 3 * 3 * 2


@pytest.mark.whole
def test_training_and_planning_work_in_bf16(in_run: Path) -> None:
    train("--trainer.max_epochs=2", "--trainer.precision=bf16-mixed")
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
    assert len(decisions) == 2 * 15 * 10
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
