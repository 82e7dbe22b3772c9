"""Two machines, played by two groups of processes on loopback: by the shipped launch files, and when one dies."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import distributed

from hadrl_lightning.cli.ranks import RankLost, naming_lost_ranks

SMALL = [
    *("--config", "es2.yaml", "--config", "quick.yaml"),
    "--data.scenario.decisions_per_episode=3",
    "--data.num_envs=3",
    "--data.passes_per_epoch=2",
    "--data.samples_per_pass=64",
    "--data.validation_episodes=1",
    "--data.test_episodes=1",
    "--planning.seed_decisions=2",
    "--planning.decisions_per_epoch=2",
    "--evaluation.references=false",
]
LAST = Path("checkpoints/es2-quick/version_0/last.ckpt")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def environment(**variables: object) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {
        **kept,
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        **{name: str(value) for name, value in variables.items()},
    }


def descendants(pid: int) -> list[int]:
    """A process and all that it started, by `/proc`."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        parents[int(stat.parent.name)] = int(fields[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def kill_machine(node: subprocess.Popen) -> None:
    """Ends all processes of a machine at once, as a power cut would."""
    for pid in descendants(node.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@contextmanager
def two_nodes(root: Path, strategy: str, *words: str) -> Iterator[list[subprocess.Popen]]:
    """`docs/launch/torchrun.sh` on two machines with one rank each; their output goes to node0.log and node1.log."""
    port, nodes = free_port(), []
    for number in (0, 1):
        variables = environment(
            NODES=2, NODE=number, MASTER="127.0.0.1", PORT=port, ACCELERATOR="cpu", STRATEGY=strategy
        )
        with Path(f"node{number}.log").open("w") as log:
            command = [str(root / "docs/launch/torchrun.sh"), *SMALL, *words]
            nodes.append(subprocess.Popen(command, env=variables, stdout=log, stderr=log))
    try:
        yield nodes
    finally:
        for node in nodes:
            kill_machine(node)
            node.wait()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ensemble_parallel", "ddp_find_unused_parameters_true"])
@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_machine_dies_the_other_ends_with_one_line_and_the_run_resumes(
    root: Path, in_empty_folder: Path, strategy: str, victim: int
) -> None:
    with two_nodes(root, strategy, "--trainer.max_epochs=500") as nodes:
        until = time.monotonic() + 200
        while not LAST.is_file():
            assert time.monotonic() < until, Path("node0.log").read_text()
            assert all(node.poll() is None for node in nodes), Path("node0.log").read_text()
            time.sleep(0.2)
        kill_machine(nodes[victim])
        survivor = 1 - victim
        assert nodes[survivor].wait(timeout=200) != 0
    log = Path(f"node{survivor}.log").read_text()
    said = re.findall(r"^hadrl: error: another rank ended or does not answer; .*$", log, re.M)
    assert len(said) == 1, log
    assert re.search(rf"; resume with: hadrl fit .*--ckpt_path {LAST} \(", said[0])
    assert f"(rank {survivor} of 2 saw: " in said[0]
    ours = log[: log.index(said[0])]
    assert "Traceback" not in ours  # what follows is torchrun's own report

    resumed = [
        "hadrl",
        "fit",
        *SMALL,
        "--ckpt_path",
        "last",
        "--trainer.max_epochs=500",
        "--trainer.num_nodes=1",  # the run's own settings hold beneath: two machines, of which one is gone
        "--trainer.strategy=auto",
        "--trainer.max_time",
    ]
    done = subprocess.run(
        [*resumed, "00:00:00:01"], env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"Outputs: {LAST.parents[1] / 'version_1'}" in done.stdout  # other settings, another folder


@pytest.mark.slow
def test_two_tasks_of_slurm_find_each_other(in_empty_folder: Path) -> None:
    """SLURM tells tasks who they are by environment variables; Lightning reads them."""
    words = ["hadrl", "fit", *SMALL, "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    words += ["--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ensemble_parallel"]
    tasks = []
    for number in (0, 1):
        variables = environment(
            SLURM_NTASKS=2,
            SLURM_NTASKS_PER_NODE=1,
            SLURM_NNODES=2,
            SLURM_PROCID=number,
            SLURM_NODEID=number,
            SLURM_LOCALID=0,
            SLURM_JOB_ID=4242,
            SLURM_JOB_NAME="hadrl-fit",
            SLURM_JOB_NODELIST="127.0.0.1",
            SLURM_NODELIST="127.0.0.1",
            MASTER_PORT=free_port() if number == 0 else tasks[0][1],
        )
        with Path(f"task{number}.log").open("w") as log:
            task = subprocess.Popen(words, env=variables, stdout=log, stderr=log)
        tasks.append((task, variables["MASTER_PORT"]))
    for number, (task, _) in enumerate(tasks):
        try:
            assert task.wait(timeout=200) == 0, Path(f"task{number}.log").read_text()
        finally:
            kill_machine(task)
    assert LAST.is_file()


def test_an_error_that_has_nothing_to_do_with_ranks_passes_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="connection closed") as caught, naming_lost_ranks(lambda: "x"):
        raise RuntimeError("connection closed")  # of one process: a bug of ours
    assert not isinstance(caught.value, RankLost)


def test_ranks_that_never_meet_are_told_apart_from_a_bug() -> None:
    error = distributed.DistStoreError("Timed out after 16 seconds waiting for clients. 1/2 clients joined.")
    said = r"start again \(the ranks had not all met; this one saw: Timed out after 16 seconds"
    with pytest.raises(RankLost, match=said) as caught, naming_lost_ranks(lambda: "start again"):
        raise error
    assert caught.value.status == 1


@pytest.mark.slow
def test_a_rank_that_hangs_is_given_up_on_after_the_timeout(in_empty_folder: Path) -> None:
    Path("impatient.yaml").write_text(
        "trainer: {strategy: {class_path: hadrl_lightning.ensemble_parallel.EnsembleParallelStrategy, "
        "init_args: {timeout_s: 40}}}"
    )
    words = ["hadrl", "fit", *SMALL, "--config", "impatient.yaml", "--trainer.max_epochs=500"]
    words += ["--trainer.accelerator=cpu", "--trainer.devices=2"]
    with Path("first.log").open("w") as log:
        stopped: list[int] = []
        first = subprocess.Popen(words, env=environment(), stdout=log, stderr=log)
    try:
        last, until = Path("checkpoints/es2-quick-impatient/version_0/last.ckpt"), time.monotonic() + 200
        while not last.is_file():
            assert time.monotonic() < until, Path("first.log").read_text()
            assert first.poll() is None, Path("first.log").read_text()
            time.sleep(0.2)
        stopped = descendants(first.pid)[1:]
        assert len(stopped) == 1
        os.kill(stopped[0], signal.SIGSTOP)
        assert first.wait(timeout=200) == 1
    finally:
        kill_machine(first)
        for pid in stopped:  # no longer a child of one that has ended
            os.kill(pid, signal.SIGKILL)
    said = Path("first.log").read_text().splitlines()
    assert [line for line in said if line.startswith("hadrl: error: another rank ended or does not answer")]
    assert not [line for line in said if line.startswith("Traceback")]
