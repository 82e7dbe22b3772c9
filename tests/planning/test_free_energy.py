"""Expected free energy: the right pairs, the right signs, each scale once, worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from hadrl_lightning.planning import (
    Draws,
    Exploration,
    FreeEnergy,
    GouldForm,
    Prediction,
    TschantzForm,
    expected_free_energy,
    rollout,
)
from tests.helpers import published_planner

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
    with pytest.raises(ValueError, match="best_reward must be finite for the form gould, got -inf"):
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
