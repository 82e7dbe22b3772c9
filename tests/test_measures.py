"""Measures of the epistemic value of one's own: in every form, in settings, in training."""

import linecache
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hadrl_lightning.agents import HADRL, SetWorldModelSettings
from hadrl_lightning.benchmark import PlanSettings, make_plan
from hadrl_lightning.benchmark.own import named, own_modules
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.planning import MEASURES, PlannerSettings, Prediction, expected_free_energy
from hadrl_lightning.planning.measures import Draws
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import Scenario

OWN = """
from hadrl_lightning.planning import needs_uniform
from hadrl_lightning.simulator.processes import Process

class Still(Process):
    pass

def apart(prediction, moment):
    return (prediction.mean[0] - prediction.mean[1]).abs().sum(dim=-1) + 10 * moment.step

@needs_uniform
def chance(prediction, moment):
    return 2 * moment.uniform

def seven(prediction, moment):
    return prediction.reward_mean.mean(dim=0) * 0 + 7

def total(prediction, moment):
    return prediction.mean.sum()

def alone(prediction):
    return prediction.mean
"""
MEAN = torch.tensor([[[0.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [2.0, 4.0]]])
"""Of two members for two rows: they are 0 and 3 apart."""
STEP = Prediction(MEAN, torch.zeros(2, 2, 2), torch.zeros(2, 2), torch.zeros(2, 2))
UNREFINED = {"share_steps": 0, "target_sweeps": 0}
FORMS = ["tschantz", "gould", "outcome"]


@pytest.fixture(autouse=True)
def own_measures(in_empty_folder: Path) -> Iterator[None]:
    """The module `own_measures` lies in the working directory."""
    Path("own_measures.py").write_text(OWN)
    yield
    sys.modules.pop("own_measures", None)


def settings(strategy: str, form: str = "outcome", **others: Any) -> PlannerSettings:
    informed = {} if form == "outcome" else {"informed_candidates": 0}
    return PlannerSettings(form=form, strategy=strategy, use_exploration=True, **{**informed, **others})  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_takes_a_measure_of_a_module(form: str) -> None:
    made = settings("own_measures.apart", form, expl_scale=0.1).make_form(best_reward=1.0)
    terms = expected_free_energy([STEP, STEP], made)
    torch.testing.assert_close(terms.measure, torch.tensor([10.0, 16.0]))  # steps 0 and 1
    torch.testing.assert_close(terms.epistemic, torch.tensor([-1.0, -1.6]))


def test_a_measure_can_ask_for_uniform_numbers_and_has_no_slope_then() -> None:
    made = settings("own_measures.chance", "tschantz", **UNREFINED)
    uniform = torch.tensor([[0.1], [0.4]])
    terms = expected_free_energy([STEP], made.make_form(), Draws(uniform=uniform))
    torch.testing.assert_close(terms.measure, torch.tensor([0.2, 0.8]))
    assert made.needs_uniform
    assert not settings("own_measures.apart").needs_uniform
    with pytest.raises(
        ValueError, match=r"^strategy must not be own_measures.chance where plans are refined"
    ):
        settings("own_measures.chance", "tschantz")


def test_a_measure_that_an_installed_package_declares_goes_by_its_short_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MEASURES, "_entries", dict(MEASURES._entries))
    monkeypatch.syspath_prepend(str(tmp_path))
    info = tmp_path / "their_measures-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-measures\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[hadrl_lightning.measures]\ntheirs = own_measures:seven\n")
    terms = expected_free_energy([STEP], settings("theirs").make_form())
    torch.testing.assert_close(terms.measure, torch.tensor([7.0, 7.0]))


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (
            "luck",
            r"strategy must be one of information, variance, disagreement, random, none, or a measure ",
        ),
        (
            "own_measures.alone",
            r"strategy must be a measure, got own_measures.alone, which is <function alone",
        ),
        (
            "own_measures.lost",
            r"strategy must be a module path that can be imported, got own_measures.lost: Attr",
        ),
    ],
)
def test_what_is_no_measure_is_refused_by_name(strategy: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        settings(strategy)


def test_a_measure_that_gives_no_number_a_row_is_refused_where_it_is_used() -> None:
    form = settings("own_measures.total").make_form()
    with pytest.raises(
        HadrlError, match=r"one number a row, \[2\], got own_measures.total, which gives \[\]$"
    ):
        expected_free_energy([STEP], form)


def test_training_collects_by_a_measure_that_a_settings_file_names() -> None:
    """Of measure 7 at a scale of 0.1 the epistemic value is -0.7 in every plan."""
    Path("mine.yaml").write_text(
        "model: {planner: {strategy: own_measures.seven, use_exploration: true, n_candidates: 4, top_candidates: 2, "
        "optimisation_iters: 1, informed_candidates: 0, share_steps: 1, target_sweeps: 0}}"
    )
    scenario = Scenario(num_users=2, decisions_per_episode=2, slots_per_decision=2)
    small = SetWorldModelSettings(ensemble_size=2, hidden_size=4)
    agent = HADRL.from_config(
        "es2.yaml", "mine.yaml", scenario=scenario, slow_level="flat", set_world_model=small
    )
    data = TransitionDataModule(scenario, num_envs=1, passes_per_epoch=1, batch_size=4, caching_batch_size=2)
    collecting = CEMPlanning(seed_decisions=1, decisions_per_epoch=1, caching_warmup_epochs=0, planner=None)
    trainer = quiet_trainer(max_epochs=2, callbacks=[collecting])
    trainer.fit(agent, datamodule=data)
    assert trainer.callback_metrics["collect/epistemic"] == pytest.approx(-0.7)


def test_the_measure_of_the_documentation_works(root: Path) -> None:
    """Rewards of 1 and 3 are apart by a standard deviation of √2; at step 1 they count 0.9."""
    text = (root / "docs/extending.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(# my_measures.py\n.*?)^```", text, re.M | re.S)
    Path("own_measures.py").write_text(program)
    step = STEP._replace(reward_mean=torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    terms = expected_free_energy([step, step], settings("own_measures.surprise").make_form())
    torch.testing.assert_close(terms.measure, torch.tensor([2**0.5 * 1.9, 0.0]))


def test_a_benchmark_knows_the_text_of_the_modules_of_what_settings_name() -> None:
    def modules(strategy: str) -> dict[str, str]:
        return own_modules(
            named({"model": {"planner": {"strategy": strategy}}, "planning": {"planner": None}})
        )

    process = {"data": {"scenario": {"processes": {"own_measures.Still": {}, "rayleigh_fading": {}}}}}
    before = modules("own_measures.seven")
    assert own_modules(named(process)) == before
    assert set(before) == {"own_measures"}
    overrides = {"model": {"planner": {"strategy": "own_measures.seven"}}}
    plan = make_plan(PlanSettings(policies=("hadrl",), seeds=(0,), overrides=overrides))
    assert plan.cells[-1].settings["modules"] == before
    Path("own_measures.py").write_text(OWN.replace("7", "8"))
    linecache.clearcache()
    assert modules("own_measures.seven") != before
    assert modules("variance") == {}
