"""Measures of the epistemic value of one's own, in every form, in settings, in training; the information gain; the
expected free energy: the right pairs, the right signs, each scale once, worked out by hand.
"""

import linecache
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from hadrl_lightning.agents import HADRL, SetWorldModelSettings
from hadrl_lightning.benchmark import PlanSettings, make_plan
from hadrl_lightning.benchmark.training import named, own_modules
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.planning import (
    MEASURES,
    Exploration,
    FreeEnergy,
    GouldForm,
    PlannerSettings,
    Prediction,
    TschantzForm,
    expected_free_energy,
    information_bounds,
    information_gain,
    rollout,
)
from hadrl_lightning.planning.measures import Draws
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import Scenario
from tests.helpers import published_planner

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
            r"strategy must be one of information, posterior, variance, disagreement, random, none, or a measure ",
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


# --- the information gain --------------------------------------------------------------------------------------------


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ensemble(members: int, rows: int, dims: int, scale: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = generator(seed)
    mean = scale * torch.randn(members, rows, dims, generator=draw)
    return mean, -5 + 4 * torch.rand(members, rows, dims, generator=draw)


def test_identical_members_have_nothing_to_tell() -> None:
    mean, log_var = (value[:1].expand(20, -1, -1) for value in ensemble(1, 7, 116, 3.0))
    torch.testing.assert_close(information_gain(mean, log_var), torch.zeros(7), atol=1e-5, rtol=0)


def test_members_far_apart_tell_the_logarithm_of_their_number() -> None:
    mean, log_var = ensemble(20, 7, 116, 10.0)
    torch.testing.assert_close(information_gain(mean, log_var), torch.full((7,), math.log(20)))


def test_two_clusters_of_members_tell_ln_2() -> None:
    mean = torch.tensor([0.0, 0.0, 100.0, 100.0])[:, None, None]
    gain = information_gain(mean, torch.zeros_like(mean))
    torch.testing.assert_close(gain, torch.tensor([math.log(2)]))


def test_two_members_of_equal_variance_have_the_bounds_worked_out_by_hand() -> None:
    """Δ = 2, σ = 1: Bhattacharyya distance Δ²/8 = 0.5, KL divergence Δ²/2 = 2."""
    mean = torch.tensor([0.0, 2.0])[:, None, None]
    bounds = information_bounds(mean, torch.zeros_like(mean))
    torch.testing.assert_close(bounds.lower, torch.tensor([math.log(2) - math.log(1 + math.exp(-0.5))]))
    torch.testing.assert_close(bounds.upper, torch.tensor([math.log(2) - math.log(1 + math.exp(-2))]))


def test_members_that_differ_in_variance_only_have_something_to_tell() -> None:
    """Variances 1 and 4: Bhattacharyya distance ½ ln(2.5/2), KL divergences ½(¼ − 1 + ln 4) and ½(4 − 1 − ln 4)."""
    log_var = torch.tensor([0.0, math.log(4)])[:, None, None]
    bounds = information_bounds(torch.zeros_like(log_var), log_var)
    torch.testing.assert_close(bounds.lower, torch.tensor([math.log(2) - math.log(1 + math.sqrt(2 / 2.5))]))
    to_wide, to_narrow = 0.5 * (0.25 - 1 + math.log(4)), 0.5 * (4 - 1 - math.log(4))
    upper = math.log(2) - 0.5 * (math.log(1 + math.exp(-to_wide)) + math.log(1 + math.exp(-to_narrow)))
    torch.testing.assert_close(bounds.upper, torch.tensor([upper]))


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
def test_monte_carlo_lies_within_the_bounds_and_near_their_middle(dims: int, scale: float) -> None:
    mean, log_var = ensemble(5, 6, dims, scale)
    lower, upper = information_bounds(mean, log_var)
    components = Independent(Normal(mean.transpose(0, 1), (0.5 * log_var).exp().transpose(0, 1)), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(6, 5)), components)
    noise = torch.randn(40_000, 5, 6, dims, generator=generator(1))
    sample = mean + noise * (0.5 * log_var).exp()  # 40 000 of each member
    entropy = -torch.stack([mixture.log_prob(sample[:, member]) for member in range(5)]).mean(dim=(0, 1))
    truth = entropy - components.entropy().mean(dim=1)
    assert (truth > lower - 0.01).all()
    assert (truth < upper + 0.01).all()
    middle = information_gain(mean, log_var)
    assert ((middle - truth).abs() <= (upper - lower) / 2 + 0.01).all()


@pytest.mark.parametrize("scale", [0.0, 0.01, 0.3, 1.0, 30.0, 1000.0])
def test_the_bounded_estimate_stays_between_0_and_ln_members(scale: float) -> None:
    gain = information_gain(*ensemble(20, 9, 116, scale))
    assert (gain >= 0).all()
    assert (gain <= math.log(20) + 1e-6).all()


def test_a_single_member_has_nothing_to_tell() -> None:
    torch.testing.assert_close(information_gain(*ensemble(1, 3, 4, 1.0)), torch.zeros(3))


@pytest.mark.parametrize("estimator", ["bounded", "nearest_neighbour"])
def test_permuting_rows_permutes_the_gain_and_members_do_not_matter_to_the_bounded_one(
    estimator: str,
) -> None:
    mean, log_var = ensemble(5, 8, 3, 0.5)
    order = torch.randperm(8, generator=generator(3))
    gain = information_gain(mean, log_var, estimator, generator(4))
    again = information_gain(mean[:, order], log_var[:, order], estimator, generator(4))
    torch.testing.assert_close(again, gain[order])
    if estimator == "bounded":
        members = torch.tensor([3, 0, 4, 1, 2])
        torch.testing.assert_close(information_gain(mean[members], log_var[members]), gain)


@pytest.mark.parametrize("dims", [1, 342, 2000])
def test_the_published_estimator_is_finite_where_the_volume_of_the_unit_ball_underflows(dims: int) -> None:
    gain = information_gain(*ensemble(20, 4, dims, 1.0), "nearest_neighbour", generator())
    assert gain.isfinite().all()


def test_the_published_estimator_is_finite_when_dimensions_and_members_coincide() -> None:
    mean = torch.zeros(4, 2, 3)
    gain = information_gain(mean, torch.full_like(mean, -200.0), "nearest_neighbour", generator())
    assert gain.isfinite().all()


def test_the_published_estimator_is_kozachenko_leonenko_with_the_second_neighbour() -> None:
    """Members at 0, 1, 3 without noise: distances of the second neighbours are 3, 2, 3; the unit ball has volume 2.

    Entropy = ln 2 − ψ(2) + ln 2 + (ln 3 + ln 2 + ln 3)/3, the members' own ½ ln(2πe·10⁻⁸) by the floor.
    """
    mean = torch.tensor([0.0, 1.0, 3.0])[:, None, None]
    gain = information_gain(mean, torch.full_like(mean, -60.0), "nearest_neighbour", generator())
    entropy = math.log(2) - (1 - 0.5772156649) + math.log(2) + math.log(18) / 3
    own = 0.5 * math.log(2 * math.pi * math.e * 1e-8)
    torch.testing.assert_close(gain, torch.tensor([entropy - own]), rtol=1e-5, atol=1e-5)


def test_half_precision_is_scored_in_float32() -> None:
    mean, log_var = ensemble(6, 5, 20, 0.1)
    gain = information_gain(mean.bfloat16(), log_var.bfloat16())
    assert gain.dtype == torch.float32
    torch.testing.assert_close(gain, information_gain(mean.bfloat16().float(), log_var.bfloat16().float()))
    with torch.autocast("cpu", torch.bfloat16):
        inside = information_gain(mean, log_var)
    torch.testing.assert_close(inside, information_gain(mean, log_var))


def test_the_bounded_gain_has_a_gradient() -> None:
    """Pulling two members apart tells more: the gradient points away from the other."""
    mean = torch.tensor([0.0, 1.0])[:, None, None].requires_grad_()
    information_gain(mean, torch.zeros(2, 1, 1, requires_grad=True)).sum().backward()
    assert mean.grad is not None
    assert mean.grad[0] < 0 < mean.grad[1]


def test_wrong_arguments_are_named() -> None:
    mean, log_var = ensemble(2, 3, 4, 1.0)
    with pytest.raises(
        ValueError, match=r"must both have shape \[members, rows, dims\], got \[2, 3, 4\] and \[3, 4\]"
    ):
        information_gain(mean, log_var[0])
    with pytest.raises(ValueError, match="members must be at least 3 for nearest_neighbour, got 2"):
        information_gain(mean, log_var, "nearest_neighbour", generator())
    with pytest.raises(ValueError, match="generator must be given"):
        information_gain(mean, log_var, "nearest_neighbour")


# The expected free energy ------------------------------------------------------------------------------------------

NO_REWARD_NOISE = -10.0


def prediction(
    reward: Tensor, mean: Tensor | None = None, log_var: float = 0.0, reward_log_var: float = 0.0
) -> Prediction:
    """A step that predicts `reward` [members, rows], and no change unless given."""
    mean = torch.zeros(*reward.shape, 2) if mean is None else mean
    return Prediction(mean, torch.full_like(mean, log_var), reward, torch.full_like(reward, reward_log_var))


class DigitModel:
    """Every pair leaves its mark: state ← 10·state + action digit + 0.1·member, reward = 100·state + action digit."""

    num_members = 3

    def start(self, view: Tensor, num_candidates: int, members: Tensor | None) -> Tensor:
        return view[:, 0].repeat_interleave(num_candidates).expand(self.num_members, -1)

    def step(self, state: Tensor, action: Tensor, members: Tensor | None) -> tuple[Prediction, Tensor]:
        digit = action[:, 0].expand(self.num_members, -1)
        after = 10 * state + digit + 0.1 * torch.arange(self.num_members)[:, None]
        change = (after - state)[..., None]
        return Prediction(
            change, torch.zeros_like(change), 100 * state + digit, torch.zeros_like(state)
        ), after


def test_rewards_are_of_the_pairs_of_state_and_action_from_the_first_on() -> None:
    networks, candidates, horizon = 2, 4, 3
    observation = torch.tensor([[1.0], [2.0]])
    action = torch.randint(
        0, 9, (networks, candidates, horizon, 1), generator=torch.Generator().manual_seed(0)
    ).float()
    expected = torch.zeros(networks, candidates)
    for network in range(networks):
        for candidate in range(candidates):
            for member in range(3):
                state = observation[network, 0].item()
                for t in range(horizon):
                    digit = action[network, candidate, t, 0].item()
                    expected[network, candidate] += (100 * state + digit) / 3
                    state = 10 * state + digit + 0.1 * member
    terms = expected_free_energy(
        rollout(DigitModel(), observation, action), TschantzForm(use_exploration=False)
    )
    torch.testing.assert_close(terms.reward, expected.flatten())
    torch.testing.assert_close(terms.total, -expected.flatten())


def test_the_first_prediction_is_of_the_present_state_and_the_first_action() -> None:
    action = torch.tensor([[[[5.0], [6.0]], [[7.0], [8.0]]]])
    first = next(iter(rollout(DigitModel(), torch.tensor([[3.0]]), action)))
    torch.testing.assert_close(first.reward_mean, torch.tensor([[305.0, 307.0]]).expand(3, -1))


def test_reward_and_exploration_are_each_scaled_once_and_summed_over_steps() -> None:
    """Disagreement of members at −1 and 1 in one of two dimensions: 1 a step."""
    mean = torch.tensor([[[-1.0, 0.0]], [[1.0, 0.0]]])
    step = prediction(torch.tensor([[2.0], [4.0]]), mean)
    form = TschantzForm(exploration=Exploration(strategy="disagreement"), expl_scale=0.1, reward_scale=5.0)
    terms = expected_free_energy([step, step], form)
    assert FreeEnergy(*(term.item() for term in terms)) == pytest.approx((-30.2, -30.0, -0.2, 6.0, 2.0))


@pytest.mark.parametrize(
    ("strategy", "measure"),
    [("information", math.log(2)), ("variance", 2 * 0.25), ("disagreement", 900.0), ("none", 0.0)],
)
def test_each_measure_is_what_it_is_called(strategy: str, measure: float) -> None:
    mean = torch.tensor([[[-30.0, 0.0]], [[30.0, 0.0]]])
    step = prediction(torch.zeros(2, 1), mean, log_var=math.log(0.25))
    terms = expected_free_energy([step], TschantzForm(exploration=Exploration(strategy=strategy)))
    assert terms.measure.item() == pytest.approx(measure)
    assert terms.epistemic.item() == pytest.approx(-0.1 * measure)


def test_the_measure_random_is_the_given_numbers() -> None:
    step = prediction(torch.zeros(2, 3))
    uniform = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    form = TschantzForm(exploration=Exploration(strategy="random"))
    terms = expected_free_energy([step, step], form, Draws(uniform=uniform))
    torch.testing.assert_close(terms.measure, torch.tensor([0.3, 0.7, 1.1]))
    with pytest.raises(ValueError, match="uniform must be given for the strategy random"):
        expected_free_energy([step], form)


@pytest.mark.parametrize(
    "form",
    [
        TschantzForm(use_reward=False, use_exploration=False),
        GouldForm(best_reward=1.0, use_reward=False, use_exploration=False),
    ],
)
def test_what_is_switched_off_does_not_count(form: TschantzForm | GouldForm) -> None:
    terms = expected_free_energy([prediction(torch.ones(2, 3))], form)
    torch.testing.assert_close(terms.total, torch.zeros(3))
    torch.testing.assert_close(terms.reward, torch.ones(3))


def test_permuting_rows_permutes_the_terms() -> None:
    draw = torch.Generator().manual_seed(1)
    step = Prediction(*(torch.randn(size, generator=draw) for size in ((4, 6, 3), (4, 6, 3), (4, 6), (4, 6))))
    order = torch.randperm(6, generator=draw)
    shuffled = Prediction(*(field[:, order] for field in step))
    for strategy in ("information", "variance", "disagreement"):
        for estimator in ("bounded", "nearest_neighbour"):
            form = TschantzForm(exploration=Exploration(strategy=strategy, estimator=estimator))
            for term, again in zip(
                expected_free_energy([step], form), expected_free_energy([shuffled], form)
            ):
                torch.testing.assert_close(again, term[order])


def test_gould_measures_the_distance_to_one_and_a_half_times_the_best_reward() -> None:
    """N(5, e⁻¹) against N(6, 0.5): ½ (e⁻¹/0.5 + 1/0.5 − 1 − ln(e⁻¹/0.5)); mean over members at 5 and 5."""
    step = prediction(torch.tensor([[5.0], [5.0]]), reward_log_var=-1.0)
    terms = expected_free_energy([step], GouldForm(best_reward=4.0, use_exploration=False))
    expected = 0.5 * (math.exp(-1) / 0.5 + 2 - 1 - (-1 - math.log(0.5)))
    assert terms.total.item() == pytest.approx(expected)
    published = GouldForm(best_reward=4.0, use_exploration=False, preferred_reward="published")
    torch.testing.assert_close(expected_free_energy([step], published).total, terms.total)


def test_gould_wants_more_than_a_negative_best_and_does_not_punish_exceeding_the_target() -> None:
    """Rewards worse than, equal to and better than the best seen, −2, and beyond the target −1."""
    step = prediction(torch.tensor([[-3.0, -2.0, -1.5, -1.0, 0.0]]), reward_log_var=NO_REWARD_NOISE)
    score = expected_free_energy([step], GouldForm(best_reward=-2.0, use_exploration=False)).total
    assert GouldForm(best_reward=-2.0).target == -1.0
    assert (score[:3] > score[1:4]).all()
    torch.testing.assert_close(score[3], score[4])
    published = GouldForm(best_reward=-2.0, use_exploration=False, preferred_reward="published")
    assert published.target == -3.0
    assert expected_free_energy([step], published).total.argmin() == 0  # the published quirk, by name


def test_goulds_published_entropy_rewards_noise_and_the_default_does_not() -> None:
    """Two members that agree: nothing to learn however noisy. Entropy of one step: ½ Σ (ln 2πe + log σ²)."""
    quiet, noisy = (prediction(torch.zeros(2, 1), log_var=log_var) for log_var in (-5.0, -1.0))
    default = GouldForm(best_reward=1.0, use_reward=False)
    assert expected_free_energy([quiet], default).total.item() == pytest.approx(0, abs=1e-6)
    assert expected_free_energy([noisy], default).total.item() == pytest.approx(0, abs=1e-6)
    published = GouldForm(best_reward=1.0, use_reward=False, epistemic="entropy")
    entropy = math.log(2 * math.pi * math.e) - 1
    assert expected_free_energy([noisy], published).total.item() == pytest.approx(-entropy)
    assert expected_free_energy([quiet], published).total.item() == pytest.approx(-entropy + 4)


def test_gould_needs_a_best_reward() -> None:
    with pytest.raises(HadrlError, match=r"^planner.form must be another than gould .* best_reward of -inf"):
        GouldForm(best_reward=-math.inf)
    with pytest.raises(ValueError, match="best_reward must be given for the form gould, got None"):
        published_planner(form="gould").make_form()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["mean", "log_var", "reward_mean", "reward_log_var"])
def test_a_row_whose_prediction_is_not_finite_is_the_worst(field: str, bad: float) -> None:
    good = Prediction(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.full((2, 3), -1e6), torch.zeros(2, 3))
    broken = getattr(good, field).clone()
    broken[1, 1] = bad
    for form in (
        TschantzForm(),
        TschantzForm(exploration=Exploration(strategy="none")),
        GouldForm(best_reward=1.0),
    ):
        total = expected_free_energy([good, good._replace(**{field: broken})], form).total
        assert total[1] == math.inf
        assert total[[0, 2]].isfinite().all()


def test_a_reward_with_a_column_too_many_does_not_broadcast() -> None:
    """The import hook of the tests may object first; users without it get the ValueError."""
    step = prediction(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\[members, rows\] twice, got .*\[2, 3, 1\]"):
        expected_free_energy([step._replace(reward_mean=torch.zeros(2, 3, 1))])
    with pytest.raises(ValueError, match="at least 1 step"):
        expected_free_energy([])


def test_the_form_without_settings_is_the_published_one() -> None:
    draw = torch.Generator().manual_seed(1)
    step = Prediction(*(torch.randn(size, generator=draw) for size in ((4, 6, 3), (4, 6, 3), (4, 6), (4, 6))))
    for term, again in zip(
        expected_free_energy([step]), expected_free_energy([step], published_planner().make_form())
    ):
        torch.testing.assert_close(again, term)
