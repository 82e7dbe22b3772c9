"""The command line as a shell, with a stand-in for model and data: settings, folders, resuming, mistakes."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hadrl_lightning import cli
from hadrl_lightning.cli.checkpoints import AtomicCheckpointIO
from hadrl_lightning.cli.outputs import SETTINGS_FILE, cells, place, write_row
from hadrl_lightning.cli.parser import HadrlParser
from hadrl_lightning.cli.resuming import has_result, read_words
from hadrl_lightning.cli.runs import find_checkpoint, name_of, next_version, reserve_version, run_name
from hadrl_lightning.config_files import find_config, load_config, shipped_configs
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.messages import essence
from tests.helpers.stand_in import (
    QUIET,
    Planning,
    TinySettings,
    files,
    fit,
    hadrl,
    refused,
    rows,
    stand_in,
    trained,
)

__all__ = ["stand_in"]
pytestmark = [pytest.mark.usefixtures("stand_in"), pytest.mark.unchecked]

# --- folders


def test_a_run_writes_settings_events_metrics_and_checkpoints_into_one_folder() -> None:
    trained()
    run = Path("checkpoints/tiny/version_0")
    names = sorted(path.name for path in run.iterdir())
    events = [name for name in names if name.startswith("events.out.tfevents")]
    assert events
    assert [name for name in names if name not in events] == [
        "best.ckpt",
        "config.yaml",
        "last.ckpt",
        "metrics.csv",
        "test-best.csv",
    ]
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["scenario"]["num_users"] == 2
    assert sorted(files("checkpoints")) == sorted(str(run / name) for name in names)


def test_the_next_run_gets_the_next_folder_and_overlays_name_it() -> None:
    trained()
    fit()
    fit("--config", "wide.yaml")
    assert sorted(str(path) for path in Path("checkpoints").glob("*/*")) == [
        "checkpoints/tiny-wide/version_0",
        "checkpoints/tiny/version_0",
        "checkpoints/tiny/version_1",
    ]


def test_the_root_folder_of_the_trainer_holds_the_checkpoints() -> None:
    fit("--trainer.default_root_dir", "elsewhere")
    assert Path("elsewhere/checkpoints/tiny/version_0/last.ckpt").is_file()
    assert hadrl("test", "--ckpt_path", "last", "--trainer.default_root_dir", "elsewhere") == 0
    assert not Path("checkpoints").exists()


def test_two_runs_at_once_never_share_a_folder(tmp_path: Path) -> None:
    assert next_version(tmp_path) == 0
    assert [reserve_version(tmp_path, 0), reserve_version(tmp_path, 0)] == [0, 1]
    assert next_version(tmp_path) == 2


def test_saved_settings_repeat_a_run() -> None:
    trained()
    assert hadrl("fit", "--config", "checkpoints/tiny/version_0/config.yaml") == 0
    assert rows("checkpoints/tiny/version_0/metrics.csv") == rows("checkpoints/tiny/version_1/metrics.csv")


def test_the_model_takes_scenario_and_physics_over_from_the_data() -> None:
    fit("--data.physics", "published")
    settings = torch.load("checkpoints/tiny/version_0/last.ckpt", weights_only=True)["hyper_parameters"]
    assert settings["scenario"]["num_users"] == 2
    assert settings["physics"] == "published"


# --- validate, test, predict


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_other_commands_leave_the_files_of_the_training_alone(command: str) -> None:
    trained()
    before = files("checkpoints")
    assert hadrl(command, "--ckpt_path", "last") == 0
    after = files("checkpoints")
    assert {name: after[name] for name in before} == before
    new = sorted(set(after) - set(before))
    assert new == ([] if command == "predict" else [f"checkpoints/tiny/version_0/{command}-last.csv"])
    if new:
        assert len(rows(new[0])) == 1


def test_what_is_judged_in_other_settings_goes_elsewhere_and_says_in_which(
    capfd: pytest.CaptureFixture[str],
) -> None:
    trained()
    before = files("checkpoints")
    run = "checkpoints/tiny/version_0"
    for envs, name in ((3, "test-best-1"), (4, "test-best-2"), (3, "test-best-1")):
        assert hadrl("test", "--ckpt_path", "best", f"--data.num_envs={envs}") == 0
        assert capfd.readouterr().out.splitlines()[-1] == f"Outputs: {run}/{name}.csv"
        assert rows(f"{run}/{name}.csv")[0]["data.num_envs"] == str(envs)
    after = files("checkpoints")
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == [f"{run}/test-best-{number}.csv" for number in (1, 2)]
    assert hadrl("test", "--ckpt_path", "best") == 0  # refreshes its own file
    assert capfd.readouterr().out.splitlines()[-1] == f"Outputs: {run}/test-best.csv"
    assert "data.num_envs" not in rows(f"{run}/test-best.csv")[0]


def test_decisions_made_in_other_settings_go_into_another_folder(tmp_path: Path) -> None:
    first = tmp_path / "predict-best"
    assert place(first, {}) == first
    first.mkdir()
    assert place(first, {}) == first
    other = place(first, {"data.seed": "1"})
    assert other == tmp_path / "predict-best-1"
    write_row(other / SETTINGS_FILE, {"data.seed": "1"})
    assert place(first, {"data.seed": "1"}) == other
    assert place(first, {"data.seed": "2"}) == tmp_path / "predict-best-2"
    assert place(other, {}) == tmp_path / "predict-best-1-1"  # of a checkpoint named best-1
    assert cells({"data.seed": (0, 1), "model.net": ([], [2]), "trainer.devices": (1, 2)}) == {
        "data.seed": "1",
        "model.net": "[2]",
    }


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_files_that_name_a_run_judge_it_in_its_own_settings(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fit("--data.num_envs=3", "--trainer.max_epochs=1")
    capfd.readouterr()
    assert hadrl(command, "--config", "tiny.yaml", "--ckpt_path", "last") == 0
    told = capfd.readouterr()
    assert told.err == (
        "hadrl: warning: the agent is judged as checkpoints/tiny/version_0/config.yaml says: "
        "data.num_envs is 3 (by the settings files: 2)\n"
    )
    written = sorted(path.name for path in Path("checkpoints/tiny/version_0").glob(f"{command}*"))
    assert written == ([] if command == "predict" else sorted({f"{command}-last.csv", *written}))
    assert not [name for name in written if name.endswith("-1.csv")]
    assert hadrl(command, "--config", "wide.yaml", "--ckpt_path", "checkpoints/tiny/version_0/last.ckpt") == 2


def test_without_a_config_the_settings_are_those_that_the_run_saved() -> None:
    fit("--config", "wide.yaml", "--data.scenario.num_users", "5")
    assert hadrl("test", "--ckpt_path", "last") == 0
    assert "test/latency" in rows("checkpoints/tiny-wide/version_0/test-last.csv")[0]


def test_an_untrained_model_can_be_tested_too() -> None:
    assert hadrl("test", "--config", "tiny.yaml") == 0
    assert list(files("checkpoints")) == ["checkpoints/tiny/untrained/test.csv"]


def test_last_is_of_the_newest_run_of_the_same_configs(tmp_path: Path) -> None:
    for path in (
        "es2/version_2/last.ckpt",
        "es2/version_10/last.ckpt",
        "es2/version_11/config.yaml",
        "es3/version_99/last.ckpt",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    os.utime(tmp_path / "es3/version_99/last.ckpt", (0, 0))
    assert find_checkpoint("last", tmp_path, "es2") == tmp_path / "es2/version_10/last.ckpt"
    newest = find_checkpoint("last", tmp_path, None)
    assert newest.parent.parent.name == "es2"


# --- resuming


def end_of(run: str) -> tuple[list[dict[str, str]], dict[str, torch.Tensor]]:
    checkpoint = torch.load(f"{run}/last.ckpt", weights_only=True)
    return rows(f"{run}/metrics.csv"), checkpoint["state_dict"]


def assert_same_end(run: str, other: str) -> None:
    (metrics, weights), (other_metrics, other_weights) = end_of(run), end_of(other)
    assert metrics == other_metrics
    assert list(weights) == list(other_weights)
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert Path(run, "metrics.csv").read_bytes() == Path(other, "metrics.csv").read_bytes()


def pull_the_plug(self: Planning, trainer: Any, *args: Any) -> None:
    if trainer.current_epoch == 2:
        raise RuntimeError("pulled the plug")


@pytest.mark.parametrize("explicit", [False, True])
def test_a_run_that_is_extended_goes_on_in_a_new_folder_to_the_same_end(
    explicit: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    trained()
    fit("--trainer.max_epochs=2")
    before = files("checkpoints")
    capfd.readouterr()
    fit("--ckpt_path", "checkpoints/tiny/version_1/last.ckpt" if explicit else "last")
    told = capfd.readouterr().err
    assert (
        "hadrl: warning: checkpoints/tiny/version_1/last.ckpt goes on in the new folder checkpoints/" in told
    )
    assert "checkpoints/tiny/version_2: trainer.max_epochs is 4 (before: 2)\n" in told
    after = files("checkpoints")
    assert {name: after[name] for name in before} == before
    assert_same_end("checkpoints/tiny/version_0", "checkpoints/tiny/version_2")
    assert Path("checkpoints/tiny/version_2/best.ckpt").is_file()


def test_a_run_that_died_in_an_epoch_goes_on_in_its_folder_from_the_start_of_the_epoch_to_the_same_end() -> (
    None
):
    trained()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Planning, "on_train_batch_end", pull_the_plug)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            fit()
    settings = Path("checkpoints/tiny/version_1/config.yaml").read_bytes()
    fit("--ckpt_path", "last")
    assert sorted(path.name for path in Path("checkpoints/tiny").iterdir()) == ["version_0", "version_1"]
    assert Path("checkpoints/tiny/version_1/config.yaml").read_bytes() == settings
    assert_same_end("checkpoints/tiny/version_0", "checkpoints/tiny/version_1")


def test_a_run_goes_on_with_its_own_settings_where_its_flags_are_left_out(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Planning, "on_train_batch_end", pull_the_plug)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            fit("--planning.decisions_per_epoch=7", "--trainer.max_epochs=3")
    settings = Path("checkpoints/tiny/version_0/config.yaml").read_bytes()
    capfd.readouterr()
    assert cli.main(["fit", *QUIET[:-1], "--config", "tiny.yaml", "--ckpt_path", "last"]) == 0
    told = capfd.readouterr().err
    assert "hadrl: warning: the run goes on as checkpoints/tiny/version_0/config.yaml says: " in told
    assert "planning.decisions_per_epoch is 7 (by the settings files: 5)" in told
    assert "trainer.max_epochs is 3 (by the settings files: null)" in told
    assert Path("checkpoints/tiny/version_0/config.yaml").read_bytes() == settings
    assert [path.name for path in Path("checkpoints/tiny").iterdir()] == ["version_0"]


def test_a_run_goes_on_in_a_new_folder_where_a_setting_differs(capfd: pytest.CaptureFixture[str]) -> None:
    trained()
    before = files("checkpoints")
    capfd.readouterr()
    fit("--ckpt_path", "last", "--planning.decisions_per_epoch=6", "--trainer.max_epochs=5")
    assert "planning.decisions_per_epoch is 6 (before: 5)" in capfd.readouterr().err
    after = files("checkpoints")
    assert {name: after[name] for name in before} == before
    settings = yaml.safe_load(Path("checkpoints/tiny/version_1/config.yaml").read_text())
    assert settings["planning"]["decisions_per_epoch"] == 6
    epochs = [
        row["epoch"] for row in rows("checkpoints/tiny/version_1/metrics.csv") if not row["test/latency"]
    ]
    assert list(dict.fromkeys(epochs)) == ["0", "1", "2", "3", "4"]


def test_a_finished_run_that_is_resumed_stays_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    trained()
    before = files("checkpoints")
    capfd.readouterr()
    fit("--ckpt_path", "last")
    assert "Finished already, all 4 epochs and the test" in capfd.readouterr().out
    assert files("checkpoints") == before
    run = Path("checkpoints/tiny/version_0")
    tested, (best, *_) = run / "test-best.csv", run.glob("best.ckpt")
    os.utime(tested, (0, best.stat().st_mtime - 5))  # of a checkpoint before this one
    assert not has_result(run)
    os.utime(tested)
    resume = ["fit", "--config", "tiny.yaml", "--ckpt_path", "last"]
    for words in (["--trainer.max_epochs=3"], ["--data.num_envs=3"]):
        line = refused(capfd, *resume, *words)
        assert line.startswith(
            "trainer.max_epochs must be more than 4, the epochs behind ckpt_path checkpoints/"
        )


def test_a_checkpoint_that_is_not_the_last_one_goes_on_in_a_new_folder(
    capfd: pytest.CaptureFixture[str],
) -> None:
    trained()
    fit("--trainer.max_epochs=2")
    middle = Path("checkpoints/tiny/version_0/middle.ckpt")
    middle.write_bytes(Path("checkpoints/tiny/version_1/last.ckpt").read_bytes())
    before = files("checkpoints")
    capfd.readouterr()
    fit("--ckpt_path", str(middle))
    assert "version_2: middle.ckpt is not the last one of its run" in capfd.readouterr().err
    after = files("checkpoints")
    assert {name: after[name] for name in before} == before
    assert_same_end("checkpoints/tiny/version_0", "checkpoints/tiny/version_2")


def test_a_copied_checkpoint_elsewhere_starts_a_new_folder() -> None:
    trained()
    Path("copy.ckpt").write_bytes(Path("checkpoints/tiny/version_0/last.ckpt").read_bytes())
    before = files("checkpoints/tiny/version_0")
    assert (
        cli.main(["fit", "--config", "tiny.yaml", *QUIET, "--trainer.max_epochs=5", "--ckpt_path=copy.ckpt"])
        == 0
    )
    assert files("checkpoints/tiny/version_0") == before
    written = rows("checkpoints/tiny/version_1/metrics.csv")
    assert {row["epoch"] for row in written if not row["test/latency"]} == {"4"}


# --- beginning with weights


def test_a_training_begins_with_the_weights_of_an_agent_and_all_else_fresh() -> None:
    trained()
    fit("--weights", "best", "--trainer.max_epochs=1", "--data.physics=published")
    settings = yaml.safe_load(Path("checkpoints/tiny/version_1/config.yaml").read_text())
    assert settings["weights"] == "checkpoints/tiny/version_0/best.ckpt"
    first, then = (rows(f"checkpoints/tiny/version_{number}/metrics.csv")[0] for number in (0, 1))
    assert (first["epoch"], first["step"]) == (then["epoch"], then["step"]) == ("0", "0")
    assert float(then["train/loss_step"]) != float(first["train/loss_step"])
    fit("--ckpt_path", "last", "--trainer.max_epochs=2")
    assert hadrl("test", "--ckpt_path", "last") == 0


def test_weights_that_cannot_be_used_get_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    trained()
    path = "checkpoints/tiny/version_0/last.ckpt"
    both = ["--weights", "last", "--ckpt_path", "last"]
    for words, line in (
        (["fit", *both], "weights must not be given beside ckpt_path, which holds them and all else, got"),
        (["test", "--weights", "last"], "weights must be given to fit alone, got 'last' with test"),
        (["fit", "--weights", "last", "--model.net.width=9"], f"weights must fit, got {path}"),
        (
            ["fit", "--weights", "nowhere.ckpt"],
            "weights must be an existing file or one of the shipped agents (",
        ),
    ):
        assert refused(capfd, words[0], "--config", "tiny.yaml", *words[1:]).startswith(line)


def test_a_save_that_fails_leaves_the_old_checkpoint() -> None:
    path = Path("run/last.ckpt")
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        AtomicCheckpointIO().save_checkpoint({"a": lambda: None}, path)
    assert torch.load(path) == {"a": 1}
    assert os.listdir("run") == ["last.ckpt"]


# --- mistakes


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data.scenario.num_users", "0"], "data.scenario.num_users must be at least 1, got 0"),
        (["--model.net.width", "-3"], "model.net.width must be at least 1, got -3"),
        (["--data.num_envs", "0"], "data.num_envs must be at least 1, got 0"),
        (["--planning.decisions_per_epoch", "0"], "planning.decisions_per_epoch must be at least 1, got 0"),
        (["--data.scenario.num_users", "many"], "data.scenario.num_users must be a whole number, got many"),
        (["--data.physics", "newton"], "data.physics must be strict or published, got newton"),
        (
            ["--data.scenario.bandwidth_hz", "[1, x]"],
            "data.scenario.bandwidth_hz must be a number or a list of numbers, got",
        ),
        (
            ["--data.scenario.num_user", "3"],
            "unknown setting data.scenario.num_user; did you mean data.scenario.num_users?",
        ),
        (
            ["--model.scenario.num_users", "3"],
            "unknown setting model.scenario.num_users; did you mean data.scenario.",
        ),
        (["--trainer.max_epoch", "3"], "unknown setting trainer.max_epoch; did you mean trainer.max_epochs?"),
        (["--trainer.precision", "bf17"], "trainer.precision must be "),
        (["--trainer.accelerator", "cuda", "--trainer.devices", "1"], "trainer: "),
        (["--trainer.strategy", "nonsense"], "trainer: "),
        (
            ["--trainer.devices", "-1"],
            "trainer: `devices` selected with `CPUAccelerator` should be an int > 0.",
        ),
        (
            ["--trainer.devices", "[0,1]"],
            "trainer: `devices` selected with `CPUAccelerator` should be an int > 0.",
        ),
        (["--trainer.accelerator", "tpu"], "trainer: Requirement 'torch_xla"),
        (["--trainer.precision", "transformer-engine"], "trainer: Requirement 'transformer_engine"),
        (
            ["--trainer.limit_val_batches", "0.001"],
            "trainer.limit_val_batches must leave a batch of val, which has ",
        ),
        (
            ["--trainer.limit_test_batches", "0.001"],
            "trainer.limit_test_batches must leave a batch of test, ",
        ),
        (
            ["--trainer.overfit_batches", "0.001"],
            "trainer.overfit_batches must leave a batch of val, which has ",
        ),
        (["--trainer.barebones", "true"], "trainer.barebones must be false, got true"),
        (["--trainer.default_root_dir", "/proc/x"], "/proc/x/checkpoints/tiny/version_0 can't be written"),
        (["extra"], "unrecognized arguments: extra"),
        (
            ["--ckpt_path", "nowhere.ckpt"],
            "got 'nowhere.ckpt' (no such file); last and best stand for those of the newest run",
        ),
        (
            ["--ckpt_path", "last"],
            "ckpt_path last needs an earlier run of the same configs, found no checkpoints/tiny",
        ),
    ],
)
def test_a_mistake_gets_one_line_and_touches_nothing(
    words: list[str], line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert line in refused(capfd, "fit", "--config", "tiny.yaml", *words)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("data: {scenario: {num_users: 0}}", "data.scenario.num_users must be at least 1, got 0"),
        ("data: {scenario: {num_users: x}}", "data.scenario.num_users must be a whole number, got x"),
        ("data: {scenario: {num_user: 3}}", "data.scenario.num_user; did you mean data.scenario.num_users?"),
        ("modl: {net: {width: 3}}", "modl"),
        ("model: {net: {widht: 3}}", "model.net.widht; did you mean model.net.width?"),
        ("data: [1", "config"),
        ("just text", "config"),
    ],
)
def test_a_mistake_in_a_file_gets_one_line_too(
    text: str, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text(text)
    assert line in refused(capfd, "fit", "--config", "bad.yaml")


@pytest.mark.parametrize(
    ("types", "words"),
    [
        ("typing.Literal['published', 'zipf'], tuple[float, ...]", "published, zipf or a list of numbers"),
        ("tuple[tuple[float, float], ...], <class 'NoneType'>", "a list of pairs of numbers or null"),
        (
            "<class 'bool'>, list[int], list[a.b.Logger]",
            "true, false, a list of whole numbers or a list of Loggers",
        ),
        ("<class 'a.b.PlannerSettings'>, <class 'str'>", "a group of settings or a text"),
    ],
)
def test_what_a_setting_may_be_is_said_in_plain_words(types: str, words: str) -> None:
    message = f'Parser key "a.b":\n  Does not validate\n  Subtypes: [{types}]\n  Errors:\n  Given value: x'
    assert essence(message, []) == f"a.b must be {words}, got x"


@pytest.mark.parametrize("group", ["data", "data.scenario"])
def test_a_word_where_a_group_of_settings_belongs_gets_one_line(
    group: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert f"{group} must be a group of settings, got 'fast'" in refused(capfd, "fit", f"--{group}=fast")


def test_a_setting_of_a_group_that_may_be_null_is_named() -> None:
    parser = HadrlParser()
    parser.add_argument("--net", type=TinySettings | None)
    with pytest.raises(HadrlError, match=r"^net\.width must be a whole number, got x$"):
        parser.parse_args(["--net.width", "x"])


def test_a_monitor_that_nothing_logs_is_told_with_those_that_are(capfd: pytest.CaptureFixture[str]) -> None:
    fit("--checkpointing.monitor", "nope")
    text = "hadrl: warning: checkpointing.monitor must be one of val/latency, got nope: no best.ckpt is kept"
    assert text in capfd.readouterr().err.splitlines()


def test_an_unknown_config_names_the_shipped_ones_and_the_nearest(capfd: pytest.CaptureFixture[str]) -> None:
    assert refused(capfd, "fit", "--config", "tinny.yaml").startswith(
        "config must be a path or one of the shipped files ("
    )


@pytest.mark.parametrize(("command", "size"), [("fit", 0), ("fit", 3000), ("test", 100)])
def test_a_damaged_checkpoint_gets_one_line(
    command: str, size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    trained()
    path = Path("checkpoints/tiny/version_0/last.ckpt")
    path.write_bytes(path.read_bytes()[:size])
    assert "ckpt_path must be an undamaged checkpoint, got " in refused(capfd, command, "--ckpt_path", "last")


def test_a_checkpoint_of_another_scenario_gets_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    trained()
    line = refused(capfd, "test", "--ckpt_path", "last", "--data.scenario.num_users", "7")
    assert "same scenario" in line
    assert line.endswith("scenario.num_users is 2 there and 7 in the settings")
    line = refused(capfd, "fit", "--ckpt_path", "last", "--data.physics", "published")
    assert "physics is 'strict' there and 'published' in the settings; --weights checkpoints/tiny/" in line
    assert line.endswith("last.ckpt begins a new training with what it has learnt")
    assert "model of the same sizes" in refused(
        capfd, "test", "--ckpt_path", "last", "--model.net.width", "9"
    )


def test_a_file_that_is_no_checkpoint_of_ours_gets_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"weights": torch.ones(3)}, "other.ckpt")
    line = refused(capfd, "test", "--config", "tiny.yaml", "--ckpt_path", "other.ckpt")
    assert line == "ckpt_path must be a checkpoint saved by hadrl fit, got other.ckpt, which holds no agent"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="tensors disagree") as caught:
        hadrl("fit", "--model.bug", "true")
    assert not isinstance(caught.value, HadrlError)


def test_debugging_shows_where_a_mistake_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HADRL_DEBUG", "1")
    with pytest.raises(HadrlError, match="num_envs must be"):
        hadrl("fit", "--data.num_envs", "0")


@pytest.mark.parametrize("words", [["train"], ["fti", "--config", "tiny.yaml"]])
def test_an_unknown_command_gets_one_line(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert "fit" in refused(capfd, *words)


# --- settings files and help


def test_printed_settings_are_those_that_result(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        hadrl("fit", "--config", "tiny.yaml", "--config", "wide.yaml", "--print_config")
    assert caught.value.code in (0, None)
    settings = yaml.safe_load(capfd.readouterr().out)
    assert settings["data"]["scenario"]["num_users"] == 2
    assert settings["model"]["net"]["width"] == 6


def test_help_is_at_hand_without_importing_torch(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "hadrl fit --config es2.yaml" in capfd.readouterr().out


def test_help_of_a_command_explains_the_settings(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["fit", "--help"])
    out = capfd.readouterr().out
    assert "Bandwidth (Hz)." in out
    assert "--planning.decisions_per_epoch" in out


def test_settings_files_are_found_by_path_first_then_among_the_shipped(tmp_path: Path) -> None:
    assert find_config("tiny.yaml") == Path("tiny.yaml")
    for name in shipped_configs():
        assert find_config(name).name == name
        assert isinstance(load_config(name), dict)


def test_numbers_in_settings_files_may_be_written_with_an_exponent() -> None:
    Path("numbers.yaml").write_text("a: 200e6\nb: 1e-3\nc: [2.5E+2]\nd: es2\n")
    assert load_config("numbers.yaml") == {"a": 2e8, "b": 1e-3, "c": [250.0], "d": "es2"}


def test_settings_name_a_shipped_agent_by_its_name_and_another_file_by_its_path(tmp_path: Path) -> None:
    assert name_of(find_checkpoint("es2.ckpt", tmp_path, None)) == "es2.ckpt"
    assert name_of(tmp_path / "es2.ckpt") == str(tmp_path / "es2.ckpt")


def test_a_run_bears_the_names_of_its_settings_files() -> None:
    assert run_name([]) == "default"
    assert run_name(["a/es2.yaml", "tight.yaml", "tight.yaml"]) == "es2-tight"
    assert run_name(["checkpoints/es2-quick/version_3/config.yaml"]) == "es2-quick"


def test_the_last_run_is_looked_for_where_settings_files_have_runs_go(in_empty_folder: Path) -> None:
    Path("mine.yaml").write_text("trainer: {default_root_dir: elsewhere}")
    assert read_words(["fit", "--config", "mine.yaml", "--config", "none.yaml"]).root == Path(
        "elsewhere/checkpoints"
    )
    assert read_words(["fit", "--config", "mine.yaml", "--trainer.default_root_dir", "x"]).root == Path(
        "x/checkpoints"
    )
    assert read_words(["fit"]).root == Path("checkpoints")
