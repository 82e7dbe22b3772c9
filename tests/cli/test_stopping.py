"""Stop anywhere: signals, kill -9, full disks; a resumed run equals the uninterrupted one bit for bit. What a disk
refuses is said in one line.
"""

import builtins
import errno
import json
import os
import random
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hadrl_lightning.agents import HADRL
from hadrl_lightning.callbacks.collection import Collection
from hadrl_lightning.cli import checkpointing, main
from hadrl_lightning.cli.checkpointing import Checkpointing
from hadrl_lightning.cli.checkpoints import AtomicCheckpointIO
from hadrl_lightning.cli.signals import Stopped, StopSignals
from hadrl_lightning.cli.stopping import resuming
from hadrl_lightning.errors import HadrlError, OutputError
from hadrl_lightning.files import load_tensors, replacing, unwritable
from tests.helpers import assert_same
from tests.helpers.logs import rows_without_times

pytestmark = pytest.mark.unchecked

WORDS = [
    *("--config", "es2.yaml", "--config", "quick.yaml"),
    *("--data.scenario.num_users=8", "--model.lookahead.num_starts=1", "--model.lookahead.num_finalists=2"),
    "--data.scenario.decisions_per_episode=2",
    "--data.num_envs=2",
    "--data.passes_per_epoch=3",
    "--data.samples_per_pass=32",
    "--data.caching_updates_per_epoch=3",
    "--data.caching_batch_size=8",
    "--data.validation_episodes=2",
    "--data.parallel_episodes=1",
    "--data.test_episodes=1",
    "--planning.seed_decisions=2",
    "--planning.decisions_per_epoch=2",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.max_epochs=3",
    "--evaluation.references=false",
]
"""A run of three epochs, each of two caching decisions, three batches and two validation batches."""
WARM = ["--planning.planner.warm_start=true", "--planning.planner.plan_horizon=2"]
"""Plans that begin with the plan of the slot before: a state of the collection."""


class Zygote:
    """Starts `hadrl` in processes of their own without the seconds that its imports take."""

    def __init__(self) -> None:
        script = Path(__file__).parents[1] / "helpers/zygote.py"
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, str(script)], stdin=pipe, stdout=pipe, text=True)

    def ask(self, **request: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, folder: Path, *words: str, output: str = "output", **how: Any) -> int:
        """The process id of `hadrl WORDS`, working in a folder; `how`: env, die, interrupt."""
        request = {"env": {}, "die": None, "interrupt": None, **how}
        return self.ask(do="run", folder=str(folder), words=words, output=output, **request)

    def wait(self, pid: int) -> int:
        return self.ask(do="wait", pid=pid)

    def run(self, folder: Path, *words: str, **how: Any) -> int:
        """The exit status of `hadrl WORDS`."""
        return self.wait(self.start(folder, *words, **how))


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    assert zygote.process.stdin is not None
    zygote.process.stdin.close()
    zygote.process.wait()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    assert zygote.run(folder, "fit", *WORDS, *WARM) == 0, (folder / "output").read_text()
    return run_in(folder)


def run_in(folder: Path) -> Path:
    """The newest run in a folder that has a checkpoint, else the newest one."""
    runs = sorted((folder / "checkpoints/es2-quick").glob("version_*"))
    return next((run for run in reversed(runs) if (run / "last.ckpt").exists()), runs[-1])


def assert_same_run(run: Path, other: Path) -> None:
    """The same weights, moments, replay, generators and best validation, and the same metrics.csv but for times."""
    for name in ("last.ckpt", "best.ckpt"):
        whole, parts = load_tensors(run / name), load_tensors(other / name)
        for checkpoint in (whole, parts):
            for unneeded in ("loops", "hyper_parameters", "hparams_name", "hadrl"):  # the last has the date
                checkpoint.pop(unneeded, None)
        assert_same(whole, parts, name)
    assert rows_without_times(run / "metrics.csv") == rows_without_times(other / "metrics.csv")


# --- signals


POINTS = [
    ("Collection", "frame", 1, signal.SIGTERM),
    ("HADRL", "training_step", 1, signal.SIGINT),
    ("HADRL", "training_step", 2, signal.SIGTERM),  # the last one of the epoch: before its validation
    ("HADRL", "validation_step", 2, signal.SIGINT),
    ("Collection", "frame", 1, signal.SIGTERM),  # of the second epoch
    ("HADRL", "training_step", 2, signal.SIGTERM),
    ("HADRL", "test_step", 1, signal.SIGTERM),
]
"""Where one run is interrupted, each time counted from where it goes on."""


@pytest.mark.whole
def test_a_run_interrupted_everywhere_and_resumed_each_time_equals_the_uninterrupted_one(
    finished: Path, zygote: Zygote, tmp_path: Path
) -> None:
    path = "checkpoints/es2-quick/version_0/last.ckpt"
    checkpoint: list[str] = []
    for point in POINTS:
        words = ["fit", *WORDS, *WARM, *checkpoint]
        assert zygote.run(tmp_path, *words, interrupt=point) == 128 + point[-1]
        (line,) = (tmp_path / "output").read_text().strip().splitlines()[-1:]
        checkpoint = ["--ckpt_path", path]
        command = shlex.join(["hadrl", "fit", *WORDS, *WARM, *checkpoint])
        assert line == f"hadrl: stopped by {signal.Signals(point[-1]).name}; resume with: {command}"
        assert load_tensors(tmp_path / path)["state_dict"]
    assert zygote.run(tmp_path, "fit", *WORDS, *WARM, *checkpoint) == 0
    assert_same_run(finished, run_in(tmp_path))


@pytest.mark.whole
@pytest.mark.parametrize(("command", "method"), [("test", "test_step"), ("predict", "predict_step")])
def test_a_test_that_is_interrupted_ends_at_once_and_says_how_to_start_again(
    finished: Path, zygote: Zygote, tmp_path: Path, command: str, method: str
) -> None:
    words = [command, *WORDS, f"--ckpt_path={finished / 'last.ckpt'}", "--evaluation.output_dir=here"]
    assert zygote.run(tmp_path, *words, interrupt=("HADRL", method, 1, signal.SIGTERM)) == 143
    (line,) = (tmp_path / "output").read_text().strip().splitlines()
    assert line == f"hadrl: stopped by SIGTERM; start again with: {shlex.join(['hadrl', *words])}"
    assert not (tmp_path / "here").exists()


def test_a_benchmark_that_is_interrupted_keeps_what_is_finished(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hadrl_lightning.benchmark import runner

    attempt, done = runner.attempt, []

    def interrupted(cell: Any, compute: Any) -> Any:
        if done:
            os.kill(os.getpid(), signal.SIGTERM)
        done.append(cell)
        return attempt(cell, compute)

    monkeypatch.setattr(runner, "attempt", interrupted)
    words = ["benchmark", "--quick", "--no_figures", "--policies", "random+random", "lru+home_equal"]
    words += ["--seeds", "0", "--output", "out"]
    assert main(words) == 143
    assert "stopped by SIGTERM; start again with: hadrl benchmark" in capsys.readouterr().err
    assert len(list(Path("out/cells").glob("*.json"))) == 1


def test_a_second_signal_ends_at_once_and_one_that_a_launcher_repeats_does_not() -> None:
    code = """
import os, signal
from hadrl_lightning.cli import signals
with signals.StopSignals().handled():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    print("goes on", flush=True)
    signals.SAME_REQUEST_S = 0.0
    os.kill(os.getpid(), signal.SIGINT)
    print("never", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "goes on\n"
    assert done.returncode == -signal.SIGINT


def test_work_that_is_abandonable_ends_where_it_stands() -> None:
    before = signal.getsignal(signal.SIGINT)
    signals = StopSignals()
    with signals.handled():
        signals.abandon()
        with pytest.raises(Stopped, match="SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped, match="SIGINT"):
            signals.abandon()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_command_that_resumes_is_the_users_own_with_the_checkpoint(tmp_path: Path) -> None:
    words = ["fit", "--ckpt_path", "a.ckpt", "--data.seed", "3", "--ckpt_path=b.ckpt", "--x=a b"]
    assert resuming(words, tmp_path).startswith("start again with: hadrl fit --ckpt_path a.ckpt")
    (tmp_path / "last.ckpt").touch()
    path = os.path.relpath(tmp_path / "last.ckpt")
    assert resuming(words, tmp_path) == f"resume with: hadrl fit --data.seed 3 '--x=a b' --ckpt_path {path}"


# --- kill -9


def resume(folder: Path) -> list[str]:
    """Words that go on from the checkpoint of the run in a folder, which has to load; none if there is none."""
    found = sorted((folder / "checkpoints").glob("*/*/last.ckpt"))
    if not found:
        return []
    assert load_tensors(found[-1])["state_dict"]
    return ["--ckpt_path", str(found[-1])]


@pytest.mark.parametrize(
    "die",
    [
        pytest.param(("in mid-write", 2), marks=pytest.mark.whole),
        pytest.param(("before the rename", 2), marks=pytest.mark.slow),
        pytest.param(("after the rename", 2), marks=pytest.mark.whole),
        pytest.param(("before the row", 1), marks=pytest.mark.slow),  # of the validation
        pytest.param(
            ("before the row", 2), marks=pytest.mark.whole
        ),  # of the epoch, right after its checkpoint
    ],
)
def test_a_run_killed_while_it_writes_goes_on_to_the_same_end(
    finished: Path, zygote: Zygote, tmp_path: Path, die: tuple[str, int]
) -> None:
    assert zygote.run(tmp_path, "fit", *WORDS, *WARM, die=die) == -signal.SIGKILL
    assert zygote.run(tmp_path, "fit", *WORDS, *WARM, *resume(tmp_path)) == 0, (
        tmp_path / "output"
    ).read_text()
    assert_same_run(finished, run_in(tmp_path))
    assert not list(run_in(tmp_path).glob(".*"))  # what the killed process left half written is gone


def kill_at_random(
    zygote: Zygote, folder: Path, words: list[str], seed: int, num_kills: int, seconds: float
) -> int:
    """Kill runs at random moments and let them go on, each to its end; how many there were, in folder/1, …"""
    draw, kills, runs = random.Random(seed), 0, 0
    while kills < num_kills:
        runs += 1
        place = folder / str(runs)
        place.mkdir()
        while True:
            pid = zygote.start(place, "fit", *words, *resume(place))
            if kills < num_kills:
                time.sleep(draw.uniform(0, seconds))
                os.kill(pid, signal.SIGKILL)  # a process that has ended is still there to be waited for
            status = zygote.wait(pid)
            if status == 0:
                break
            assert status == -signal.SIGKILL, (place / "output").read_text()
            kills += 1
    return runs


@pytest.mark.parametrize(
    ("num_kills", "every_n_batches"),
    [
        pytest.param(2, ["--checkpointing.every_n_batches=1"], marks=pytest.mark.whole),
        pytest.param(20, ["--checkpointing.every_n_batches=1"], marks=pytest.mark.slow),
        pytest.param(20, [], marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(
    finished: Path, zygote: Zygote, tmp_path: Path, num_kills: int, every_n_batches: list[str]
) -> None:
    words = [*WORDS, *WARM, *every_n_batches]
    runs = kill_at_random(zygote, tmp_path, words, seed=num_kills, num_kills=num_kills, seconds=6.0)
    for number in range(1, runs + 1):
        assert_same_run(finished, run_in(tmp_path / str(number)))


@pytest.mark.whole
def test_a_checkpoint_every_few_batches_resumes_in_mid_epoch(
    finished: Path, zygote: Zygote, tmp_path: Path
) -> None:
    words = [*WORDS, *WARM, "--checkpointing.every_n_batches=2"]
    assert zygote.run(tmp_path, "fit", *words, die=("after the rename", 3)) == -signal.SIGKILL
    progress = load_tensors(run_in(tmp_path) / "last.ckpt")["loops"]["fit_loop"]
    assert progress["epoch_progress"]["current"]["processed"] == 1
    assert progress["epoch_loop.batch_progress"]["current"]["processed"] == 2
    assert zygote.run(tmp_path, "fit", *words, *resume(tmp_path)) == 0
    assert_same_run(finished, run_in(tmp_path))


# --- two ranks


class TwoRanks:
    """`hadrl fit` on two gloo processes, started as torchrun starts them."""

    def __init__(
        self, zygote: Zygote, folder: Path, strategy: str = "ddp_find_unused_parameters_true"
    ) -> None:
        self.zygote, self.folder, self.strategy = zygote, folder, strategy

    def start(self, *words: str, interrupt: Any = None) -> list[int]:
        """The process ids; `interrupt` hits the second one, which writes nothing."""
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        several = ["--trainer.devices=2", "--trainer.accelerator=cpu", f"--trainer.strategy={self.strategy}"]
        pids = []
        for rank in map(str, range(2)):
            env = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "GROUP_RANK": "0",
                "TORCHELASTIC_RUN_ID": "test",
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            how = {"env": env, "output": f"output-{rank}", "interrupt": interrupt if rank == "1" else None}
            pids.append(self.zygote.start(self.folder, "fit", *WORDS, *several, *words, **how))
        return pids

    def run(self, *words: str) -> None:
        pids = self.start(*words)
        assert [self.zygote.wait(pid) for pid in pids] == [0, 0], self.outputs()

    def outputs(self) -> str:
        return "".join((self.folder / f"output-{rank}").read_text() for rank in range(2))


POINTS_OF_TWO = [
    ("Collection", "frame", 1, signal.SIGTERM),
    ("HADRL", "training_step", 3, signal.SIGTERM),  # the last one of the epoch
    ("Collection", "frame", 3, signal.SIGTERM),
    ("HADRL", "training_step", 1, signal.SIGTERM),
]
"""Where the second rank is interrupted."""


@pytest.fixture(scope="module")
def finished_by_two(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    folder = tmp_path_factory.mktemp("two")
    TwoRanks(zygote, folder).run()
    return run_in(folder)


@pytest.mark.slow
def test_two_ranks_stop_at_the_same_step_when_one_gets_the_signal_and_resume_to_the_same_end(
    finished_by_two: Path, zygote: Zygote, tmp_path: Path
) -> None:
    two = TwoRanks(zygote, tmp_path)
    for point in POINTS_OF_TWO:
        pids = two.start(*resume(tmp_path), interrupt=point)
        assert [zygote.wait(pid) for pid in pids] == [143, 0], two.outputs()
        lines = [line for line in two.outputs().splitlines() if line.startswith("hadrl: ")]
        assert len(lines) == 1
        assert "stopped by SIGTERM; resume with: hadrl fit" in lines[0]
    two.run(*resume(tmp_path))
    assert_same_run(finished_by_two, run_in(tmp_path))


@pytest.mark.slow
def test_two_ranks_killed_at_any_moment_go_on_to_the_same_end(
    finished_by_two: Path, zygote: Zygote, tmp_path: Path
) -> None:
    draw, kills, two = random.Random(0), 0, TwoRanks(zygote, tmp_path)
    while True:
        pids = two.start("--checkpointing.every_n_batches=1", *resume(tmp_path))
        if kills < 10:
            time.sleep(draw.uniform(0, 8))
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        statuses = {zygote.wait(pid) for pid in pids}
        if statuses == {0}:
            break
        kills += 1
        assert kills < 40, two.outputs()
    assert kills > 0
    assert_same_run(finished_by_two, run_in(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_find_unused_parameters_true", "ensemble_parallel"])
@pytest.mark.parametrize("point", [POINTS[0], POINTS[1], None])
def test_a_rank_that_joins_keeps_in_step_wherever_the_run_stood(
    zygote: Zygote, tmp_path: Path, point: tuple[str, str, int, signal.Signals] | None, strategy: str
) -> None:
    """With ddp it begins with an empty replay, so that passes over all transitions would differ in length."""
    every = ["--data.samples_per_pass=320", "--data.batch_size=4"]
    alone = ["fit", *WORDS, *WARM, *every]
    if point is None:
        assert zygote.run(tmp_path, *alone, "--trainer.max_epochs=1") == 0
    else:
        assert zygote.run(tmp_path, *alone, interrupt=point) == 128 + point[-1]
    TwoRanks(zygote, tmp_path, strategy).run(*WARM, *every, "--trainer.max_epochs=2", *resume(tmp_path))
    assert zygote.run(tmp_path, *alone, *resume(tmp_path)) == 0, (tmp_path / "output").read_text()
    assert load_tensors(run_in(tmp_path) / "last.ckpt")["epoch"] == 2


# Full disks, unwritable folders, damaged files, code in files: one line each -----------------------------------------

BRIEF = [
    *("--config", "es2.yaml", "--config", "quick.yaml"),
    "--data.scenario.decisions_per_episode=2",
    "--data.num_envs=2",
    "--data.passes_per_epoch=2",
    "--data.samples_per_pass=32",
    "--data.caching_updates_per_epoch=0",
    "--data.validation_episodes=1",
    "--data.test_episodes=1",
    "--planning.seed_decisions=1",
    "--planning.decisions_per_epoch=1",
    "--trainer.max_epochs=2",
    "--trainer.check_val_every_n_epoch=1",
    "--evaluation.references=false",
]
RUN = Path("checkpoints/es2-quick/version_0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run, by their path in its folder."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["hadrl"])
        assert main(["fit", *BRIEF]) == 0
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def in_run(trained: dict[str, bytes], in_empty_folder: Path) -> Path:
    """Work beside a run of its own."""
    for name, content in trained.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    return in_empty_folder


@pytest.fixture
def full_disk() -> Iterator[Any]:
    """Calling it makes every file of this process end at some size, as on a full disk, until the end of the test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def line_of(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("hadrl: error: ")
    return line.removeprefix("hadrl: error: ")


def when_collecting(epoch: int, do: Any, patch: pytest.MonkeyPatch) -> None:
    """Do something as the collection of an epoch begins."""
    frame = Collection.frame

    def counted(self: Collection) -> None:
        if self.epoch == epoch:
            do()
        frame(self)

    patch.setattr(Collection, "frame", counted)


def test_a_disk_that_is_full_ends_the_run_and_keeps_the_last_good_checkpoint(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, full_disk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    when_collecting(1, lambda: full_disk(100_000), monkeypatch)  # room for metrics, not for a checkpoint
    assert main(["fit", *BRIEF]) == 2
    line = line_of(capsys)
    assert line.startswith(f"{in_empty_folder / RUN}/")
    assert ".ckpt can't be written: File too large" in line
    assert line.endswith(f"; the last good checkpoint is {RUN}/last.ckpt (after 1 epoch)")
    assert load_tensors(RUN / "last.ckpt")["epoch"] == 0
    assert not list(RUN.glob(".*"))


@pytest.mark.whole
@pytest.mark.parametrize("name", ["metrics.csv", "events"])
def test_a_log_that_cannot_be_written_ends_the_run_in_one_line(
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    full_disk: Any,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    def fill() -> None:  # the file is as large as it gets, the others have room
        path = next(RUN.glob(f"{name}*"))
        full_disk(path.stat().st_size + 10)
        if name == "events":
            path.with_name("metrics.csv").unlink()

    when_collecting(1, fill, monkeypatch)
    assert main(["fit", *BRIEF]) == 2
    line = line_of(capsys)
    assert re.match(rf"\S*{RUN}(/\S*)? can't be written: File too large; ", line), line
    assert line.endswith(f"; the last good checkpoint is {RUN}/last.ckpt (after 1 epoch)")


@pytest.mark.parametrize("command", ["fit", "predict", "benchmark"])
def test_a_folder_that_cannot_be_written_gets_one_line(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    Path("file").write_text("not a folder")
    words = {
        "fit": ["fit", *BRIEF, "--trainer.default_root_dir=file"],
        "predict": ["predict", *BRIEF, "--evaluation.output_dir=file/below"],
        "benchmark": ["benchmark", "--quick", "--no_figures", "--output=file/below"],
    }[command]
    assert main(words) == 2
    *warning, line = capsys.readouterr().err.splitlines()
    assert all("the agent is untrained" in one for one in warning)
    assert line.startswith("hadrl: error: ")
    assert "file" in line
    assert "can't be written: " in line


@pytest.mark.whole
@pytest.mark.parametrize("command", ["test", "validate"])
def test_results_are_shown_where_nothing_can_be_written(
    in_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    def read_only(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    real = builtins.open
    monkeypatch.setattr(Path, "mkdir", read_only)
    monkeypatch.setattr("os.makedirs", read_only)
    monkeypatch.setattr(
        "builtins.open",
        lambda path, mode="r", *rest, **named: (
            real(path, mode, *rest, **named) if "r" in mode or isinstance(path, int) else read_only(path)
        ),
    )
    assert main([command, "--ckpt_path=last", "--config=es2.yaml", "--config=quick.yaml", *BRIEF[4:]]) == 0
    shown = capsys.readouterr()
    assert "HADRL" in shown.out
    (line,) = shown.err.splitlines()
    assert line.startswith("hadrl: warning: ")
    assert line.endswith(
        f"{command}-last.csv can't be written: Read-only file system; the results are shown and not kept"
    )


@pytest.mark.whole
def test_the_last_good_checkpoint_is_the_later_one(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = []

    def copyfile(source: Path, target: Path) -> None:
        copies.append(target)
        if len(copies) > 1:  # best.ckpt of epoch 2 is there, last.ckpt of epoch 2 finds no room
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(checkpointing.shutil, "copyfile", copyfile)
    monkeypatch.setattr(Checkpointing, "_is_better", lambda self, trainer: True)
    assert main(["fit", *BRIEF]) == 2
    assert line_of(capsys) == (
        f"{in_empty_folder / RUN}/last.ckpt can't be written: No space left on device; "
        f"the last good checkpoint is {RUN}/best.ckpt (after 2 epochs)"
    )


def test_a_file_is_named_as_text_whatever_named_it() -> None:
    assert str(unwritable(OSError(errno.EFBIG, "File too large", b"run/events"))) == (
        "run/events can't be written: File too large"
    )
    assert str(unwritable(OSError(errno.EIO, "Input/output error", 7))) == (
        "a file can't be written: Input/output error"
    )


def test_a_save_that_meets_a_full_disk_says_so_and_leaves_the_old_checkpoint(
    tmp_path: Path, full_disk: Any
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(3)}, path)
    full_disk(100_000)
    with pytest.raises(OutputError, match=r"last\.ckpt can't be written: File too large"):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(100_000)}, path)
    assert torch.equal(load_tensors(path)["weights"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(("damaged", "good", "size"), [("last", "best", 0), ("best", "last", -1000)])
def test_a_damaged_checkpoint_names_the_other_one(
    in_run: Path, damaged: str, good: str, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = RUN / f"{damaged}.ckpt"
    path.write_bytes(path.read_bytes()[:size])
    assert main(["fit", *BRIEF, f"--ckpt_path={damaged}"]) == 2
    line = line_of(capsys)
    assert line.startswith(f"ckpt_path must be an undamaged checkpoint, got {path} (")
    assert "()" not in line
    assert ("(it is empty)" in line) == (size == 0)
    assert f"); {RUN}/{good}.ckpt is good (after " in line


def test_two_damaged_checkpoints_name_none(in_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("last", "best"):
        (RUN / f"{name}.ckpt").write_bytes(b"PK\x03\x04 not much")
    assert main(["fit", *BRIEF, "--ckpt_path=last"]) == 2
    assert "is good" not in line_of(capsys)


# --- trust


class Payload:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_a_checkpoint_with_code_in_it_is_refused(
    in_run: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load_tensors(RUN / "last.ckpt")
    torch.save({**checkpoint, "extra": Payload()}, RUN / "last.ckpt")
    assert main([command, *BRIEF, "--ckpt_path=last"]) == 2
    line = line_of(capsys)
    assert line.startswith(f"ckpt_path must hold tensors and plain values only, got {RUN}/last.ckpt with ")
    assert "could run code" in line
    assert not Path("owned").exists()
    torch.load(RUN / "last.ckpt", weights_only=False)
    assert Path("owned").exists()  # it was no dummy


def test_an_agent_with_code_in_it_is_refused_from_python_too(in_run: Path) -> None:
    agent = HADRL.from_checkpoint(RUN / "last.ckpt")
    assert not agent.training
    torch.save({"hyper_parameters": Payload(), "state_dict": {}}, "agent.ckpt")
    with pytest.raises(HadrlError, match="must hold tensors and plain values only, got agent"):
        HADRL.from_checkpoint("agent.ckpt")
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    "text",
    [
        "data: {num_envs: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [owned]]}",
        "!!python/object/apply:os.system ['touch owned']",
    ],
)
def test_settings_with_code_in_them_are_refused(
    in_empty_folder: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text(text)
    for words in (["fit", "--config=bad.yaml"], ["benchmark", "--quick", "--scenarios", "bad.yaml"]):
        assert main(words) == 2
        assert line_of(capsys)
    assert not Path("owned").exists()


@pytest.mark.slow
def test_training_testing_and_predicting_need_no_network(in_empty_folder: Path) -> None:
    code = f"""
import ipaddress, socket, sys

def only_here(event, args):
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in ("socket.connect", "socket.sendto"):
        host = args[1][0] if isinstance(args[1], tuple) else None
    else:
        return
    if host not in (None, "localhost", socket.gethostname()) and not ipaddress.ip_address(host).is_loopback:
        print("network", event, args, flush=True)
        raise OSError(f"no network: {{args}}")

sys.addaudithook(only_here)
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError as error:
    assert "no network" in str(error), error
else:
    raise AssertionError("the hook has to refuse")

from hadrl_lightning.cli import main

words = {BRIEF!r}
assert main(["fit", *words]) == 0
assert main(["predict", "--ckpt_path", "last"]) == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("network") == 1, done.stdout  # the trial
    assert (RUN / "decisions.csv").is_file()


# --- files that are replaced -----------------------------------------------------------------------------------------


def write(path: Path, text: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    write(file, "one")
    write(file, "two")
    assert file.read_text() == "two"
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]


def test_an_error_while_writing_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write(file, "one")
    with pytest.raises(TypeError, match="data must be str"):
        write(file, 2)
    assert file.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_temporary_file_of_a_killed_process_is_removed_that_of_a_live_one_stays(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as live:
        for process in (dead, live):
            (tmp_path / f".a.txt.{process.pid}.tmp").write_text("half")
        (tmp_path / ".other.txt.1.tmp").write_text("of another file")
        write(tmp_path / "a.txt", "whole")
        assert {path.name for path in tmp_path.iterdir()} == {
            "a.txt",
            f".a.txt.{live.pid}.tmp",
            ".other.txt.1.tmp",
        }
        live.communicate(b"\n")
