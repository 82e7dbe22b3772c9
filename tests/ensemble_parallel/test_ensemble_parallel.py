"""The strategy `ensemble_parallel`: ranks give what one process gives, each holds its members; on two machines too."""

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
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import distributed

from hadrl_lightning.agents import DDPG
from hadrl_lightning.cli.stopping import RankLost, naming_lost_ranks
from hadrl_lightning.distributed import DataShare, MemberWise, Share, member_parameters
from hadrl_lightning.ensemble_parallel import EnsembleParallelStrategy, require_members
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.planning import GaussianProposal
from hadrl_lightning.simulator import OffloadingView, Use, make_generator
from tests.helpers import torchrun
from tests.helpers.ranks import MEMBERS, SCENARIO, belief, build, plan, played_rows, random_rows, train

KINDS = ("flat", "set", "queues")


def launch(ranks: int, folder: Path, kinds: str, max_epochs: int, name: str, resume_from: str = "") -> None:
    """Trains each of the kinds on several gloo ranks; the checkpoints are `folder/KIND-name.ckpt`."""
    words = [kinds, str(max_epochs), str(folder / f"KIND-{name}.ckpt")]
    if resume_from:
        words.append(str(folder / f"KIND-{resume_from}.ckpt"))
    torchrun(ranks, "ranks.py", "train", *words)


def checkpoint(folder: Path, kind: str, name: str) -> dict[str, Any]:
    return torch.load(folder / f"{kind}-{name}.ckpt", weights_only=True)


def record(folder: Path, kind: str, name: str, rank: int = 0) -> dict[str, Any]:
    return torch.load(folder / f"{kind}-{name}.ckpt.rank{rank}", weights_only=True)


def assert_same_learning(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-8) -> None:
    """The same weights, statistics and Adam moments; numbers above 1 relative to their size."""
    close = {"rtol": tolerance, "atol": tolerance}
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(
            other["state_dict"][name], value, **close, msg=lambda m, n=name: f"{n}: {m}"
        )
    for saved, found in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        assert saved["state"].keys() == found["state"].keys()
        for index, entry in saved["state"].items():
            for name, value in entry.items():
                torch.testing.assert_close(found["state"][index][name], value, **close)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All kinds trained for two epochs on given data: by one process (`one`) and by two ranks (`two`)."""
    folder = tmp_path_factory.mktemp("runs")
    launch(2, folder, ",".join(KINDS), 2, "two")
    for kind in KINDS:
        train(kind, 2, folder / f"{kind}-one.ckpt")
    return folder


@pytest.mark.whole
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_learn_the_weights_and_adam_moments_of_one_process(runs: Path, kind: str) -> None:
    assert_same_learning(checkpoint(runs, kind, "one"), checkpoint(runs, kind, "two"))


@pytest.mark.whole
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_logged_as_of_all_members(runs: Path, kind: str) -> None:
    one, two = (record(runs, kind, name)["losses"] for name in ("one", "two"))
    assert len(one) >= 4
    assert two == pytest.approx(one, rel=1e-5)
    assert record(runs, kind, "two", rank=1)["losses"] == two


@pytest.mark.whole
@pytest.mark.parametrize("kind", KINDS)
def test_no_rank_holds_weights_or_moments_of_the_members_of_another(runs: Path, kind: str) -> None:
    ranks = [record(runs, kind, "two", rank) for rank in (0, 1)]
    for held, count in zip(ranks, (2, 3), strict=True):  # of five members
        assert len(held["weights"]) >= 8
        for shapes in (held["weights"], held["moments"]):
            assert {shape[0] for shape in shapes.values()} == {count}


@pytest.mark.whole
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_plan_what_the_whole_ensemble_plans(runs: Path, kind: str) -> None:
    module = build(kind)[0].double()
    module.load_state_dict(checkpoint(runs, kind, "two")["state_dict"])
    whole = plan(module)
    for rank in (0, 1):
        spread = record(runs, kind, "two", rank)["plan"]
        for name, value in whole.items():
            torch.testing.assert_close(spread[name], value, rtol=1e-6, atol=1e-6)
    if kind == "queues":  # what work costs later says something
        module.world_model.carried = None
        assert (plan(module)["action"] - whole["action"]).abs().max() > 0.1


@pytest.mark.whole
def test_ranks_that_learn_while_deployed_believe_what_the_whole_ensemble_believes(runs: Path) -> None:
    module = build("queues")[0].double()
    module.load_state_dict(checkpoint(runs, "queues", "two")["state_dict"])
    whole = belief(module)
    assert whole["log_factor"].abs().max() > 0.1
    for rank in (0, 1):
        for name, value in whole.items():
            found = record(runs, "queues", "two", rank)["belief"][name]
            torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-6)


@pytest.mark.whole
def test_ranks_that_judge_or_play_an_agent_in_memory_keep_their_members_and_plan_as_one_process(
    tmp_path: Path,
) -> None:
    """Two ranks with two members each: as many, so that those of one rank would fit another."""
    torchrun(2, "ranks.py", "play", str(tmp_path / "agent"))
    module, _ = build("set", members=4)
    whole, planned = dict(member_parameters(module)), plan(module)
    for what in ("validate", "test", "predict"):
        for rank, members in enumerate((slice(0, 2), slice(2, 4))):
            found = torch.load(tmp_path / f"agent-{what}.rank{rank}", weights_only=True)
            assert found["weights"].keys() == whole.keys()
            for name, value in whole.items():
                assert torch.equal(found["weights"][name], value[members]), f"{what}, rank {rank}: {name}"
            for name, value in planned.items():
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_for_some_networks_is_their_part_of_the_plan_for_all(kind: str) -> None:
    module, _ = build(kind)
    view = random_rows(OffloadingView.none(SCENARIO), 5, make_generator(2, Use.PLAY))
    if module.scenario.processes:
        view = played_rows(module.scenario).view[-5:]
    model, planner = module.world_model, module.planner
    whole = planner.plan(model, view, make_generator(3, Use.PLAY))
    draw = make_generator(3, Use.PLAY)
    some = planner.plan(model, view, draw, networks=slice(1, 3))
    assert some.action.shape[0] == 2
    torch.testing.assert_close(some.action, whole.action[1:3], rtol=1e-4, atol=1e-4)
    after = make_generator(3, Use.PLAY)
    planner.plan(model, view, after)
    assert torch.equal(draw.get_state(), after.get_state())
    shares = some.proposal if isinstance(some.proposal, GaussianProposal) else some.proposal.shares
    assert len(shares.centre) == 2


def test_more_ranks_than_members_are_refused_with_both_numbers() -> None:
    module, _ = build("flat")
    assert require_members(module, MEMBERS) == Share.whole(MEMBERS)
    with pytest.raises(HadrlError, match=r"at most the members of the ensemble \(5\).*got 6"):
        require_members(module, 6)


def test_a_part_of_an_ensemble_is_neither_copied_nor_written_as_if_it_were_whole(tmp_path: Path) -> None:
    module, _ = build("set")
    for part in module.modules():
        if isinstance(part, MemberWise):
            part.hold(Share(0, 2, MEMBERS))
    told = "agent must hold all 5 members of its ensemble, got 2 on this rank: load the checkpoint of the training"
    for use in (lambda: module.save_weights(tmp_path / "part.ckpt"), lambda: module.for_scenario(SCENARIO)):
        with pytest.raises(HadrlError, match=told):
            use()
    assert not list(tmp_path.iterdir())


def test_a_module_without_an_ensemble_is_refused_by_its_name() -> None:
    with pytest.raises(HadrlError, match="needs a model with an ensemble, got DDPG"):
        require_members(DDPG(3, 2), 1)


def test_preferences_that_ranks_do_not_plan_by_are_refused_before_anything_is_collected() -> None:
    module, _ = build("outcomes")
    assert require_members(module, 1) == Share.whole(MEMBERS)
    with pytest.raises(
        HadrlError, match=r"preferences\.missed and preferences\.dropped must be 0 under trainer"
    ):
        require_members(module, 2)


def test_the_strategy_has_a_name_and_a_timeout_of_half_an_hour() -> None:
    trainer = Trainer(strategy="ensemble_parallel", devices=2, accelerator="cpu", logger=False)
    assert isinstance(trainer.strategy, EnsembleParallelStrategy)
    assert trainer.strategy.timeout_s == 1800
    with pytest.raises(ValueError, match="timeout_s must be above 0 and finite, got -1"):
        EnsembleParallelStrategy(timeout_s=-1.0)


@given(total=st.integers(1, 40), ranks=st.integers(1, 12))
def test_fair_shares_hold_every_item_once_and_equal_shares_every_item(total: int, ranks: int) -> None:
    items = list(range(total))
    fair = [Share.fair(total, rank, ranks) for rank in range(ranks)]
    assert [item for share in fair for item in items[share.items]] == items
    assert max(share.count for share in fair) - min(share.count for share in fair) <= 1
    equal = [Share.equal(total, rank, ranks) for rank in range(ranks)]
    assert {share.count for share in equal} == {-(-total // ranks)}
    assert {item for share in equal for item in items[share.items]} == set(items)


@given(num_rows=st.integers(1, 30), ranks=st.integers(1, 8))
def test_parts_of_a_mean_add_up_to_it(num_rows: int, ranks: int) -> None:
    values = torch.arange(num_rows, dtype=torch.float64)
    shares = [DataShare(rank, ranks) for rank in range(ranks)]
    parts = [share.weight(num_rows) * values[share.of(num_rows).items].mean() for share in shares]
    assert float(sum(parts)) == pytest.approx(float(values.mean()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_from_1_to_2_to_3_to_1_ranks_equals_the_uninterrupted_one(
    tmp_path: Path, kind: str
) -> None:
    train(kind, 4, tmp_path / f"{kind}-whole.ckpt")
    train(kind, 1, tmp_path / f"{kind}-1.ckpt")
    launch(2, tmp_path, kind, 2, "2", resume_from="1")
    launch(3, tmp_path, kind, 3, "3", resume_from="2")
    train(kind, 4, tmp_path / f"{kind}-4.ckpt", tmp_path / f"{kind}-3.ckpt")
    whole, parts = checkpoint(tmp_path, kind, "whole"), checkpoint(tmp_path, kind, "4")
    assert_same_learning(whole, parts)
    assert (
        parts["optimizer_states"][0]["state"][0]["step"] == whole["optimizer_states"][0]["state"][0]["step"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_collect_with_their_networks_what_one_process_collects_with_all(
    tmp_path: Path, kind: str
) -> None:
    """The first epoch's slots are not planned: they are exact. Planned ones follow up to rounding, which the structured
    planner may magnify where two decisions are equally good.
    """
    planner_is_smooth = kind == "flat"
    kind = f"{kind}-collecting"
    train(kind, 2, tmp_path / f"{kind}-one.ckpt")
    launch(3, tmp_path, kind, 1, "first")
    launch(2, tmp_path, kind, 2, "two", resume_from="first")
    one, two = (checkpoint(tmp_path, kind, name) for name in ("one", "two"))
    key = next(name for name in one if name.endswith("TransitionDataModule"))
    (own,), (found,) = one[key]["ranks"], two[key]["ranks"]
    assert found["slots"] == own["slots"] == 2 * SCENARIO.slots_per_decision * 5
    remembered, again = (
        {
            entry: value
            for one in ranks["network"]["processes"]["memory"].values()
            for entry, value in one.items()
        }
        for ranks in (own, found)
    )
    assert remembered.keys() == again.keys() >= {"requests", "positions"}
    assert all(torch.equal(again[entry], value) for entry, value in remembered.items())
    assert torch.equal(found["network"]["generator"], own["network"]["generator"])
    for buffer, seeded in (("offloading_buffer", SCENARIO.slots_per_decision * 5), ("caching_buffer", 5)):
        for name, value in own[buffer]["fields"].items():
            again = found[buffer]["fields"][name]
            assert torch.equal(again[:seeded], value[:seeded]), name
            assert again.shape == value.shape
            if planner_is_smooth:
                torch.testing.assert_close(again, value, rtol=1e-3, atol=1e-3, msg=name)
    acting = [saved["callbacks"]["CEMPlanning"] for saved in (one, two)]
    first, second = (saved["ranks"][0]["generator"] for saved in acting)
    assert torch.equal(first, second)


@pytest.mark.slow
def test_the_strategy_works_on_one_device_too(tmp_path: Path) -> None:
    launch(1, tmp_path, "set", 1, "alone")
    train("set", 1, tmp_path / "set-one.ckpt")
    assert_same_learning(checkpoint(tmp_path, "set", "one"), checkpoint(tmp_path, "set", "alone"))


# --- two machines: processes on loopback, by the shipped launch files ------------------------------------------------


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
