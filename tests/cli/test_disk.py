"""Full disks, unwritable folders, damaged files, code in files: one line each; the last good checkpoint is named."""

import builtins
import errno
import re
import resource
import signal
import subprocess
import sys
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
from hadrl_lightning.errors import HadrlError, OutputError
from hadrl_lightning.files import load_tensors, replacing, unwritable

pytestmark = pytest.mark.unchecked

WORDS = [
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
        assert main(["fit", *WORDS]) == 0
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
    assert main(["fit", *WORDS]) == 2
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
    assert main(["fit", *WORDS]) == 2
    line = line_of(capsys)
    assert re.match(rf"\S*{RUN}(/\S*)? can't be written: File too large; ", line), line
    assert line.endswith(f"; the last good checkpoint is {RUN}/last.ckpt (after 1 epoch)")


@pytest.mark.parametrize("command", ["fit", "predict", "benchmark"])
def test_a_folder_that_cannot_be_written_gets_one_line(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    Path("file").write_text("not a folder")
    words = {
        "fit": ["fit", *WORDS, "--trainer.default_root_dir=file"],
        "predict": ["predict", *WORDS, "--evaluation.output_dir=file/below"],
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
    assert main([command, "--ckpt_path=last", "--config=es2.yaml", "--config=quick.yaml", *WORDS[4:]]) == 0
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
    assert main(["fit", *WORDS]) == 2
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


@pytest.mark.parametrize(("damaged", "good"), [("last", "best"), ("best", "last")])
@pytest.mark.parametrize("size", [0, -1000])
def test_a_damaged_checkpoint_names_the_other_one(
    in_run: Path, damaged: str, good: str, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = RUN / f"{damaged}.ckpt"
    path.write_bytes(path.read_bytes()[:size])
    assert main(["fit", *WORDS, f"--ckpt_path={damaged}"]) == 2
    line = line_of(capsys)
    assert line.startswith(f"ckpt_path must be an undamaged checkpoint, got {path} (")
    assert "()" not in line
    assert ("(it is empty)" in line) == (size == 0)
    assert f"); {RUN}/{good}.ckpt is good (after " in line


def test_two_damaged_checkpoints_name_none(in_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("last", "best"):
        (RUN / f"{name}.ckpt").write_bytes(b"PK\x03\x04 not much")
    assert main(["fit", *WORDS, "--ckpt_path=last"]) == 2
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
    assert main([command, *WORDS, "--ckpt_path=last"]) == 2
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

words = {WORDS!r}
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
