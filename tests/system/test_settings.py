"""Every setting of planner, world models, caching agents, collection and HADRL does something, or is refused.

Each class has a table: for every setting, what to change it to and what else has to be set for it to matter. A new
setting without an entry fails.
"""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
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
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.data import CachingTransitions, OffloadingTransitions, TransitionDataModule
from hadrl_lightning.distributed import MemberWise, Share
from hadrl_lightning.errors import HadrlError
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
from hadrl_lightning.play import offloading_reward
from hadrl_lightning.scenario import GIB, Scenario
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
    assert set(changes) == {field.name for field in dataclasses.fields(settings)}
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
    "num_slots": 2,
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
    decisions = [
        agent.act(CACHING.next_view),
        agent.explore(CACHING.next_view, 0.0, generator()),
    ]
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
    agent = LookaheadCaching(SCENARIO, LookaheadSettings(**{"random_decisions": 1, **changes}))
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
            assert searched(make(num_starts=value)) != usual
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
    return list(module.parameters()), list(module.play(network))


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
