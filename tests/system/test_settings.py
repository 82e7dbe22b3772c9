"""Every setting of planner, world models, caching agents, collection and HADRL does something, or is refused.

Each class has a table: for every setting, what to change it to and what else has to be set for it to matter. A new
setting without an entry fails. The shipped settings: every file builds, every key is explained, and all scenarios share
one set of numbers.
"""

import copy
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch import Tensor

from hadrl_lightning.agents import (
    DDPG,
    HADRL,
    DDPGSettings,
    LookaheadCaching,
    LookaheadSettings,
    SetDDPG,
    SetDDPGSettings,
    SetWorldModel,
    SetWorldModelSettings,
    WorldModel,
    WorldModelSettings,
)
from hadrl_lightning.agents.transition_model import derived_reward
from hadrl_lightning.benchmark import PlanSettings, make_plan
from hadrl_lightning.benchmark.plan import nested
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.cli import main
from hadrl_lightning.config_files import find_config, load_config, shipped_configs
from hadrl_lightning.data import CachingTransitions, OffloadingTransitions, TransitionDataModule
from hadrl_lightning.distributed import MemberWise, Share
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.network_files import SETTINGS
from hadrl_lightning.planning import (
    CEMPlanner,
    Draws,
    PlannerSettings,
    Prediction,
    RefinementSettings,
    refine,
)
from hadrl_lightning.planning.cache_descent import Descent
from hadrl_lightning.planning.frames import Frames
from hadrl_lightning.planning.free_energy import OutcomeForm
from hadrl_lightning.play import MEASURED, offloading_reward
from hadrl_lightning.scenario import GIB, KIB, Scenario
from hadrl_lightning.simulator import (
    CachingView,
    EdgeNetwork,
    OffloadingView,
    bin_index,
    decode_offloading,
    fill_caches,
    vector_size,
)

pytestmark = pytest.mark.unchecked

SCENARIO = Scenario(num_users=4, cache_bytes=40 * GIB, decisions_per_episode=2, slots_per_decision=2)
USERS, SERVERS = SCENARIO.num_users, SCENARIO.num_servers
Case = tuple[dict[str, Any], Any]
"""What else is set, and the other value."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(value: Any) -> Iterator[Tensor]:
    """All tensors and numbers in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value.detach().double()
    elif isinstance(value, dict):
        yield from numbers(list(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, bool | int | float):
        yield torch.tensor(float(value), dtype=torch.float64)


def same(one: Any, other: Any) -> bool:
    first, second = list(numbers(one)), list(numbers(other))
    return [a.shape for a in first] == [b.shape for b in second] and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second)
    )


def transitions(envs: int = 6) -> OffloadingTransitions:
    draw = generator()
    network = EdgeNetwork(SCENARIO, num_envs=envs, generator=draw)
    network.begin_frame(fill_caches(SCENARIO, torch.rand(network.cache.shape, generator=draw)))
    before = network.offloading_view()
    action = 2 * torch.rand(envs, SCENARIO.offloading_action_size, generator=draw) - 1
    latency = network.step(decode_offloading(SCENARIO, action)).latency
    return OffloadingTransitions(
        before, action, offloading_reward(latency), network.offloading_view(), latency
    )


DATA = transitions()


def refused(make: Callable[[], Any], name: str) -> bool:
    """Whether it is refused, in one line that names a setting."""
    try:
        make()
        return False
    except ValueError as error:
        text = str(error)
    assert " must " in text
    assert "\n" not in text
    assert name in text or text.split(maxsplit=1)[0] in PLANNER
    return True


# --- planner -------------------------------------------------------------------------------------------------------


class Choosy:
    """A model by which all users like server 1 better, so that targets matter; counts the rows it sees at once."""

    def __init__(self, model: SetWorldModel, dislike: float = 2.0) -> None:
        self.model, self.dislike = model, dislike
        self.num_members = model.num_members
        self.start = model.start
        self.most = 0

    def step(self, state: Any, action: Tensor, members: Tensor | None) -> Any:
        self.most = max(self.most, len(action) * (self.num_members if members is None else len(members)))
        prediction, state = self.model.step(state, action, members)
        target = bin_index(action[:, :USERS], SERVERS)
        mean = prediction.mean + self.dislike * (target != 1)
        return Prediction(mean, prediction.log_var, *derived_reward(mean, prediction.log_var)), state


def set_world_model(**changes: Any) -> SetWorldModel:
    settings = SetWorldModelSettings(**{"ensemble_size": 3, "hidden_size": 4, "weight_size": 4, **changes})
    model = SetWorldModel(settings, generator=generator())
    model.observe(DATA)
    return model


MODEL = set_world_model()
MODEL.resources.reset_parameters(generator(1))


def planned(settings: PlannerSettings) -> Any:
    """Two plans one after the other, and how many rows the model saw at once."""
    planner = CEMPlanner(SCENARIO.offloading_action_size, settings, num_users=USERS, num_targets=SERVERS)
    draw, model = generator(1), Choosy(MODEL)
    first = planner.plan(model, DATA.view, draw, best_reward=-5.0)
    second = planner.plan(model, DATA.view, draw, first, best_reward=-5.0)
    return (first, second), model.most


TINY: dict[str, Any] = {
    "plan_horizon": 1,
    "n_candidates": 8,
    "top_candidates": 4,
    "optimisation_iters": 2,
    "form": "tschantz",
    "use_exploration": True,
    "proposal": "gaussian",
    "informed_candidates": 0,
    "share_steps": 0,
    "target_sweeps": 0,
    "planning_members": None,
}
REFINED = {"proposal": "categorical", "share_steps": 1, "target_sweeps": 1}
ONE_CHANGE = {**REFINED, "n_candidates": 2, "top_candidates": 2, "optimisation_iters": 1, "joint_changes": 1}
PLANNER: dict[str, Case] = {
    "search": ({}, "samples"),
    "plan_horizon": ({}, 2),
    "n_candidates": ({}, 9),
    "top_candidates": ({}, 3),
    "optimisation_iters": ({}, 3),
    "form": ({}, None),  # each is the first of a test
    "strategy": ({}, "disagreement"),
    "information_estimator": ({}, "nearest_neighbour"),
    "use_reward": ({}, False),
    "use_exploration": ({}, False),
    "expl_scale": ({}, 0.2),
    "reward_scale": ({}, 2.0),
    "preferred_reward": ({}, "published"),
    "gould_epistemic": ({}, "entropy"),
    "latency_scale_s": ({}, 2.0),
    "proposal": ({}, "categorical"),
    "informed_candidates": ({"proposal": "categorical"}, 4),
    "share_steps": ({}, 1),
    "share_step_size": (REFINED, 0.1),
    "target_sweeps": ({}, 1),
    "joint_changes": (ONE_CHANGE, 4),
    "move_margin": (ONE_CHANGE, 1e9),
    "start_margin": ({**ONE_CHANGE, "n_candidates": 16, "start_margin": 0.0}, 1e9),
    "initial_std": ({}, 0.5),
    "min_std": ({}, 2.0),
    "clip_actions": ({}, False),
    "warm_start": ({"plan_horizon": 2}, True),
    "planning_members": ({}, 2),
    "max_rows": ({}, 5),
}
FORMS = ("tschantz", "gould", "outcome")


def test_every_setting_of_the_planner_has_a_case() -> None:
    assert set(PLANNER) == {field.name for field in dataclasses.fields(PlannerSettings)}


def test_every_form_plans_something_else() -> None:
    plans = [planned(PlannerSettings(**{**TINY, "form": form})) for form in FORMS]
    assert not any(same(a, b) for a, b in zip(plans, [*plans[1:], plans[0]]))


def test_the_search_is_by_sums_where_a_model_knows_sharing_and_nothing_is_explored() -> None:
    sums = PlannerSettings(**{**TINY, **REFINED, "form": "outcome", "use_exploration": False})
    plans = {}
    for settings in (sums, replace(sums, search="samples"), replace(sums, use_exploration=True)):
        planner = CEMPlanner(SCENARIO.offloading_action_size, settings, num_users=USERS, num_targets=SERVERS)
        for model in (MODEL, Choosy(MODEL, dislike=0.0)):  # the latter tells nothing of sharing
            one, other = (planner.plan(model, DATA.view, generator(seed)).action for seed in (1, 2))
            plans[settings.search, settings.use_exploration, model is MODEL] = torch.equal(one, other)
    drawn_from = {key for key, same_plans in plans.items() if not same_plans}
    assert plans.keys() - drawn_from == {("sums", False, True)}


def test_a_plan_that_explores_by_the_posterior_follows_members_that_are_drawn() -> None:
    sums = {**TINY, **REFINED, "form": "outcome", "search": "sums"}
    drawn = PlannerSettings(
        **{**sums, "use_exploration": True, "strategy": "posterior", "planning_members": 1}
    )

    def actions(settings: PlannerSettings, model: SetWorldModel) -> list[torch.Tensor]:
        planner = CEMPlanner(SCENARIO.offloading_action_size, settings, num_users=USERS, num_targets=SERVERS)
        return [planner.plan(model, DATA.view, generator(seed)).action for seed in range(8)]

    found = actions(drawn, MODEL)
    members = []
    for member in range(MODEL.num_members):
        one = copy.deepcopy(MODEL)
        for part in one.modules():
            if isinstance(part, MemberWise):
                part.hold(Share(member, 1, MODEL.num_members))
        members.append(actions(replace(drawn, use_exploration=False, planning_members=1), one)[0])
    follows = [[torch.allclose(action, own, atol=1e-5) for own in members] for action in found]
    assert all(any(row) for row in follows)
    assert len({tuple(row) for row in follows}) > 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [name for name in PLANNER if name not in ("form", "search")])
def test_a_setting_of_the_planner_changes_the_plan_under_every_form_or_is_refused(
    name: str, form: Any
) -> None:
    others, value = PLANNER[name]
    before = PlannerSettings(**{**TINY, "form": form, **others})
    assert getattr(before, name) != value
    if not refused(lambda: replace(before, **{name: value}), name):
        (plans, rows), (other_plans, other_rows) = planned(before), planned(replace(before, **{name: value}))
        if name == "max_rows":  # which is not to change a plan
            assert other_rows <= value < rows
        else:
            assert not same(plans, other_plans)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"form": "tschantz", "preferred_reward": "published"},
            "preferred_reward must be above_best unless form is g",
        ),
        (
            {"form": "outcome", "gould_epistemic": "entropy"},
            "gould_epistemic must be measure unless form is gould",
        ),
        (
            {"form": "gould", "latency_scale_s": 2.0},
            "latency_scale_s must be 1.0 unless form is outcome, got 2.0",
        ),
        (
            {"form": "gould", "gould_epistemic": "entropy", "strategy": "variance"},
            "strategy must be information where gould_epistemic is entropy, got variance",
        ),
        ({"strategy": "random", "share_steps": 1}, "strategy must not be random where plans are refined"),
        ({"warm_start": True}, "warm_start must be false where plan_horizon is 1"),
    ],
)
def test_settings_of_the_planner_that_could_do_nothing_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PlannerSettings(**{**TINY, **settings})


def test_the_random_measure_works_under_every_form_and_exploration_that_is_off_may_be_refined() -> None:
    for form in FORMS:
        settings = PlannerSettings(**{**TINY, "form": form}, strategy="random", expl_scale=50.0)  # type: ignore[arg-type]
        assert not same(planned(settings), planned(replace(settings, strategy="none")))
    off = PlannerSettings(**{**TINY, "use_exploration": False, "share_steps": 1}, strategy="random")
    assert bool(planned(off)[0][0].free_energy.total.isfinite().all())


def test_every_field_of_the_outcome_form_changes_its_terms() -> None:
    changes = {
        "latency_scale_s": 2.0,
        "expl_scale": 0.5,
        "exploration": replace(OutcomeForm().exploration, strategy="variance"),
        "use_reward": False,
        "reward_scale": 3.0,
    }
    assert set(changes) == {field.name for field in dataclasses.fields(OutcomeForm)}
    prediction = MODEL.step(MODEL.start(DATA.view, 1), DATA.action)[0]
    terms = OutcomeForm().step(prediction, Draws(), 0)
    for name, value in changes.items():
        changed = OutcomeForm(**{name: value}).step(prediction, Draws(), 0)
        assert not torch.equal(terms.total, changed.total), name


def test_every_setting_of_the_refinement_changes_what_it_does() -> None:
    changes: dict[str, Any] = {
        "share_steps": 2,
        "share_step_size": 0.1,
        "target_sweeps": 0,
        "joint_changes": 4,
        "move_margin": 1e9,
        "start_margin": 1e9,
    }
    assert set(changes) == {field.name for field in dataclasses.fields(RefinementSettings)}
    before = RefinementSettings(share_steps=1, target_sweeps=1, joint_changes=1)
    form, usual = OutcomeForm(expl_scale=0.0), torch.full_like(DATA.action, -0.5)

    def refined(settings: RefinementSettings) -> Any:
        model = Choosy(MODEL)
        return refine(model, DATA.view, DATA.action, form, settings, USERS, SERVERS, usual=usual)

    for name, value in changes.items():
        assert not same(refined(before), refined(replace(before, **{name: value}))), name


# --- world models --------------------------------------------------------------------------------------------------

WORLD_MODEL: dict[str, Any] = {
    "ensemble_size": 2,
    "hidden_size": 5,
    "learning_rate": 0.1,
    "adam_epsilon": 1.0,
    "grad_clip_norm": 0.01,
    "min_log_var": -4.0,
    "max_log_var": -2.0,
    "normalise_reward": False,
}
OF_QUEUES = {"discount"}
"""What counts in worlds alone where work carries over: tests/agents has it."""
SET_WORLD_MODEL: dict[str, Any] = {
    "ensemble_size": 2,
    "encoder": "deep_sets",
    "hidden_size": 5,
    "weight_size": 5,
    "num_resources": 3,
    "num_common_resources": 1,
    "num_waits": 2,
    "learning_rate": 0.1,
    "decay_steps": None,
    "adam_epsilon": 1.0,
    "grad_clip_norm": 0.01,
    "change_weight": 0.0,
}


def learnt(model: WorldModel | SetWorldModel) -> Any:
    """Weights and predictions after two updates."""
    optimizer = model.configure_optimizers()
    for _ in range(2):
        optimizer.zero_grad()
        model.loss(DATA).total.backward()
        model.clip_gradients_of_all()
        optimizer.step()
    with torch.no_grad():
        prediction, _ = model.step(model.start(DATA.view, 1), DATA.action)
    return list(model.parameters()), tuple(prediction)


def world_model(**changes: Any) -> WorldModel:
    settings = WorldModelSettings(**{"ensemble_size": 3, "hidden_size": 4, **changes})
    sizes = (vector_size(OffloadingView, SCENARIO), SCENARIO.offloading_action_size)
    model = WorldModel(*sizes, settings, generator=generator())
    model.observe(DATA)
    return model


@pytest.mark.parametrize(
    ("settings", "changes", "make"),
    [
        (WorldModelSettings, WORLD_MODEL, world_model),
        (SetWorldModelSettings, SET_WORLD_MODEL, set_world_model),
    ],
)
def test_every_setting_of_a_world_model_changes_what_it_learns(
    settings: type, changes: dict[str, Any], make: Callable[..., Any]
) -> None:
    assert set(changes) == {field.name for field in dataclasses.fields(settings)} - OF_QUEUES
    before = learnt(make())
    assert same(before, learnt(make()))
    for name, value in changes.items():
        assert not same(before, learnt(make(**{name: value}))), name


def test_the_sizes_of_deep_sets_change_what_is_learnt_and_resources_are_refused() -> None:
    before = learnt(set_world_model(encoder="deep_sets"))
    for name in ("hidden_size", "weight_size"):
        assert not same(before, learnt(set_world_model(encoder="deep_sets", **{name: 5})))
    for name, default in (("num_resources", 2), ("num_common_resources", 0), ("num_waits", 3)):
        with pytest.raises(
            ValueError, match=f"{name} must be {default} unless encoder is shared_resources, got 4"
        ):
            set_world_model(encoder="deep_sets", **{name: 4})


def test_a_model_refuses_a_planner_that_asks_what_it_cannot_tell() -> None:
    flat: dict[str, Any] = {"fast_level": "flat", "slow_level": "flat"}
    outcome = PlannerSettings(**{**TINY, "form": "outcome"})
    with pytest.raises(
        HadrlError, match=r"planner\.form must not be outcome with a WorldModel, which predicts no"
    ):
        HADRL(SCENARIO, **flat, planner=outcome)
    small = WorldModelSettings(ensemble_size=2, hidden_size=4)
    agent = HADRL(SCENARIO, **flat, world_model=small, planner=PlannerSettings(**TINY))
    with pytest.raises(HadrlError, match=r"planning\.planner\.form must not be outcome with a WorldModel"):
        CEMPlanning(planner=outcome).check_model(agent)
    CEMPlanning(planner=None).check_model(agent)
    assert CEMPlanning.for_agent(agent).planner_settings is None
    assert CEMPlanning.for_agent(HADRL(SCENARIO)).planner_settings == CEMPlanning().planner_settings
    for settings, message in (
        (
            {"planning_members": 3},
            r"planner.planning_members must be at most the members of the model \(2\), got 3",
        ),
        ({"max_rows": 1}, r"planner.max_rows must be at least the members used \(2\), got 1"),
        (
            {"max_rows": 1, "planning_members": 1, "share_steps": 1},
            r"planner.max_rows must be at least the members of the model \(2\) where plans are refined, got 1",
        ),
    ):
        with pytest.raises(HadrlError, match=message):
            agent.make_planner(PlannerSettings(**{**TINY, **settings}))
    with pytest.raises(
        HadrlError, match=r"planner.plan_horizon must be 1 with a change_weight of 0.*, got 2"
    ):
        HADRL(
            SCENARIO,
            fast_level="set",
            set_world_model=SetWorldModelSettings(change_weight=0.0),
            planner=PlannerSettings(**{**TINY, "plan_horizon": 2}),
        )
    by_hand = CEMPlanner(SCENARIO.offloading_action_size, outcome, num_users=USERS, num_targets=SERVERS)
    with pytest.raises(ValueError, match="the model must predict one outcome for each of 4 users, got 38"):
        by_hand.plan(world_model(), DATA.view, generator())


# --- caching agents ------------------------------------------------------------------------------------------------

DDPG_CHANGES: dict[str, Any] = {
    "actor_learning_rate": 0.1,
    "critic_learning_rate": 0.1,
    "discount": 0.5,
    "target_rate": 0.5,
    "hidden_sizes": (5,),
}
SET_DDPG_CHANGES: dict[str, Any] = {
    **DDPG_CHANGES,
    "actor_width": 5,
    "num_proposals": 3,
    "num_starts": 1,
    "explore_proposals": 3,
    "explore_rounds": 1,
    "hysteresis": 1000.0,
    "sees_switching": True,
    "use_actor": False,
    "actor_rows": 2,
    "seed": 1,
}


LOOKAHEAD_CHANGES: dict[str, Any] = {
    "num_starts": 0,
    "num_finalists": 0,
    "num_slots": 200,  # more than the least of a search
    "switching_weight": 1e6,
    "random_decisions": 0,
    "seed": 3,
}


def caching_transitions() -> CachingTransitions:
    draw = generator(2)
    network = EdgeNetwork(SCENARIO, num_envs=8, generator=draw)
    action = 2 * torch.rand(8, SCENARIO.caching_action_size, generator=draw) - 1
    cache = fill_caches(SCENARIO, action.view(network.cache.shape))
    before = network.caching_view()
    network.begin_frame(cache)
    while not network.frame_over:
        network.step(decode_offloading(SCENARIO, torch.zeros(8, SCENARIO.offloading_action_size)))
    return CachingTransitions(before, action, torch.rand(8, generator=draw), network.caching_view(), cache)


CACHING = caching_transitions()


def cached(agent: Any) -> Any:
    """Decisions, and the weights after two updates."""
    optimizers = agent.configure_optimizers()
    if isinstance(agent, SetDDPG):
        agent.num_updates += 1  # untrained it explores at random
    view = (
        CACHING.next_view[:3] if isinstance(agent, LookaheadCaching) else CACHING.next_view
    )  # a search takes long
    decisions = [agent.act(view), agent.explore(view, 0.0, generator())]
    for _ in range(2):
        agent.update(CACHING, optimizers, backward=torch.Tensor.backward)
    return decisions, list(agent.state_dict().values())


def ddpg(**changes: Any) -> DDPG:
    sizes = (vector_size(CachingView, SCENARIO), SCENARIO.caching_action_size)
    return DDPG(*sizes, DDPGSettings(**{"hidden_sizes": (4,), **changes}), generator=generator())


def set_ddpg(**changes: Any) -> SetDDPG:
    small = {"hidden_sizes": (4,), "actor_width": 4, "num_proposals": 8, "explore_proposals": 8}
    return SetDDPG(SCENARIO, SetDDPGSettings(**{**small, **changes}), generator=generator())


class Rugged(SetWorldModel):
    """Tells demands that were drawn at random: a search ends at many caches."""

    def service_demands(self, view: CachingView) -> torch.Tensor:
        """See `FrameModel`."""
        servers, services = view.cache.shape[1:]
        demand = torch.rand(2, 1, 2, 3, services, servers, generator=generator(2)) ** 3
        demand[:, :, 0, 2] += 2.0
        return demand.expand(-1, len(view), -1, -1, -1, -1)


def looking(**changes: Any) -> LookaheadCaching:
    agent = LookaheadCaching(
        SCENARIO, LookaheadSettings(**{"random_decisions": 1, "num_starts": 2, "num_finalists": 2, **changes})
    )
    agent.look_through(Rugged(SetWorldModelSettings(ensemble_size=2, hidden_size=4, weight_size=4)))
    return agent


SEARCHES = ("num_starts", "num_finalists", "num_slots", "seed")


def searched(agent: LookaheadCaching) -> list[Any]:
    """From how many caches a decision goes downhill, and how many it compares on which slots."""
    found: list[Any] = []
    settled, on_slots = Descent.settled, Frames.on_slots

    def descending(search: Descent, row: Any, cache: Any) -> Any:
        found.append(len(row))
        return settled(search, row, cache)

    def comparing(frames: Frames, row: Any, cache: Any, uniform: Any) -> Any:
        found.append((cache.shape, uniform.tolist()))
        return on_slots(frames, row, cache, uniform)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Descent, "settled", descending)
        patch.setattr(Frames, "on_slots", comparing)
        agent.act(EdgeNetwork(SCENARIO, generator=generator()).caching_view())
    return found


@pytest.mark.parametrize(
    ("settings", "changes", "make"),
    [
        (DDPGSettings, DDPG_CHANGES, ddpg),
        (SetDDPGSettings, SET_DDPG_CHANGES, set_ddpg),
        (LookaheadSettings, LOOKAHEAD_CHANGES, looking),
    ],
)
def test_every_setting_of_a_caching_agent_changes_what_it_decides_or_learns(
    settings: type, changes: dict[str, Any], make: Callable[..., Any]
) -> None:
    assert set(changes) == {field.name for field in dataclasses.fields(settings)}
    before = cached(make())
    assert same(before, cached(make()))
    usual = searched(looking()) if settings is LookaheadSettings else []
    for name, value in changes.items():
        if settings is LookaheadSettings and name in SEARCHES:
            # how, and how much is searched: what is found is often the same
            assert searched(make(**{name: value})) != usual, name
            continue
        assert not same(before, cached(make(**{name: value}))), name


@pytest.mark.parametrize("name", ["num_proposals", "explore_proposals"])
def test_a_decision_without_the_actor_needs_proposals(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 2 without use_actor, got 1"):
        SetDDPGSettings(use_actor=False, **{name: 1})  # type: ignore[arg-type]


# --- collection ----------------------------------------------------------------------------------------------------

COLLECTION: dict[str, Case] = {
    "seed_decisions": ({}, 2),
    "decisions_per_epoch": ({}, 2),
    "caching_warmup_epochs": ({}, 1),
    "caching_noise": ({}, 0.5),
    "caching_noise_decay": ({}, 0.5),
    "caching_noise_min": ({}, 3.0),
    "offloading_noise": ({}, 0.5),
    "offloading_noise_decay": ({}, 0.5),
    "offloading_noise_min": ({}, 3.0),
    "caching_reward": ({}, "latency"),
    "latency_weight": ({"caching_reward": "hits_and_latency"}, 0.5),
    "planner": ({}, PlannerSettings(**{**TINY, "n_candidates": 5})),
}


def agent(**changes: Any) -> HADRL:
    settings: dict[str, Any] = {
        "fast_level": "set",
        "slow_level": "set",
        "set_world_model": SetWorldModelSettings(ensemble_size=2, hidden_size=4, weight_size=4),
        "set_ddpg": SetDDPGSettings(
            hidden_sizes=(4,), actor_width=4, num_proposals=4, explore_proposals=4, hysteresis=0.0
        ),
        "planner": PlannerSettings(**TINY),
        **changes,
    }
    return HADRL(**{"scenario": SCENARIO, **settings})


def fake_trainer(module: HADRL, data: TransitionDataModule) -> Mock:
    """As much of a Trainer as collecting needs."""
    plugin = SimpleNamespace(forward_context=torch.no_grad)
    strategy = SimpleNamespace(root_device=torch.device("cpu"), precision_plugin=plugin)
    trainer = Mock(spec=Trainer, strategy=strategy, callbacks=[], loggers=[], global_rank=0, world_size=1)
    trainer.datamodule, trainer.logged = data, {}
    data.trainer = trainer
    module.log = lambda name, value, **_: trainer.logged.update({name: value})  # type: ignore[method-assign]
    return trainer


def collected(callback: CEMPlanning, epochs: int = 2) -> Any:
    """What is in the replay buffers, and what is logged, after some epochs of collecting."""
    module, data = agent(), TransitionDataModule(SCENARIO, num_envs=2)
    trainer: Any = fake_trainer(module, data)
    data.setup("fit")
    callback.setup(trainer, module, "fit")
    callback.on_train_start(trainer, module)
    for trainer.current_epoch in range(epochs):
        callback.on_train_epoch_start(trainer, module)
    return data.offloading_buffer.contents(), data.caching_buffer.contents(), trainer.logged


def test_every_setting_of_collecting_changes_what_is_collected() -> None:
    assert set(COLLECTION) == set(inspect.signature(CEMPlanning).parameters)
    few: dict[str, Any] = {
        "seed_decisions": 1,
        "decisions_per_epoch": 1,
        "caching_warmup_epochs": 0,
        "caching_noise_min": 0.0,
        "caching_reward": "published",
        "planner": None,
    }
    before = collected(CEMPlanning(**few))
    assert same(before, collected(CEMPlanning(**few)))
    for name, (others, value) in COLLECTION.items():
        start = collected(CEMPlanning(**{**few, **others})) if others else before
        assert not same(start, collected(CEMPlanning(**{**few, **others, name: value}))), name


def test_a_weight_of_latencies_is_refused_where_the_caching_reward_has_none() -> None:
    with pytest.raises(
        ValueError, match=r"latency_weight must be 0\.15 unless caching_reward is hits_and_latency"
    ):
        CEMPlanning(caching_reward="hits", latency_weight=0.5)


# --- the agent -----------------------------------------------------------------------------------------------------

FLAT: dict[str, Any] = {
    "fast_level": "flat",
    "slow_level": "flat",
    "set_world_model": SetWorldModelSettings(),
    "set_ddpg": SetDDPGSettings(),
    "world_model": WorldModelSettings(ensemble_size=2, hidden_size=4),
    "ddpg": DDPGSettings(hidden_sizes=(4,)),
}


class OwnSettings(SetDDPGSettings):
    """Settings of a caching agent from outside."""


class OwnAgent(SetDDPG):
    """A caching agent from outside; takes its settings from `slow_settings`."""

    Settings = OwnSettings


class OwnModelSettings(SetWorldModelSettings):
    """Settings of a slot model from outside."""


class OwnModel(SetWorldModel):
    """A slot model from outside; takes its settings from `fast_settings`."""

    Settings = OwnModelSettings


LOOKING: dict[str, Any] = {"slow_level": "lookahead"}
OWN: dict[str, Any] = {"slow_level": f"{__name__}.OwnAgent", "fast_level": f"{__name__}.OwnModel"}
SUMS = {"planner": PlannerSettings()}
AGENT: dict[str, Case] = {
    "scenario": ({}, replace(SCENARIO, num_users=5)),
    "physics": ({}, "published"),
    "fast_level": ({}, "flat"),
    "slow_level": ({}, "flat"),
    "world_model": (FLAT, WorldModelSettings(ensemble_size=2, hidden_size=5)),
    "set_world_model": ({}, SetWorldModelSettings(ensemble_size=2, hidden_size=5)),
    "ddpg": (FLAT, DDPGSettings(hidden_sizes=(5,))),
    "set_ddpg": ({}, SetDDPGSettings(hidden_sizes=(5,), hysteresis=0.0)),
    "lookahead": (LOOKING, LookaheadSettings(switching_weight=1e6)),
    "slow_settings": (OWN, {"hidden_sizes": [5], "hysteresis": 0.0}),
    "fast_settings": (OWN, {"hidden_size": 5}),
    "planner": ({}, PlannerSettings(**{**TINY, "n_candidates": 5})),
    "reset_world_model": ({}, True),
    "adapt": (SUMS, "heads"),
    "seed": ({}, 1),
}


def played(module: HADRL) -> Any:
    """Weights after the start of an epoch, and an episode."""
    module._optimizers = lambda: [SimpleNamespace(state={})]  # type: ignore[assignment, method-assign]
    module.on_train_epoch_start()
    network = EdgeNetwork(module.scenario, module.physics, 2, generator=generator())
    episode = module.play(network)._asdict()
    return list(module.parameters()), [value for name, value in episode.items() if name not in MEASURED]


def test_every_setting_of_the_agent_changes_what_it_is_or_does() -> None:
    assert set(AGENT) == set(inspect.signature(HADRL).parameters)
    kinds = ((0, {}), (len(FLAT), FLAT), (len(LOOKING), LOOKING), (len(OWN), OWN), ("sums", SUMS))
    before = {others: played(agent(**dict(settings))) for others, settings in kinds}
    assert same(before[0], played(agent()))
    for name, (others, value) in AGENT.items():
        kind = "sums" if others is SUMS else len(others)
        assert not same(before[kind], played(agent(**{**others, name: value}))), name


# --- from slot to slot, and from run to run ------------------------------------------------------------------------


@pytest.mark.parametrize("warm_start", [True, False])
def test_play_without_exploration_carries_the_plan_from_slot_to_slot_within_an_episode(
    warm_start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = agent(planner=PlannerSettings(**{**TINY, "plan_horizon": 2, "warm_start": warm_start}))
    starts, plans = [], []
    plan = module.plan

    def spy(view: Any, planner: Any, draw: Any, start: Any = None, **options: Any) -> Any:
        starts.append(start)
        plans.append(plan(view, planner, draw, start, **options))
        return plans[-1]

    monkeypatch.setattr(module, "plan", spy)
    caching, offloading = module.policies()
    first, second = (EdgeNetwork(SCENARIO, num_envs=1, generator=generator(seed)) for seed in (1, 2))

    def play_slots(network: EdgeNetwork, count: int) -> None:
        for _ in range(count):
            if network.frame_over:
                network.begin_frame(caching(network))
            network.step(offloading(network))

    play_slots(first, 4)
    first.reset()
    play_slots(first, 2)
    play_slots(second, 2)
    expected = [None, *plans[:3], None, plans[4], None, plans[6]] if warm_start else [None] * 8
    assert len(starts) == 8
    assert all(start is plan for start, plan in zip(starts, expected))


def test_collecting_starts_an_episode_without_the_plan_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PlannerSettings(**{**TINY, "plan_horizon": 2, "warm_start": True})
    starts: list[bool] = []
    plan = CEMPlanner.plan

    def spy(
        self: Any, model: Any, view: Any, draw: Any, start: Any = None, *rest: Any, **options: Any
    ) -> Any:
        starts.append(start is None)
        return plan(self, model, view, draw, start, *rest, **options)

    monkeypatch.setattr(CEMPlanner, "plan", spy)
    # 1 decision of seeding, then 4: of episodes of 2 decisions of 2 slots
    collected(CEMPlanning(seed_decisions=1, decisions_per_epoch=4, planner=settings))
    assert starts == [True, False, True, False, False, False, True, False]


@pytest.mark.parametrize("kind", ["flat", "set"])
def test_settings_that_are_given_hold_after_the_state_of_an_optimizer_is_loaded(kind: str) -> None:
    rates = {"actor_learning_rate": 0.3, "critic_learning_rate": 0.4}
    levels = {**FLAT, "fast_level": "flat", "slow_level": "flat"} if kind == "flat" else {}
    models: dict[str, Any] = {
        "flat": {
            "world_model": WorldModelSettings(
                ensemble_size=2, hidden_size=4, learning_rate=0.5, adam_epsilon=0.25
            ),
            "ddpg": DDPGSettings(hidden_sizes=(4,), **rates),
        },
        "set": {
            "set_world_model": SetWorldModelSettings(
                ensemble_size=2, hidden_size=4, weight_size=4, learning_rate=0.5, adam_epsilon=0.25
            ),
            "set_ddpg": SetDDPGSettings(hidden_sizes=(4,), actor_width=4, **rates),
        },
    }[kind]
    old, new = agent(**levels), agent(**{**levels, **models})
    old_optimizers, new_optimizers = old.configure_optimizers(), new.configure_optimizers()
    old.world_model.observe(DATA)
    new.world_model.observe(DATA)
    old.world_model.loss(DATA).total.backward()
    old_optimizers[0].step()
    old.caching_agent.update(CACHING, old_optimizers[1:], backward=torch.Tensor.backward)
    for saved, fresh in zip(old_optimizers, new_optimizers, strict=True):
        fresh.load_state_dict(saved.state_dict())
        assert all(int(state["step"]) == 1 for state in fresh.state.values())
    rates_now = [one.param_groups[0]["lr"] for one in new_optimizers]
    taken = 0.5 if kind == "flat" else 0.5 / 100  # the first of 100 steps that warm up
    assert rates_now == pytest.approx([taken, 0.3, 0.4])
    assert new_optimizers[0].param_groups[0]["eps"] == 0.25
    new.world_model.loss(DATA).total.backward()
    new_optimizers[0].step()
    warming_up = 0.5 if kind == "flat" else 0.5 * 2 / 100  # the second of 100 steps
    assert new_optimizers[0].param_groups[0]["lr"] == pytest.approx(warming_up)


def test_noise_goes_on_fading_by_the_settings_given_after_a_resume() -> None:
    old = CEMPlanning(seed_decisions=3)
    collected(old, epochs=1)
    new = CEMPlanning(
        seed_decisions=3,
        caching_warmup_epochs=0,
        caching_noise=0.5,
        caching_noise_decay=0.5,
        caching_noise_min=0.0,
        offloading_noise_decay=0.1,
        offloading_noise_min=0.3,
    )
    state = old.state_dict()
    assert (state["caching_fades"], state["offloading_fades"]) == (0, 6)  # warming up: 3 decisions of 2 slots
    new.load_state_dict({**state, "caching_fades": 2})
    assert new.exploration.caching_noise.level == pytest.approx(0.5 * 0.5**2)
    assert new.exploration.offloading_noise.level == 0.3
    new.exploration.offloading_noise.minimum = 0.0
    assert new.exploration.offloading_noise.level == pytest.approx(0.1**6)
    assert CEMPlanning(caching_noise=0.1, caching_noise_min=0.4).exploration.caching_noise.level == 0.4


# --- the shipped settings

SCENARIOS = ["es2.yaml", "es3.yaml", "es4.yaml", "es5.yaml"]
WORLDS = [
    "drift.yaml",
    "slowdowns.yaml",
    "mobile.yaml",
    "channel.yaml",
    "device.yaml",
    "hops.yaml",
    "queues.yaml",
]
OTHERS = ["base.yaml", "published.yaml", "tight.yaml", "quick.yaml", *WORLDS]


def test_the_shipped_files_are_the_documented_ones() -> None:
    assert set(shipped_configs()) == {"any.yaml", *SCENARIOS, *OTHERS}


@pytest.mark.parametrize(
    "configs",
    [
        *(["any.yaml"], ["es3.yaml"], ["es4.yaml"], ["es5.yaml"]),
        *(["es2.yaml"], ["es2.yaml", "published.yaml"], ["es2.yaml", "tight.yaml", "quick.yaml", *WORLDS]),
        *(pytest.param(["es2.yaml", name], marks=pytest.mark.whole) for name in OTHERS[2:]),
    ],
)
def test_every_config_builds_an_agent_and_its_data(
    in_empty_folder: Path, configs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for name in configs for word in ("--config", name)]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *words, "--print_config"])
    assert stop.value.code == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    scenario = Scenario.from_dict(settings["data"]["scenario"])
    for group in ("ddpg", "set_ddpg"):  # YAML has lists for tuples
        settings["model"][group]["hidden_sizes"] = tuple(settings["model"][group]["hidden_sizes"])
    agent = HADRL.from_settings(
        {**settings["model"], "scenario": scenario.to_dict(), "physics": settings["data"]["physics"]}
    )
    assert agent.scenario == scenario
    assert agent.physics == ("published" if "published.yaml" in configs else "strict")


def printed_settings(capsys: pytest.CaptureFixture[str], *configs: str) -> dict[str, Any]:
    """What `hadrl fit --config … --print_config` says."""
    with pytest.raises(SystemExit):
        main(["fit", *(word for name in configs for word in ("--config", name)), "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def test_a_flag_of_a_process_is_added_to_what_files_name(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = printed_settings(capsys, "es3.yaml", "slowdowns.yaml", "hops.yaml")["data"]["scenario"]
    name = "--data.scenario.processes.slow_servers"
    flags = [
        f"{name}.slow_part=0.4",
        f"{name}.slow_slots",
        "7",
        "--data.scenario.processes.hops.delay_s",
        "2ms",
    ]
    files = ["--config", "es3.yaml", "--config", "slowdowns.yaml", "--config", "hops.yaml"]
    with pytest.raises(SystemExit):
        main(["fit", *files, *flags, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    changed = usual["processes"]
    changed["slow_servers"] |= {"slow_part": 0.4, "slow_slots": 7}
    changed["hops"] |= {"delay_s": 0.002}
    assert printed["data"]["scenario"] == usual


def test_a_flag_of_ones_own_process_sets_it_and_switches_it_off(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my_walk.py").write_text(
        "from dataclasses import dataclass\n"
        "from hadrl_lightning.simulator.processes import Process\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Walk(Process):\n    pace: float | None = 1.0\n"
    )
    own, name = "my_walk.Walk", "--data.scenario.processes.my_walk.Walk"
    for words, expected in (
        ([f"{name}.pace", "2"], {own: {"pace": 2}}),
        ([f"{name}.pace=null"], {own: {"pace": None}}),
        ([f"{name}.pace", "2", name, "null"], {own: None}),
        ([name, "{pace: 3}"], {own: {"pace": 3}}),
    ):
        with pytest.raises(SystemExit):
            main(["fit", "--config", "es2.yaml", *words, "--print_config"])
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["data"]["scenario"]["processes"] == expected
    assert nested("data.scenario.processes.my_walk.Walk", None) == nested_processes({own: None})
    assert nested("data.scenario.processes.my_walk.Walk.pace", 2) == nested_processes({own: {"pace": 2}})
    assert nested("data.scenario.processes.queues.load", None) == nested_processes({"queues": {"load": None}})
    sys.modules.pop("my_walk", None)


def nested_processes(processes: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"scenario": {"processes": processes}}}


def plain(value: Any) -> Any:
    """Lists for tuples, as YAML has them, and dictionaries for dataclasses."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def defaults(cls: type) -> dict[str, Any]:
    return {name: plain(one.default) for name, one in inspect.signature(cls).parameters.items()}


def test_the_command_line_and_the_constructors_have_one_default_for_every_setting(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = printed_settings(capsys)
    assert settings["data"] == defaults(TransitionDataModule)
    assert settings["planning"] == defaults(CEMPlanning)
    own = defaults(HADRL)
    assert settings["model"] == {name: own[name] for name in settings["model"]}
    trainer = load_config("base.yaml")["trainer"]
    assert {name: settings["trainer"][name] for name in trainer} == trainer
    assert trainer["max_epochs"] == 12


def test_a_scenario_file_is_the_dozen_lines_that_differ(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"num_servers", "num_users", "input_step_bytes", "compute_hz", "free_share"}
    for name in SCENARIOS:
        assert load_config(name).keys() == {"data"}
        assert load_config(name)["data"].keys() == {"scenario"}
        assert load_config(name)["data"]["scenario"].keys() == {*fields, "offload_thresholds"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_agent_of_a_scenario_is_the_agent_of_its_file(name: str) -> None:
    agent = HADRL(Scenario.from_config(name))
    assert agent.settings == HADRL.from_config(name).settings
    assert agent.hparams == agent.settings_dict()
    shipped = HADRL.from_checkpoint(name.replace("yaml", "ckpt"))
    assert (shipped.settings["fast_level"], shipped.settings["slow_level"]) == ("set", "lookahead")
    assert shipped.settings["planner"] == agent.settings["planner"]


def test_the_published_agent_is_asked_for_by_name() -> None:
    agent = HADRL.from_config("es5.yaml", "published.yaml", seed=7)
    published = load_config("published.yaml")["model"]
    assert agent.settings["planner"] == PlannerSettings(**published["planner"])
    assert (agent.physics, agent.seed, agent.reset_world_model) == ("published", 7, True)
    assert type(agent.world_model) is WorldModel
    assert type(agent.caching_agent) is DDPG
    assert agent.scenario == Scenario.from_config("es5.yaml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model: {planer: {n_candidates: 5}}", "planer"),
        ("model: {planner: {n_candidates: many}}", "n_candidates"),
        ("model: {planner: {n_candidates: null}}", "model.planner.n_candidates must not be null"),
        ("data: hello", r"data must be a group of settings, got 'hello' in .*mine.yaml"),
        ("model: [1]", r"model must be a group of settings, got \[1\] in .*mine.yaml"),
        ("data: {scenario: {num_users: -1}}", "num_users must be"),
    ],
)
def test_a_wrong_setting_of_an_agent_is_refused_in_python_too(
    tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(HadrlError, match=problem):
        HADRL.from_config("es2.yaml", tmp_path / "mine.yaml")


def test_an_argument_that_an_agent_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(
        HadrlError, match=r"^settings must be some of scenario, physics, .*, seed, got num_users, a f"
    ):
        HADRL.from_config("es2.yaml", num_users=60)
    with pytest.raises(HadrlError, match=r", seed, got sede$"):
        HADRL.from_config("es2.yaml", sede=1)


def test_published_names_all_that_the_published_algorithm_has_otherwise(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = printed_settings(capsys, "es5.yaml", "published.yaml")
    expected = {
        "plan_horizon": 20,
        "n_candidates": 700,
        "top_candidates": 70,
        "optimisation_iters": 7,
        "form": "tschantz",
        "strategy": "information",
        "information_estimator": "nearest_neighbour",
        "use_reward": True,
        "use_exploration": True,
        "expl_scale": 0.1,
        "reward_scale": 1.0,
        "proposal": "gaussian",
        "initial_std": 1.0,
        "min_std": 0.0,
        "clip_actions": True,
        "warm_start": False,
        "planning_members": None,
        "informed_candidates": 0,
        "share_steps": 0,
        "target_sweeps": 0,
    }
    planner = settings["model"]["planner"]
    assert {name: planner[name] for name in expected} == expected
    assert settings["model"]["world_model"] == {**plain(WorldModelSettings()), "normalise_reward": False}
    assert settings["model"]["ddpg"] == plain(DDPGSettings())
    of_planning = {**settings["planning"], "latency_weight": None}  # of another reward
    assert of_planning == {**load_config("published.yaml")["planning"], "latency_weight": None}
    unnamed = settings["data"].keys() - load_config("published.yaml")["data"].keys()
    rest = {
        "scenario",
        "seed",
        "validation_seed",
        "test_seed",
        "predict_episodes",
        "parallel_episodes",
        "memory_bytes",
    }
    assert unnamed == rest | set(SETTINGS), "those of files too"


@pytest.mark.parametrize("name", [*SCENARIOS, *OTHERS])
def test_every_key_of_every_config_is_explained_by_a_comment(name: str) -> None:
    lines = find_config(name).read_text().splitlines()
    explained = False
    for line in lines:
        if not line.strip():
            explained = False
        elif line.lstrip().startswith("#"):
            explained = True
        elif re.match(r"\s*[\w-]+:\s*$", line):  # a group
            explained = False
        else:  # a comment may explain the keys right below it
            assert explained, f"{name}: {line}"


@pytest.mark.parametrize(
    ("name", "servers", "users", "input_kib", "compute_ghz", "free_share", "thresholds"),
    [
        ("es2.yaml", 2, 30, 700, 60, 0.2, (0.0,)),
        ("es3.yaml", 3, 30, 500, 20, 0.2, (-0.5, 0.5)),
        ("es4.yaml", 4, 30, 500, 20, 0.3, (-0.5, 0.0, 0.5)),
        ("es5.yaml", 5, 40, 500, 20, 0.3, (-0.6, -0.2, 0.2, 0.6)),
    ],
)
def test_the_scenarios_are_the_published_table(
    name: str,
    servers: int,
    users: int,
    input_kib: int,
    compute_ghz: int,
    free_share: float,
    thresholds: tuple[float, ...],
) -> None:
    scenario = Scenario.from_config(name)
    assert (scenario.num_servers, scenario.num_users, scenario.num_services) == (servers, users, 10)
    assert scenario.input_bits[9] == input_kib * KIB * 8 * 10
    assert scenario.compute_hz == compute_ghz * 1e9
    assert scenario.free_share == free_share
    assert scenario.offload_thresholds == thresholds
    assert scenario.cache_bytes == 200 * GIB


def test_published_holds_the_published_table_to_the_letter() -> None:
    settings: dict[str, Any] = load_config("published.yaml")
    model, data, planning = settings["model"], settings["data"], settings["planning"]
    assert (model["fast_level"], model["slow_level"], data["physics"]) == ("flat", "flat", "published")
    world_model = model["world_model"]
    assert (world_model["ensemble_size"], world_model["hidden_size"]) == (20, 400)
    assert (world_model["learning_rate"], world_model["adam_epsilon"]) == (1e-3, 1e-8)
    assert (world_model["grad_clip_norm"], world_model["min_log_var"], world_model["max_log_var"]) == (
        1000,
        -5,
        -1,
    )
    planner = model["planner"]
    assert (planner["plan_horizon"], planner["n_candidates"], planner["top_candidates"]) == (20, 700, 70)
    assert (planner["optimisation_iters"], planner["strategy"], planner["form"]) == (
        7,
        "information",
        "tschantz",
    )
    assert (planner["use_reward"], planner["use_exploration"]) == (True, True)
    assert (planner["expl_scale"], planner["reward_scale"]) == (0.1, 1.0)
    assert (data["passes_per_epoch"], data["batch_size"], data["caching_memory"]) == (60, 50, 500_000)
    assert (data["caching_batch_size"], data["caching_updates_per_epoch"], data["num_envs"]) == (64, 10, 1)
    ddpg = model["ddpg"]
    assert (ddpg["actor_learning_rate"], ddpg["critic_learning_rate"]) == (1e-3, 2e-3)
    assert (ddpg["discount"], ddpg["target_rate"], ddpg["hidden_sizes"]) == (0.95, 0.005, [256, 128])
    assert (planning["seed_decisions"], planning["decisions_per_epoch"]) == (20, 5)
    assert (planning["caching_noise_decay"], planning["offloading_noise_decay"]) == (0.9882, 0.9995)
    seeds, epochs, decisions = 1, 400, 5
    assert settings["trainer"]["max_epochs"] == seeds + epochs
    assert epochs * decisions == 200 * 10  # 200 episodes of 10 decisions


def test_a_name_too_long_for_a_file_is_refused_like_any_other() -> None:
    with pytest.raises(HadrlError, match=r"config must be a path or one of the shipped files"):
        find_config("x" * 5000)


@pytest.mark.parametrize(
    "text", ["a: 2026-99-99", "[" * 3000, "a: [", "\x00", "a: !!python/object:os.system {}"]
)
def test_text_that_is_no_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(HadrlError, match="config must be a readable YAML file") as refusal:
        load_config(tmp_path / "mine.yaml")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("data: {num_envs: null}", "data.num_envs"),
        ("data: {scenario: {num_users: null}}", "data.scenario.num_users"),
        ("model: {set_ddpg: {actor_learning_rate: null}}", "model.set_ddpg.actor_learning_rate"),
        ("planning: {caching_noise: null}", "planning.caching_noise"),
        ("planning: {planner: {n_candidates: null}}", "planning.planner.n_candidates"),
    ],
)
def test_a_null_in_a_file_is_refused_where_the_setting_has_none(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], text: str, setting: str
) -> None:
    Path("mine.yaml").write_text(text)
    assert main(["fit", "--config", "es2.yaml", "--config", "mine.yaml"]) == 2
    assert capsys.readouterr().err == f"hadrl: error: {setting} must not be null\n"


NO_GROUP = {
    "data: hello": "data must be a group of settings, got 'hello' in mine.yaml",
    "data: {scenario: [1, 2]}": "data.scenario must be a group of settings, got [1, 2] in mine.yaml",
    "planning: {planner: hello}": "planning.planner must be a group of settings, got 'hello' in mine.yaml",
    "trainer: fast": "trainer must be a group of settings, got 'fast' in mine.yaml",
    "- data": "config must be a YAML mapping, got a list in mine.yaml",
    "data": "config must be a YAML mapping, got a str in mine.yaml",
    "data: {seed: {{ seed }}}": 'found unhashable key in "<unicode string>", line 1, column 15',
    "data: {seed: 1, seed: 2}": "YAML file, got mine.yaml: seed stands twice in a group, in line 1",
    "data: &a {scenario: *a}": "YAML file, got mine.yaml: found unconstructable recursive node",
    f"data: {{scenario: {{num_users: {'9' * 5000}}}}}": "data.scenario.num_users must be a whole number or a "
    "range {low: …, high: …}, got inf",
    "data: {scenario: {compute_hz: 1e99999999999 GHz}}": "compute_hz must be a finite number, got inf",
    "data: {scenario: {cell: " + "x" * 5000 + "}}": "unknown setting data.scenario.cell",
}
"""What a file says that is no setting or no group, and what is said of it."""


def test_a_file_or_a_group_that_is_empty_leaves_earlier_settings_as_they_are(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("three.yaml").write_text("data: {scenario: {num_users: 3}}")
    names = ["three.yaml"]
    for number, text in enumerate(("", "# nothing\n", "data:\n", "data:\n  scenario:\n", "{}")):
        names.append(f"empty-{number}.yaml")
        Path(names[-1]).write_text(text)
        assert HADRL.from_config("three.yaml", names[-1]).scenario.num_users == 3
    assert printed_settings(capsys, *names)["data"]["scenario"]["num_users"] == 3
    (cell, *_) = make_plan(PlanSettings(overlays=tuple(names), policies=("random+random",))).cells
    assert cell.settings["scenario"]["num_users"] == 3


@pytest.mark.parametrize("text", NO_GROUP, ids=range(len(NO_GROUP)))
def test_what_is_no_group_of_settings_is_refused_in_the_same_words_everywhere(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """Followed by a file that is right: merged over what is wrong, it would hide it."""
    Path("mine.yaml").write_text(text)
    Path("three.yaml").write_text("data: {scenario: {num_users: 3}}" if "inf" not in NO_GROUP[text] else "")
    names = ("es2.yaml", "mine.yaml", "three.yaml")
    assert main(["fit", *(word for name in names for word in ("--config", name))]) == 2
    by_fit = capsys.readouterr().err
    assert NO_GROUP[text] in by_fit
    assert by_fit.count("\n") == 1
    with pytest.raises(HadrlError) as by_benchmark:
        make_plan(PlanSettings(scenarios=names[:1], overlays=names[1:], policies=("random+random",)))
    assert NO_GROUP[text] in str(by_benchmark.value)
    assert max(len(by_fit), len(str(by_benchmark.value))) < 400
    if not text.startswith(("trainer", "planning")):
        with pytest.raises(HadrlError) as in_python:
            HADRL.from_config(*names)
        assert NO_GROUP[text] in str(in_python.value)


@pytest.mark.parametrize("given", ["1" + "0" * 400, "-1" + "0" * 400])
def test_a_whole_number_beyond_double_precision_is_refused_in_one_line(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    assert main(["fit", "--config", "es2.yaml", f"--data.scenario.cloud_compute_hz={given}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "hadrl: error: data.scenario.cloud_compute_hz must be a number or a range {low: …, high: …}, got "
    )
    assert error.count("\n") == 1


@pytest.mark.slow
def test_the_published_algorithm_shrunk_trains_to_the_end(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", "es2.yaml", "--config", "published.yaml", "--config", "quick.yaml"]
    assert main(["fit", *words]) == 0
    assert "10 test episodes" in capsys.readouterr().out


def test_quick_shrinks_the_published_algorithm_to_plans_of_one_slot() -> None:
    agent = HADRL.from_config("es2.yaml", "published.yaml", "quick.yaml")
    planner = agent.settings["planner"]
    assert (planner.plan_horizon, planner.n_candidates, planner.optimisation_iters) == (1, 32, 2)
    assert agent.num_members == 20
