"""Numbers that break: each kind is injected, and stops the run with where and when or is skipped and counted."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from hadrl_lightning.agents import DDPG, HADRL, SetWorldModel
from hadrl_lightning.agents.actor_critic import ActorCritic
from hadrl_lightning.callbacks import FiniteNumbers
from hadrl_lightning.cli import main
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import NonFiniteError
from hadrl_lightning.files import load_tensors
from hadrl_lightning.planning import CEMPlanner
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork
from tests.helpers import published_collection, published_planner, torchrun

pytestmark = pytest.mark.unchecked

NAN, INF = float("nan"), float("inf")
SCENARIO = Scenario(num_users=4, decisions_per_episode=2)
NUM_ENVS = 3

Inject = Callable[[pytest.MonkeyPatch], None]


def at_call(number: int, owner: type, method: str, spoil: Callable[[Any], Any]) -> Inject:
    """Spoils the result of the `number`-th call (from 0) of a method."""

    def inject(patch: pytest.MonkeyPatch) -> None:
        inner, calls = getattr(owner, method), iter(range(10**9))

        def spoilt(*args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            return spoil(result) if next(calls) == number else result

        patch.setattr(owner, method, spoilt)

    return inject


def one(value: float, row: int = 1) -> Callable[[Tensor], Tensor]:
    """Puts a value into one row of a tensor."""

    def spoil(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[row].flatten()[-1:] = value
        if tensor.ndim == 1:
            tensor[row] = value
        return tensor

    return spoil


def infinite_gradient(loss: Any) -> Any:
    """The same loss with a gradient that is infinite."""

    class Explode(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * INF

    return loss._replace(total=Explode.apply(loss.total))


LOSS = at_call(1, SetWorldModel, "loss", lambda loss: loss._replace(total=loss.total * NAN))
CRITIC_LOSS = at_call(2, ActorCritic, "critic_loss", lambda loss: loss + INF)
GRADIENT = at_call(1, SetWorldModel, "loss", infinite_gradient)
PLAN = at_call(3, CEMPlanner, "plan", lambda plan: plan._replace(action=one(NAN)(plan.action)))
CANDIDATES = at_call(
    0,
    CEMPlanner,
    "plan",
    lambda plan: plan._replace(free_energy=plan.free_energy._replace(total=one(NAN)(plan.free_energy.total))),
)
CACHING = at_call(3, DDPG, "explore", one(NAN))
# Views: at the start of a frame and after each slot of it; the one after slot 4, the last of its frame, is asked again.
VIEW = at_call(
    5, EdgeNetwork, "offloading_view", lambda view: replace(view, compute_hz=one(INF)(view.compute_hz))
)
LATENCY = at_call(4, EdgeNetwork, "step", lambda service: service._replace(latency=one(NAN)(service.latency)))


SWITCHING = at_call(1, EdgeNetwork, "begin_frame", one(NAN))  # a cost that the slow level pays


def train(
    finite: FiniteNumbers, epochs: int = 2, **settings: Any
) -> tuple[HADRL, TransitionDataModule, Trainer]:
    planner = published_planner(
        plan_horizon=2, n_candidates=8, top_candidates=2, optimisation_iters=1, warm_start=True
    )
    module = HADRL(SCENARIO, slow_level="flat", planner=planner, **settings)
    data = TransitionDataModule(
        SCENARIO,
        num_envs=NUM_ENVS,
        passes_per_epoch=2,
        samples_per_pass=32,
        batch_size=16,
        caching_batch_size=4,
        caching_updates_per_epoch=4,
    )
    trainer = quiet_trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[published_collection(seed_decisions=2, decisions_per_epoch=2), finite],
    )
    trainer.fit(module, datamodule=data)
    return module, data, trainer


@pytest.mark.parametrize(
    ("inject", "line"),
    [
        (LOSS, "loss of world_model must be finite, got nan in epoch 0, batch 0"),
        (CRITIC_LOSS, "loss of caching_agent.critic must be finite, got inf in epoch 0, batch 1"),
        (
            GRADIENT,
            r"gradient of world_model\.\S+ must be finite, got (nan|-?inf) \(\d+ of \d+\) in epoch 0, batch 0",
        ),
        (PLAN, "offloading plan must be finite, got nan in network 1, in slot 3 of epoch 1"),
        (
            CANDIDATES,
            "free energy of all candidates must be finite, got nan in network 1, in slot 0 of epoch 1",
        ),
        (CACHING, "caching decision must be finite, got nan in network 1, in slot 5 of epoch 1"),
        (
            VIEW,
            "offloading next_view.compute_hz must be finite, got inf in network 1, in slot 4 of epoch 0",
        ),
        (LATENCY, "offloading reward must be finite, got nan in network 1, in slot 4 of epoch 0"),
    ],
)
def test_stop_names_the_quantity_where_and_when(
    monkeypatch: pytest.MonkeyPatch, inject: Inject, line: str
) -> None:
    inject(monkeypatch)
    with pytest.raises(NonFiniteError, match=line):
        train(FiniteNumbers())


@pytest.mark.parametrize(
    ("inject", "kind", "count"),
    [
        (LOSS, "loss", 1),
        (CRITIC_LOSS, "loss", 1),
        (GRADIENT, "gradient", 1),
        (PLAN, "plan", 1),
        (CANDIDATES, "plan", 1),
        (CACHING, "plan", 1),
        (VIEW, "transition", 1),
        (LATENCY, "transition", 1),
        (SWITCHING, "transition", 1),
    ],
)
def test_skip_goes_on_with_finite_numbers_and_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], inject: Inject, kind: str, count: int
) -> None:
    inject(monkeypatch)
    finite = FiniteNumbers("skip")
    module, data, trainer = train(finite)
    assert {name: number for name, number in finite.totals.items() if number} == {kind: count}
    assert capsys.readouterr().out.strip().endswith(f"Skipped because they were not finite: {count} {kind}")
    assert all(bool(value.isfinite().all()) for _, value in module.named_parameters())
    stored = (data.offloading_buffer.contents(), data.caching_buffer.contents())
    assert all(bool(value.isfinite().all()) for rows in stored for _, value in rows.tensors())
    slots, decisions = 2 * 2 * SCENARIO.slots_per_decision * NUM_ENVS, 2 * 2 * NUM_ENVS
    broken = kind == "transition"
    assert len(data.offloading_buffer) == slots - (broken and inject is not SWITCHING)
    assert len(data.caching_buffer) == decisions - (inject is SWITCHING)
    assert trainer.callback_metrics[f"nonfinite/{kind}"] == (
        count if kind == "plan" else 0
    )  # of the last epoch
    logged = {name: value for name, value in trainer.callback_metrics.items() if name != "step"}
    assert all(bool(value.isfinite()) for value in logged.values()), logged


def test_an_update_that_is_skipped_leaves_weights_and_moments_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}

    def copied(state: Any) -> Any:
        if isinstance(state, dict):
            return {key: copied(value) for key, value in state.items()}
        return state.clone() if isinstance(state, Tensor) else state

    class Watch(FiniteNumbers):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if after == {} and before:
                after.update(look(pl_module))
            skipped = sum(self.counts.values())
            state = look(pl_module)
            super().on_after_backward(trainer, pl_module)
            if sum(self.counts.values()) > skipped:
                before.update(state)

    def look(module: HADRL) -> dict[str, Any]:
        optimizers = module._optimizers()
        moments = {str(key): copied(value) for key, value in enumerate(optimizers[0].state.values())}
        return {"weights": copied(dict(module.world_model.named_parameters())), "moments": moments}

    GRADIENT(monkeypatch)
    train(Watch("skip"), epochs=1)
    assert before["moments"]
    for part in ("weights", "moments"):
        flat = [torch.utils._pytree.tree_leaves(state[part]) for state in (before, after)]
        assert all(torch.equal(first, second) for first, second in zip(*flat, strict=True))


def test_a_broken_plan_becomes_the_middle_of_the_action_space(monkeypatch: pytest.MonkeyPatch) -> None:
    PLAN(monkeypatch)
    _, data, _ = train(FiniteNumbers("skip"))
    planned = data.offloading_buffer.contents().action[2 * SCENARIO.slots_per_decision * NUM_ENVS :]
    noise = 0.9995 ** (2 * SCENARIO.slots_per_decision + 3)
    assert planned[3 * NUM_ENVS + 1].abs().mean() < noise  # only exploration
    assert bool(planned.isfinite().all())


@pytest.mark.parametrize(
    ("strategy", "stored"),
    [
        pytest.param(
            "ensemble_parallel", [(99, 19), (99, 19)], marks=pytest.mark.whole
        ),  # the ranks remember the same
        pytest.param("ddp_find_unused_parameters_true", [(100, 20), (99, 19)], marks=pytest.mark.whole),
    ],
)
def test_ranks_skip_together_what_breaks_on_one_of_them(strategy: str, stored: list[tuple[int, int]]) -> None:
    counts = {"loss": 2, "gradient": 0, "plan": 1, "transition": 2}
    assert torchrun(2, "two_ranks.py", strategy).splitlines()[-1] == f"{counts} {stored}"


def test_a_broken_parameter_never_enters_a_checkpoint_whatever_was_chosen(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, trainer = train(FiniteNumbers("skip"), epochs=1)
    trainer.save_checkpoint("good.ckpt")
    with torch.no_grad():
        next(module.caching_agent.actor.parameters()).view(-1)[0] = INF
    name = next(name for name, value in module.named_parameters() if not bool(value.isfinite().all()))
    with pytest.raises(NonFiniteError, match=f"parameter {name} must be finite, after epoch 1"):
        trainer.save_checkpoint("bad.ckpt")
    assert not Path("bad.ckpt").exists()


# --- on the command line

WORDS = [
    *("fit", "--config", "es2.yaml", "--config", "quick.yaml"),
    "--data.scenario.decisions_per_episode=2",
    "--data.num_envs=2",
    "--data.passes_per_epoch=2",
    "--data.samples_per_pass=32",
    "--data.caching_updates_per_epoch=0",
    "--data.test_episodes=1",
    "--planning.seed_decisions=1",
    "--planning.decisions_per_epoch=1",
    "--trainer.limit_val_batches=0",
    "--trainer.max_epochs=2",
    "--evaluation.references=false",
]


def test_the_command_line_stops_with_the_last_good_checkpoint_and_status_3(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_call(0, CEMPlanner, "plan", lambda plan: plan._replace(action=one(NAN)(plan.action)))(monkeypatch)
    assert main(WORDS) == 3
    (line,) = capsys.readouterr().err.strip().splitlines()
    path = "checkpoints/es2-quick/version_0/last.ckpt"
    assert line.startswith(
        "hadrl: error: offloading plan must be finite, got nan in network 1, in slot 0 of epoch 1"
    )
    assert line.endswith(f"; the last good checkpoint is {path} (after 1 epoch)")
    assert load_tensors(path)["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 1


def test_the_command_line_skips_and_logs(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_call(0, CEMPlanner, "plan", lambda plan: plan._replace(action=one(NAN)(plan.action)))(monkeypatch)
    assert main([*WORDS, "--nonfinite.action=skip"]) == 0
    assert "Skipped because they were not finite: 1 plan" in capsys.readouterr().out
    with Path("checkpoints/es2-quick/version_0/metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["nonfinite/plan"]]
    assert [row["nonfinite/plan"] for row in rows] == ["0.0", "1.0"]


def test_a_broken_plan_stops_a_test_in_one_line_too(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_call(0, CEMPlanner, "plan", lambda plan: plan._replace(action=one(NAN, 0)(plan.action)))(monkeypatch)
    assert main(["test", *WORDS[1:], "--nonfinite.action=skip"]) == 3
    *before, line = capsys.readouterr().err.splitlines()
    assert all("the agent is untrained" in one for one in before)
    assert line == "hadrl: error: offloading plan must be finite, got nan in network 0"


def test_an_unknown_action_is_refused_in_one_line(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, "--nonfinite.action=go"]) == 2
    assert capsys.readouterr().err == "hadrl: error: nonfinite.action must be stop or skip, got go\n"
