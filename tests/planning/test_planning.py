"""The cross-entropy method: optima it must find, what must not change a plan, and candidates that must never win."""

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from hadrl_lightning import HADRL
from hadrl_lightning.agents.set_world_model import SetWorldModel
from hadrl_lightning.planning import (
    CategoricalProposal,
    CEMPlanner,
    GaussianProposal,
    Plan,
    PlannerSettings,
    Prediction,
    RefinementSettings,
    refine,
)
from hadrl_lightning.planning.carried import CarriedWork
from hadrl_lightning.planning.proposal import bin_centre
from hadrl_lightning.planning.refine import sweep_targets
from hadrl_lightning.planning.rounds import plan_by_sums
from hadrl_lightning.planning.starts import usual_targets
from hadrl_lightning.planning.sums import best_shares, best_targets, targets_cost
from hadrl_lightning.simulator import EdgeNetwork, OffloadingView, bin_index, decode_offloading
from tests.agents.test_set_world_model import FORM, WORST, Toy, prediction_of
from tests.helpers import published_planner

QUICK = published_planner(
    plan_horizon=2, n_candidates=60, top_candidates=6, optimisation_iters=5, strategy="none"
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settings(**changes: Any) -> PlannerSettings:
    return dataclasses.replace(QUICK, **changes)


class TargetModel:
    """Reward −|action − observation|², seen alike by all members; notes what it is asked."""

    def __init__(self, num_members: int = 3) -> None:
        self.num_members = num_members
        self.rows: list[int] = []
        self.members: list[Tensor | None] = []
        self.actions: list[Tensor] = []

    def start(self, view: Tensor, num_candidates: int, members: Tensor | None) -> Tensor:
        return view.repeat_interleave(num_candidates, dim=0)

    def reward(self, state: Tensor, action: Tensor) -> Tensor:
        return -(action - state).square().sum(dim=-1)

    def step(self, state: Tensor, action: Tensor, members: Tensor | None) -> tuple[Prediction, Tensor]:
        used = self.num_members if members is None else len(members)
        self.rows.append(used * len(action))
        self.members.append(members)
        self.actions.append(action)
        reward = self.reward(state, action).expand(used, -1)
        change = state.expand(used, -1, -1)
        return Prediction(change, torch.zeros_like(change), reward, torch.zeros_like(reward)), state


class LotteryModel(TargetModel):
    """Users must be sent to the first or the last of the servers, whichever the sign of the observation says."""

    num_targets = 5

    def reward(self, state: Tensor, action: Tensor) -> Tensor:
        right = torch.where(state > 0, self.num_targets - 1, 0)
        hits = (bin_index(action[:, : state.shape[1]], self.num_targets) == right).float().sum(dim=-1)
        return hits - (action[:, state.shape[1] :] - 0.3).square().sum(dim=-1)


class BrokenModel(TargetModel):
    """As `TargetModel`, but rows whose first action is above 0 are broken."""

    def __init__(self, bad: float) -> None:
        super().__init__()
        self.bad = bad

    def reward(self, state: Tensor, action: Tensor) -> Tensor:
        return super().reward(state, action).masked_fill(action[:, 0] > 0, self.bad)


OBSERVATION = torch.tensor([[0.5, -0.3], [-0.8, 0.1], [0.0, 0.9]])


def assert_same_plan(plan: Plan, other: Plan) -> None:
    assert torch.equal(plan.action, other.action)
    assert torch.equal(plan.proposal.mean(), other.proposal.mean())
    assert torch.equal(plan.num_nonfinite, other.num_nonfinite)
    torch.testing.assert_close(plan.free_energy.total, other.free_energy.total, equal_nan=True)
    torch.testing.assert_close(plan.elite_spread, other.elite_spread, equal_nan=True)


def test_it_finds_the_optimum_of_each_network_at_every_step() -> None:
    plan = CEMPlanner(2, settings(n_candidates=300, top_candidates=30, optimisation_iters=10)).plan(
        TargetModel(), OBSERVATION, generator()
    )
    torch.testing.assert_close(plan.action, OBSERVATION, atol=0.02, rtol=0)
    torch.testing.assert_close(
        plan.proposal.mean(), OBSERVATION[:, None].expand(-1, 2, -1), atol=0.05, rtol=0
    )
    assert (plan.free_energy.total < 0.01).all()
    assert (plan.elite_spread < 0.1).all()
    assert (plan.num_nonfinite == 0).all()


def test_it_reaches_an_optimum_at_the_bound_without_collapsing() -> None:
    """Clipping, not truncating: the standard deviation may shrink but the plan gets to 1 and stays finite."""
    observation = torch.tensor([[1.0, -1.0]])
    plan = CEMPlanner(2, settings(optimisation_iters=20)).plan(TargetModel(), observation, generator())
    torch.testing.assert_close(plan.action, observation, atol=0.01, rtol=0)


def test_categorical_targets_find_first_or_last_server_and_the_shares() -> None:
    observation = torch.tensor([[1.0, -1.0, 1.0, 1.0], [-1.0, -1.0, 1.0, -1.0]])
    planner = CEMPlanner(
        12,
        settings(proposal="categorical", n_candidates=300, top_candidates=30, optimisation_iters=8),
        num_users=4,
        num_targets=5,
    )
    plan = planner.plan(LotteryModel(), observation, generator())
    torch.testing.assert_close(plan.action[:, :4], observation * 0.8)  # centres of the outermost of five bins
    torch.testing.assert_close(plan.action[:, 4:], torch.full((2, 8), 0.3), atol=0.1, rtol=0)
    assert isinstance(plan.proposal, CategoricalProposal)
    torch.testing.assert_close(plan.proposal.probability.sum(dim=-1), torch.ones(2, 2, 4))
    assert (plan.proposal.probability > 0.0039).all()  # 2 % of smoothing over five targets


def test_categorical_candidates_hold_bin_centres() -> None:
    model = LotteryModel()
    planner = CEMPlanner(6, settings(proposal="categorical"), num_users=2, num_targets=5)
    planner.plan(model, torch.ones(1, 2), generator())
    seen = torch.cat(model.actions)
    centres = torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8])
    assert ((seen[:, :2, None] - centres).abs().min(dim=-1).values < 1e-6).all()
    assert (seen.abs() <= 1).all()


@pytest.mark.parametrize("num_bins", [1, 2, 3, 5, 7, 64])
def test_every_bin_is_the_bin_of_its_centre(num_bins: int) -> None:
    index = torch.arange(num_bins)
    assert torch.equal(bin_index(bin_centre(index, num_bins), num_bins), index)
    assert bin_index(torch.tensor([-1.0, 1.0]), num_bins).tolist() == [0, num_bins - 1]


def test_the_action_belongs_to_the_last_refit() -> None:
    """One iteration by hand: the mean of the best six of the sixty candidates that the model was shown."""
    model = TargetModel()
    plan = CEMPlanner(2, settings(optimisation_iters=1)).plan(model, OBSERVATION[:1], generator())
    first, second = model.actions
    score = model.reward(OBSERVATION[0], first) + model.reward(OBSERVATION[0], second)
    best = score.topk(6).indices
    torch.testing.assert_close(plan.action[0], first[best].mean(dim=0))
    torch.testing.assert_close(plan.free_energy.total[0], -score[best].mean())
    torch.testing.assert_close(plan.elite_spread[0], first[best].std(dim=0, unbiased=False).mean())
    assert isinstance(plan.proposal, GaussianProposal)
    torch.testing.assert_close(plan.proposal.std[0, 1], second[best].std(dim=0, unbiased=False))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_candidates_that_are_not_finite_never_win_and_are_counted(bad: float) -> None:
    """Without the broken rows the best first action would be 0.5; every return is negative, so a 0 would win too."""
    model = BrokenModel(bad)
    plan = CEMPlanner(2, settings(plan_horizon=1)).plan(model, OBSERVATION, generator())
    assert (plan.action[:, 0] <= 0).all()
    seen = torch.stack(model.actions).reshape(5, 3, 60, 2)  # iterations, networks, candidates, action
    assert torch.equal(plan.num_nonfinite, (seen[..., 0] > 0).sum(dim=(0, 2)))
    assert plan.free_energy.total.isfinite().all()


def test_with_fewer_finite_candidates_than_elites_only_the_finite_ones_count() -> None:
    model = BrokenModel(math.nan)
    plan = CEMPlanner(2, settings(plan_horizon=1, optimisation_iters=1, top_candidates=60)).plan(
        model, OBSERVATION[:1], generator()
    )
    (seen,) = model.actions
    torch.testing.assert_close(plan.action[0], seen[seen[:, 0] <= 0].mean(dim=0))


@pytest.mark.parametrize("proposal", ["gaussian", "categorical"])
def test_when_no_candidate_is_finite_the_proposal_stays_as_it_was(proposal: Any) -> None:
    model = BrokenModel(math.nan)
    model.reward = lambda state, action: torch.full_like(action[:, 0], math.nan)  # type: ignore[method-assign]
    planner = CEMPlanner(2, settings(proposal=proposal), num_users=1, num_targets=2)
    plan = planner.plan(model, OBSERVATION, generator())
    torch.testing.assert_close(plan.proposal.mean()[:, :, 1], torch.zeros(3, 2))
    assert plan.action.isfinite().all()
    assert plan.num_nonfinite.tolist() == [300, 300, 300]
    assert plan.free_energy.total.isnan().all()


@pytest.mark.parametrize("strategy", ["none", "random", "information"])
@pytest.mark.parametrize("proposal", ["gaussian", "categorical"])
def test_a_plan_does_not_depend_on_max_rows_which_bounds_the_rows_the_model_sees(
    strategy: Any, proposal: Any
) -> None:
    plans = []
    for max_rows in (3, 50, 200, 400, 10**6):
        model = TargetModel()
        chosen = settings(
            max_rows=max_rows, strategy=strategy, proposal=proposal, optimisation_iters=2, n_candidates=40
        )
        planner = CEMPlanner(2, chosen, num_users=1, num_targets=3)
        plans.append(planner.plan(model, OBSERVATION, generator()))
        assert max(model.rows) <= max_rows
        assert sum(model.rows) == 3 * 40 * 3 * 2 * 2  # networks, candidates, members, steps, iterations
    for plan in plans[1:]:
        assert_same_plan(plan, plans[0])


def test_the_published_estimator_does_not_depend_on_max_rows_either() -> None:
    plans = [
        CEMPlanner(
            2, settings(max_rows=rows, strategy="information", information_estimator="nearest_neighbour")
        ).plan(TargetModel(), OBSERVATION, generator())
        for rows in (30, 10**6)
    ]
    assert_same_plan(*plans)


def test_the_same_seed_plans_the_same_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    planner = CEMPlanner(2, settings(strategy="random", planning_members=2))
    plan = planner.plan(TargetModel(), OBSERVATION, generator(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_plan(planner.plan(TargetModel(), OBSERVATION, generator(5)), plan)
    assert not torch.equal(planner.plan(TargetModel(), OBSERVATION, generator(6)).action, plan.action)


def test_a_network_is_planned_without_regard_to_the_others() -> None:
    """The first network draws first, so it gets the same plan alone and in company, in a single iteration."""
    planner = CEMPlanner(2, settings(optimisation_iters=1))
    alone = planner.plan(TargetModel(), OBSERVATION[:1], generator())
    together = planner.plan(TargetModel(), OBSERVATION, generator())
    assert torch.equal(alone.action[0], together.action[0])


def test_drawn_members_are_distinct_and_shared_by_all_candidates_of_an_iteration() -> None:
    model = TargetModel(num_members=6)
    CEMPlanner(2, settings(planning_members=2, max_rows=16, optimisation_iters=4)).plan(
        model, OBSERVATION, generator()
    )
    calls_per_iteration = len(model.members) // 4
    drawn = [tuple(members.tolist()) for members in model.members if members is not None]
    assert len(drawn) == len(model.members)
    for iteration in range(4):
        part = drawn[iteration * calls_per_iteration : (iteration + 1) * calls_per_iteration]
        assert len(set(part)) == 1
        assert len(set(part[0])) == 2
    assert len(set(drawn)) > 1


def test_a_warm_start_begins_with_the_previous_plan_one_step_on() -> None:
    planner = CEMPlanner(2, settings(warm_start=True, plan_horizon=3))
    previous = planner.plan(TargetModel(), OBSERVATION, generator())
    shifted = previous.proposal.shifted()
    assert isinstance(shifted, GaussianProposal)
    assert torch.equal(shifted.centre[:, :2], previous.proposal.mean()[:, 1:])
    assert torch.equal(shifted.centre[:, 2], torch.zeros(3, 2))
    assert torch.equal(shifted.std, torch.ones(3, 3, 2))
    model = TargetModel()
    planner.plan(model, OBSERVATION, generator(1), warm_start=previous)
    first = model.actions[0].reshape(3, 60, 2).mean(dim=1)
    assert (first - OBSERVATION * 0.6).norm() < (
        first
    ).norm()  # clipping draws the mean of candidates to the middle
    cold = CEMPlanner(2, settings(plan_horizon=3))
    assert_same_plan(
        cold.plan(TargetModel(), OBSERVATION, generator(1), warm_start=previous),
        cold.plan(TargetModel(), OBSERVATION, generator(1)),
    )


def test_a_categorical_warm_start_goes_half_way_back_to_uniform() -> None:
    proposal = CategoricalProposal(
        torch.tensor([[[[0.5, 0.5]], [[0.9, 0.1]]]]),
        GaussianProposal(torch.zeros(1, 2, 1), torch.ones(1, 2, 1)),
    )
    torch.testing.assert_close(proposal.shifted().probability, torch.tensor([[[[0.7, 0.3]], [[0.5, 0.5]]]]))


def test_a_warm_start_of_other_sizes_is_refused() -> None:
    planner = CEMPlanner(2, settings(warm_start=True))
    previous = planner.plan(TargetModel(), OBSERVATION[:2], generator())
    with pytest.raises(
        ValueError, match=r"warm_start must be a plan of the same settings .*\[3, 2, 2\], got \[2, 2, 2\]"
    ):
        planner.plan(TargetModel(), OBSERVATION, generator(), warm_start=previous)


def test_unclipped_candidates_leave_the_bounds_but_the_action_does_not() -> None:
    model = TargetModel()
    observation = torch.tensor([[3.0, -3.0]])
    plan = CEMPlanner(2, settings(clip_actions=False)).plan(model, observation, generator())
    assert torch.cat(model.actions).abs().max() > 1
    assert plan.action.tolist() == [[1.0, -1.0]]


def test_standard_deviations_stay_above_their_floor() -> None:
    plan = CEMPlanner(2, settings(min_std=0.2, optimisation_iters=15)).plan(
        TargetModel(), OBSERVATION, generator()
    )
    assert isinstance(plan.proposal, GaussianProposal)
    assert plan.proposal.std.min() == pytest.approx(0.2)


def test_huge_rewards_of_equal_size_still_rank() -> None:
    """Scores are ranked, not exponentiated: an offset of −10⁴ changes nothing."""
    model = TargetModel()
    model.reward = lambda state, action: TargetModel.reward(model, state, action) - 1e4  # type: ignore[method-assign]
    plan = CEMPlanner(2, settings(optimisation_iters=8)).plan(model, OBSERVATION, generator())
    torch.testing.assert_close(plan.action, OBSERVATION, atol=0.2, rtol=0)


def test_goulds_form_plans_too_and_needs_the_best_reward() -> None:
    planner = CEMPlanner(2, settings(form="gould", optimisation_iters=8, n_candidates=200))
    with pytest.raises(ValueError, match="best_reward must be given"):
        planner.plan(TargetModel(), OBSERVATION, generator())
    plan = planner.plan(TargetModel(), OBSERVATION, generator(), best_reward=torch.tensor(-0.5))
    reward = TargetModel().reward(OBSERVATION, plan.action)
    assert (reward > -0.3).all()  # the target is −0.25; beyond it nothing is gained


def test_double_precision_observations_plan_in_double_precision() -> None:
    plan = CEMPlanner(2, QUICK).plan(TargetModel(), OBSERVATION.double(), generator())
    assert plan.action.dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan_horizon": 0}, "plan_horizon must be at least 1, got 0"),
        ({"top_candidates": 61}, r"top_candidates must be at most n_candidates \(60\), got 61"),
        ({"expl_scale": -1.0}, "expl_scale must be at least 0 and finite, got -1.0"),
        ({"reward_scale": math.nan}, "reward_scale must be a number, got nan"),
        ({"initial_std": 0.0}, "initial_std must be above 0 and finite, got 0.0"),
        ({"planning_members": 0}, "planning_members must be at least 1"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("form", "tschantz, gould, outcome"),
        ("strategy", "information, posterior, variance, disagreement, random, none"),
        ("information_estimator", "bounded, nearest_neighbour"),
        ("proposal", "gaussian, categorical"),
        ("preferred_reward", "above_best, published"),
        ("gould_epistemic", "measure, entropy"),
    ],
)
def test_words_that_are_no_choice_are_named(name: str, allowed: str) -> None:
    with pytest.raises(
        ValueError, match=f"^{name} must be one of {allowed}(, or a measure .*)?, got '?luck'?$"
    ):
        settings(**{name: "luck"})


def test_plans_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="view must be of at least 1 network, got 0"):
        CEMPlanner(2, QUICK).plan(TargetModel(), OBSERVATION[:0], generator())
    with pytest.raises(ValueError, match=r"max_rows must be at least the members used \(3\), got 2"):
        CEMPlanner(2, settings(max_rows=2)).plan(TargetModel(), OBSERVATION, generator())
    with pytest.raises(
        ValueError, match=r"planning_members must be at most the members of the model \(3\), got 4"
    ):
        CEMPlanner(2, settings(planning_members=4)).plan(TargetModel(), OBSERVATION, generator())
    with pytest.raises(ValueError, match="num_targets must be at least 1 for proposal categorical, got None"):
        CEMPlanner(2, settings(proposal="categorical"))
    with pytest.raises(ValueError, match=r"num_users must be at least 1 .* got 3"):
        CEMPlanner(2, settings(proposal="categorical"), num_users=3, num_targets=2)


# Plans from what a model knows of sharing ----------------------------------------------------------------------------


def problem(
    networks: int, users: int, servers: int, resources: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    root = torch.rand(networks, resources, users, servers, generator=draw) ** 2
    return root, 0.3 * torch.rand(networks, users, servers, generator=draw)


def cost_of(root: Tensor, base: Tensor, target: list[int]) -> float:
    """Σ_s Σ_r (Σ_u root_usr)² + Σ_u base_us of one network, in plain loops."""
    total = sum(float(base[user, server]) for user, server in enumerate(target))
    for resource in root:
        for server in range(root.shape[2]):
            total += sum(float(resource[u, s]) for u, s in enumerate(target) if s == server) ** 2
    return total


def test_targets_by_sums_are_near_the_best_of_all() -> None:
    root, base = problem(20, 6, 3)
    found = best_targets(root, base).tolist()
    ratios = []
    for n in range(20):
        best = min(cost_of(root[n], base[n], list(t)) for t in itertools.product(range(3), repeat=6))
        ratios.append(cost_of(root[n], base[n], found[n]) / best)
    assert min(ratios) >= 1 - 1e-6
    assert max(ratios) < 1.05
    assert sum(ratios) / 20 < 1.005


def test_no_move_of_a_single_user_saves_anything() -> None:
    root, base = problem(5, 40, 6, seed=1)
    for n, target in enumerate(best_targets(root, base).tolist()):
        least = cost_of(root[n], base[n], target)
        for user, server in itertools.product(range(40), range(6)):
            moved = [*target[:user], server, *target[user + 1 :]]
            assert cost_of(root[n], base[n], moved) > least * (1 - 2e-4)


def test_targets_do_not_depend_on_the_networks_beside_them() -> None:
    root, base = problem(7, 12, 4, seed=2)
    together = best_targets(root, base)
    assert all(torch.equal(best_targets(root[n : n + 1], base[n : n + 1])[0], together[n]) for n in range(7))


class Roots:
    """Users at their targets whose weights are e^(2 a) and e^(2 b) of their share actions a and b."""

    def __init__(self, demand: Tensor) -> None:
        self.demand = demand

    def slopes(self, share: Tensor) -> tuple[Tensor, Tensor]:
        weight = (2 * share).exp().transpose(1, 2)[None]
        slope = 2 * torch.eye(2)[:, :, None].expand(1, len(share), 2, 2, share.shape[1])
        return weight, slope

    def predict(self, share: Tensor) -> Prediction:
        raise NotImplementedError


def test_shares_are_in_proportion_to_the_square_roots_of_demands() -> None:
    demand = torch.tensor([[1.0, 2.0, 3.0, 1.0, 4.0], [2.0, 1.0, 1.0, 5.0, 1.0]])[None, None]
    target = torch.tensor([[0, 0, 0, 1, 1]])
    users = Roots(demand)
    weight = users.slopes(best_shares(users, target, 2))[0][0, 0]
    for members in ([0, 1, 2], [3, 4]):
        for resource in range(2):
            share = weight[resource, members] / weight[resource, members].sum()
            root = demand[0, 0, resource, members].sqrt()
            torch.testing.assert_close(share, root / root.sum(), rtol=1e-3, atol=0)


class Even(Roots):
    """Users whose weights do not hang on their shares at all."""

    def slopes(self, share: Tensor) -> tuple[Tensor, Tensor]:
        weight, slope = super().slopes(share)
        return torch.ones_like(weight), torch.zeros_like(slope)


def test_shares_that_change_nothing_stay() -> None:
    assert not best_shares(Even(torch.ones(1, 1, 2, 3)), torch.zeros(1, 3, dtype=torch.int64), 2).any()


def test_many_more_steps_of_the_shares_save_less_than_a_hundredth(
    agent: HADRL, views: OffloadingView, monkeypatch: pytest.MonkeyPatch
) -> None:
    def latency() -> Tensor:
        return plan_by_sums(model, views, None).prediction.mean.exp().mean(dim=0).sum(dim=1)

    model = cast(SetWorldModel, agent.world_model)
    found = latency()
    monkeypatch.setattr("hadrl_lightning.planning.sums.SHARE_STEPS", 100)
    assert (found / latency()).max() < 1.01


def test_a_plan_by_sums_does_not_depend_on_how_many_pairs_are_described_at_once(
    agent: HADRL, views: OffloadingView
) -> None:
    model = cast(SetWorldModel, agent.world_model)
    whole, parts = (plan_by_sums(model, views, None, pairs_at_once=number) for number in (10_000, 17))
    assert torch.equal(whole.target, parts.target)
    torch.testing.assert_close(whole.share, parts.share, rtol=0, atol=1e-3)


# Work that plans leave behind -----------------------------------------------------------------------------------------


def test_what_is_left_costs_its_price_and_half_of_how_that_rises_times_its_square() -> None:
    left = CarriedWork(
        work=torch.tensor([[0.5, 1.0], [0.25, 0.5], [2.0, 1.0]]).expand(2, 1, 3, 2),
        backlog=torch.tensor([[1.0, 0.0]]),
        done=torch.tensor([[[0.5, 2.0]], [[2.0, 2.0]]]),  # of two members
        price=torch.tensor([3.0, 2.0]).expand(2, 1, 2),
        rise=torch.tensor([2.0, 4.0]).expand(2, 1, 2),
    )
    # 1 + 0.5 + 0.25 − 0.5 = 1.25 s at the first server, 3 · 1.25 + 1.25² there by the first member; nothing else.
    assert left.cost(torch.tensor([[0, 0, 1]])).tolist() == [5.3125 / 2]
    # 0.5 s at the first server, by the first member alone, and 2.5 − 2 = 0.5 s at the second one by both.
    assert left.cost(torch.tensor([[1, 1, 1]])).tolist() == [(3 * 0.5 + 0.5**2) / 2 + 2 * 0.5 + 2 * 0.5**2]


def left_at_random(
    networks: int, users: int, servers: int, dtype: torch.dtype, members: int = 1
) -> CarriedWork:
    draw = generator(3)

    def drawn(scale: float, *sizes: int) -> Tensor:
        return scale * torch.rand(sizes, generator=draw, dtype=dtype)

    of_servers = (members, networks, servers)
    return CarriedWork(
        drawn(1.0, members, networks, users, servers),
        drawn(2.0, networks, servers),
        *(drawn(scale, *of_servers) for scale in (4.0, 3.0, 2.0)),
    )


@pytest.mark.parametrize("servers", [1, 3])
def test_near_targets_sums_tell_what_every_single_move_changes_of_the_cost(servers: int) -> None:
    networks, users = 6, 7
    left = left_at_random(networks, users, servers, torch.float64)
    target = torch.randint(servers, (networks, users), generator=generator())
    near = left.near(target)

    def both(at: Tensor) -> tuple[Tensor, Tensor]:
        return left.cost(at), targets_cost(near.root[:, None], near.extra, at)

    cost, total = both(target)
    changes = []
    for user, server in itertools.product(range(users), range(servers)):
        moved = target.clone()
        moved[:, user] = server
        after, sums = both(moved)
        torch.testing.assert_close(sums - total, after - cost, rtol=0, atol=1e-9)
        changes.append(after - cost)
    assert servers == 1 or torch.stack(changes).abs().max() > 1


class Pairs:
    """A sharing model of given demands, of users whose weights are as of `Roots`."""

    num_members, knows_sharing = 1, True

    def __init__(self, demand: Tensor, base: Tensor) -> None:
        self.demand, self.base = demand, base

    def pair_demands(self, view: Tensor, members: Tensor | None, pairs_at_once: int = 1) -> Tensor:
        return torch.cat((self.demand, self.base[:, None]), dim=1)[None]

    def at_targets(self, view: Tensor, target: Tensor, members: Tensor | None) -> "PairsAt":
        return PairsAt(self, target)


class PairsAt(Roots):
    def __init__(self, model: Pairs, target: Tensor) -> None:
        place = target[:, None].expand(model.demand.shape[:3])
        super().__init__(model.demand.gather(3, place[..., None]).squeeze(3)[None])
        self.base = model.base.gather(2, target[..., None]).squeeze(2)
        self.together = (target[:, :, None] == target[:, None]).float()

    def predict(self, share: Tensor) -> Prediction:
        weight = self.slopes(share)[0]
        pooled = weight @ self.together
        latency = (self.demand * pooled / weight).sum(dim=2) + self.base
        reward = -latency.sum(dim=-1)
        return Prediction(latency.log(), torch.full_like(latency, -40.0), reward, torch.zeros_like(reward))


class Carrying(Pairs):
    """One that knows what work is left."""

    def __init__(self, demand: Tensor, base: Tensor, left: CarriedWork) -> None:
        super().__init__(demand, base)
        self.left = left

    def carried_work(self, view: Tensor, members: Tensor | None, pairs_at_once: int = 1) -> CarriedWork:
        return self.left


def test_a_plan_goes_where_leaving_work_is_cheap_and_by_the_slot_alone_where_it_costs_nothing() -> None:
    # Two networks of one user, two servers and two resources: 1 s at the first server, 1.2 s at the second one.
    demand = torch.tensor([0.5, 0.6]).expand(2, 2, 1, 2)
    one, nothing = torch.ones(1, 2, 1, 2), torch.zeros(1, 2, 2)
    price = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])  # the first server of the first network is dear
    left = CarriedWork(one, torch.zeros(2, 2), nothing, price, nothing)
    found = plan_by_sums(Carrying(demand, torch.zeros(2, 1, 2), left), torch.zeros(2, 1), None)
    assert found.target.tolist() == [[1], [0]]
    torch.testing.assert_close(found.cost, torch.tensor([1.2, 1.0]))
    assert found.later is not None
    assert found.later.tolist() == [0, 0]


def test_a_plan_is_never_dearer_with_what_it_leaves_than_that_of_the_slot_alone() -> None:
    root, base = problem(30, 6, 3, seed=4)
    left, view = left_at_random(30, 6, 3, torch.float32), torch.zeros(30, 1)
    alone = plan_by_sums(Pairs(root.square(), base), view, None)
    found = plan_by_sums(Carrying(root.square(), base, left), view, None)
    saved = alone.cost + left.cost(alone.target) - found.cost
    assert saved.min() >= -1e-5
    assert saved.mean() > 0.1
    torch.testing.assert_close(found.later, left.cost(found.target))


TRACED = """
import torch
from hadrl_lightning import HADRL, EdgeNetwork
from hadrl_lightning.planning import CEMPlanner

agent = HADRL.from_checkpoint("es2.ckpt")
network = EdgeNetwork(agent.scenario.resized(3, 5, 4), num_envs=2, generator=torch.Generator().manual_seed(3))
network.begin_frame(torch.ones_like(network.cache))
planner = CEMPlanner(15, agent.planner.settings, num_users=5, num_targets=3)
form = planner.settings.make_form()

@torch.no_grad()
def by_sums(view):
    return planner._plan_by_sums(agent.world_model, view, form).action

view = network.offloading_view()
torch.testing.assert_close(torch.compile(by_sums, fullgraph=True, backend="eager")(view), by_sums(view))

from hadrl_lightning.agents.world_model import WorldModel, WorldModelSettings
from hadrl_lightning.planning.cem import _Round
from tests.helpers import published_planner

sizes = {"plan_horizon": 3, "n_candidates": 20, "top_candidates": 5, "optimisation_iters": 2, "max_rows": 60}
model = WorldModel(6, 4, WorldModelSettings(ensemble_size=3, hidden_size=8))
planner = CEMPlanner(4, published_planner(**sizes))
round_ = _Round(model, planner.settings.make_form(), None, 3, 0, None, None)

@torch.no_grad()
def published(view, draws):
    proposal = planner._start(view, None)
    for noise in draws:
        plan = planner._refit(round_, view, proposal, proposal.candidates(noise), None)
        proposal = plan.proposal
    return plan.action

given = torch.randn(2, 6), torch.randn(2, 2, 20, 3, 4)
torch.testing.assert_close(torch.compile(published, fullgraph=True, backend="eager")(*given), published(*given))
"""

TRACED_LATER = """
import torch
from hadrl_lightning.planning import rounds
from tests.helpers.ranks import build, played_rows

rounds.ROUNDS = 2
agent, _ = build("queues")
model, rows = agent.world_model, played_rows(agent.scenario)
model.observe(rows)
planner, form = agent.planner, agent.planner.settings.make_form()

@torch.no_grad()
def by_sums(view):
    return planner._plan_by_sums(model, view, form, None).action

view = rows.view[-7:]
found = by_sums(view)
torch.testing.assert_close(torch.compile(by_sums, fullgraph=True, backend="eager")(view), found)
model.carried = None
assert (by_sums(view) - found).abs().max() > 0.1
"""
"""Where work is dear that is left at servers, energy counts and users are idle."""


@pytest.mark.slow
@pytest.mark.parametrize("script", [TRACED, TRACED_LATER], ids=["slot", "later"])
def test_a_whole_plan_is_one_graph_in_which_no_device_is_waited_for(script: str) -> None:
    """In a process of its own: what is checked as it runs can't be traced. Of the published plan from its draws on."""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


# About the same view leads to about the same decision ------------------------------------------------------------

NOTHING_SEEN = torch.zeros(1, 1)
BEST = torch.tensor([[-0.5, 0.5, 0.0, 0.0, 0.0, 0.0]])
"""Of `Toy`: users 0 and 1 at their own servers. Its free energy is 2.45 s, that of `WORST` 10.45 s."""


@pytest.fixture(scope="module")
def agent() -> HADRL:
    return HADRL.from_checkpoint("es2.ckpt")


@pytest.fixture(scope="module")
def views(agent: HADRL) -> OffloadingView:
    """Views of four networks whose caches hold everything, so that many decisions are about as good."""
    network = EdgeNetwork(agent.scenario, num_envs=4, generator=generator(3))
    network.begin_frame(torch.ones_like(network.cache))
    return network.offloading_view()


def targets(agent: HADRL, view: OffloadingView, seed: int, alike: bool = False) -> Tensor:
    action = agent.planner.plan(agent.world_model, view, generator(seed), alike=alike).action
    return decode_offloading(agent.scenario, action).server


def test_usual_targets_go_round_the_servers_that_a_user_does_not_mind() -> None:
    indifferent = torch.full((1, 4, 3), 1 / 3)
    assert usual_targets(indifferent).tolist() == [[0, 1, 2, 0]]
    choosy = torch.tensor([[[0.2, 0.5, 0.3], [0.2, 0.2, 0.6], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]])
    assert usual_targets(choosy).tolist() == [[1, 2, 0, 1]]


def test_a_user_moves_only_for_a_gain_beyond_the_margin() -> None:
    one_wrong = torch.tensor(
        [[-0.5, -0.5, 0.0, 0.0, 0.0, 0.0]]
    )  # 8.45 s, 6 s of which a move of user 1 saves
    for margin, moved in ((0.70, True), (0.72, False)):
        settings = RefinementSettings(target_sweeps=1, move_margin=margin)
        swept = sweep_targets(Toy(), NOTHING_SEEN, one_wrong, FORM, settings, 2, 2)
        assert swept[0, :2].tolist() == ([-0.5, 0.5] if moved else [-0.5, -0.5])


def test_every_move_has_to_save_the_margin() -> None:
    """From the worst decision either move alone saves 2 s of 10.45 s, both together 8 s."""
    settings = RefinementSettings(target_sweeps=1, move_margin=0.19)
    assert torch.equal(sweep_targets(Toy(), NOTHING_SEEN, WORST, FORM, settings, 2, 2), BEST)
    settings = RefinementSettings(target_sweeps=1, move_margin=0.20)
    assert torch.equal(sweep_targets(Toy(), NOTHING_SEEN, WORST, FORM, settings, 2, 2), WORST)


class Mild(Toy):
    """As `Toy`, but a wrong target costs a tenth of a second."""

    def step(self, state: None, action: Tensor, members: Tensor | None) -> tuple[Prediction, None]:
        wrong = ((action[:, :2] > 0).float() - torch.tensor([0.0, 1.0])).abs()
        away = action[:, 2:4] - torch.tensor([0.3, 0.6])
        return prediction_of((1 + 0.1 * wrong + away.square())[None]), None


def test_the_planners_start_wins_only_by_more_than_the_margin() -> None:
    """With the best shares its targets cost 2 s and the usual ones 2.2 s; no move is allowed."""
    planned = torch.tensor([[-0.5, 0.5, -1.0, -1.0, 0.0, 0.0]])
    for margin, expected in ((0.08, planned), (0.10, WORST)):
        settings = RefinementSettings(share_steps=60, target_sweeps=1, move_margin=10.0, start_margin=margin)
        found = refine(Mild(), NOTHING_SEEN, planned, FORM, settings, 2, 2, usual=WORST).action
        assert torch.equal(found[:, :2], expected[:, :2])


@pytest.mark.parametrize("name", ["move_margin", "start_margin"])
def test_a_margin_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 0 and finite, got -0.1"):
        RefinementSettings(**{name: -0.1})


def test_where_draws_are_alike_a_plan_does_not_depend_on_the_networks_beside_it(
    agent: HADRL, views: OffloadingView
) -> None:
    together = targets(agent, views, 1, alike=True)
    turned = views[torch.arange(3, -1, -1)]
    assert torch.equal(targets(agent, turned, 1, alike=True), together.flip(0))
    assert torch.equal(targets(agent, views[2:3], 1, alike=True), together[2:3])
    thrice = views[torch.zeros(3, dtype=torch.long)]
    twice = agent.planner.plan(agent.world_model, thrice, generator(), alike=True)
    torch.testing.assert_close(twice.action, twice.action[:1].expand(3, -1), atol=1e-3, rtol=0)


def test_other_draws_and_a_slightly_other_view_move_few_users(agent: HADRL, views: OffloadingView) -> None:
    """Of 30 users; from draws alone it was 15, and 5 others when one asked for another service."""
    first = targets(agent, views, 1)
    assert (targets(agent, views, 2) != first).float().sum(dim=1).mean() <= 2
    heavier = views.clone()
    heavier.input_bits[:, 0] *= 1.01
    assert (targets(agent, heavier, 1) != first).float().sum(dim=1).mean() <= 2
    scenario, service = agent.scenario, agent.scenario.num_services - 1
    other = views.clone()
    other.requests[:, 0] = service
    other.input_bits[:, 0] = scenario.input_bits[service]
    other.cycles[:, 0] = scenario.cycles[service]
    moved = (targets(agent, other, 1) != first)[:, 1:]
    assert moved.float().sum(dim=1).mean() <= 3


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"strategy": "information"},
            "planning_members must be at least 3 for the information_estimator .*, got 2",
        ),
        ({"strategy": "posterior"}, "information_estimator must be bounded with the strategy posterior, .*"),
    ],
)
def test_an_estimate_by_neighbours_needs_members(chosen: dict[str, Any], message: str) -> None:
    few = PlannerSettings(
        use_exploration=True, information_estimator="nearest_neighbour", planning_members=2, **chosen
    )
    with pytest.raises(ValueError, match=f"^{message}"):
        few.members_used(5)
    dataclasses.replace(few, use_exploration=False).members_used(5)
