"""What can't be done is said in one line, where it is asked for."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from hadrl_lightning.agents import HADRL
from hadrl_lightning.benchmark import PlanSettings, make_plan
from hadrl_lightning.benchmark.plan import Sweep
from hadrl_lightning.cli.mistakes import resuming_from
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.files import load_tensors
from hadrl_lightning.plots.style import pyplot, save
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork, OffloadingView

THREE = Scenario(num_users=3, decisions_per_episode=1, slots_per_decision=1)


@pytest.fixture(scope="module")
def agent() -> HADRL:
    return HADRL(THREE)


def said_by(ask: Callable[[], Any]) -> str:
    """The one line of a refusal."""
    with pytest.raises((ValueError, RuntimeError)) as refusal:
        ask()
    text = str(refusal.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


# Agents --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        torch.Tensor.double,
        torch.Tensor.half,
        torch.Tensor.bfloat16,
        torch.Tensor.long,
        torch.Tensor.numpy,
        torch.Tensor.tolist,
    ],
)
def test_an_agent_reads_numbers_in_any_form(agent: HADRL, form: Callable[[torch.Tensor], Any]) -> None:
    """Whole numbers below 256, which every format holds."""
    view = EdgeNetwork(THREE, generator=torch.Generator().manual_seed(0)).offloading_view()
    small = {name: value.clamp(max=255) for name, value in view.tensors() if value.dtype != torch.bool}
    other = {"cache": view.cache, **{name: form(value) for name, value in small.items()}}
    expected = agent.decide(replace(view, **small))
    found = agent.decide(OffloadingView.of(**other))
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert agent.decide(view.to(dtype=torch.float64)).server.equal(agent.decide(view).server)


def test_an_agent_plays_networks_in_double_precision_and_none_at_all(agent: HADRL) -> None:
    assert agent.play(EdgeNetwork(THREE, dtype=torch.float64)).latency.isfinite().all()
    nothing = agent.decide(EdgeNetwork(THREE).offloading_view()[:0])
    assert [list(part.shape) for part in nothing] == [[0, 3]] * 3


@pytest.mark.usefixtures("as_installed")
def test_an_agent_says_what_it_cannot_act_on(agent: HADRL) -> None:
    known = {name: value.tolist() for name, value in EdgeNetwork(THREE).offloading_view().tensors()}
    text = "cycles must be an array of real numbers, got "
    for value, rest in ((torch.ones(3, dtype=torch.complex64), "torch.complex64"), (["x" * 5000], "")):
        changed = {**known, "cycles": value}
        assert said_by(lambda changed=changed: OffloadingView.of(**changed)).startswith(text + rest)  # type: ignore[misc]
    assert said_by(lambda: agent.play(EdgeNetwork(THREE, "published"))) == (
        "network must have the physics of the agent (strict), got published"
    )
    assert said_by(lambda: agent.for_scenario(None)) == "scenario must be a Scenario, got None"


# Files ---------------------------------------------------------------------------------------------------------------


class RunsCode:
    """Would run a command where it is loaded carelessly."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_a_file_that_could_run_code_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    torch.save({"a": RunsCode()}, tmp_path / "code.ckpt")
    assert "system, which could run code" in said_by(lambda: load_tensors(tmp_path / "code.ckpt"))
    (tmp_path / "damaged.ckpt").write_bytes(np.random.default_rng(0).bytes(1000))
    assert "must be an undamaged checkpoint" in said_by(lambda: load_tensors(tmp_path / "damaged.ckpt"))


def test_a_name_longer_than_any_file_has_is_none_of_an_agent() -> None:
    assert "(no such file)" in said_by(lambda: HADRL.from_checkpoint("x" * 5000))


def test_a_figure_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    figure = pyplot().figure()
    assert "file/it.pdf can't be written: " in said_by(lambda: save(figure, tmp_path / "file" / "it"))
    pyplot().close(figure)


def test_a_checkpoint_of_an_earlier_state_lacks_something_by_its_name() -> None:
    def load_state_dict(state: dict[str, Any]) -> None:
        state["caching_fades"]

    def resume(load: Callable[[dict[str, Any]], None]) -> None:
        with resuming_from(Path("old.ckpt")):
            load({})

    assert said_by(lambda: resume(load_state_dict)).endswith("got old.ckpt without 'caching_fades'")
    with pytest.raises(KeyError):
        resume(lambda state: state["a bug of ours"])


# Scenario and data ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_installed")
def test_a_scenario_of_nobody_may_say_where_nobody_is_and_needs_a_mapping() -> None:
    assert Scenario(num_users=0, user_positions_m=()).cells == ()
    text = "scenario must be a mapping of its fields, got None"
    assert said_by(lambda: Scenario.from_dict(None)) == text  # type: ignore[arg-type]


def test_data_say_in_words_what_they_are() -> None:
    data = TransitionDataModule(THREE, num_envs=2)
    data.setup("fit")
    assert str(data) == (
        "TransitionDataModule(num_envs=2, num_servers=2, num_users=3, num_services=10, physics=strict, slots=0)"
    )


# Benchmark -----------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_twice_is_computed_and_counted_once() -> None:
    sweep = Sweep("data.scenario.num_users", (5, 5))
    settings = PlanSettings(scenarios=("es2.yaml",) * 2, sweeps=(sweep, sweep), policies=("random+random",))
    assert len(make_plan(settings).entries) == 2 * 5  # with the yardstick, of 5 seeds


def test_a_benchmark_reads_agents_and_seeds_before_anything_is_computed(tmp_path: Path) -> None:
    file = tmp_path / "cut-0.ckpt"
    file.write_bytes(b"PK")
    policies = (str(tmp_path / "cut-{seed}.ckpt"),)
    text = said_by(lambda: make_plan(PlanSettings(policies=policies, seeds=(0,))))
    assert text.startswith(f"policies must be an undamaged checkpoint, got {file}")
    text = said_by(lambda: PlanSettings(seeds=(2**70,)))
    assert text == f"seeds must be at least 0 and below 2^64, got {2**70}"


# Gymnasium -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ServiceCaching", "ComputationOffloading", "EdgeNetwork"])
def test_an_environment_asks_for_a_reset_first_and_for_real_numbers(name: str) -> None:
    env = gymnasium.make(f"hadrl/{name}-v0", scenario=THREE).unwrapped
    action = np.zeros(env.action_space.shape or (), np.float32)
    assert said_by(lambda: env.step(action)) == "step must follow reset: no episode has begun"
    env.reset(seed=0)
    assert said_by(lambda: env.step(action.astype(complex))).startswith(
        "action must be an array of numbers, got "
    )


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("name", "setting", "given"),
    [("ServiceCaching", "offloading_policy", None), ("ComputationOffloading", "caching_policy", "lru")],
)
def test_the_level_that_an_environment_leaves_out_needs_a_function(
    name: str, setting: str, given: Any
) -> None:
    text = said_by(lambda: gymnasium.make(f"hadrl/{name}-v0", scenario=THREE, **{setting: given}))
    assert text == f"{setting} must be a function of the network, got {given!r}"


def test_a_long_value_is_shown_by_its_two_ends() -> None:
    text = str(HadrlError(f"it must be short, got {'a' * 5000}z; be brief"))
    assert text.startswith("it must be short, got aaa")
    assert text.endswith("aaz; be brief")
    assert len(text) < 250
