"""Constructors read units, and refuse in one line what is of another type than they declare."""

import dataclasses
from collections.abc import Callable
from math import nan
from typing import Any, Literal

import numpy as np
import pytest
import torch

from hadrl_lightning.agents import (
    HADRL,
    DDPGSettings,
    SetDDPGSettings,
    SetWorldModelSettings,
    WorldModelSettings,
)
from hadrl_lightning.baselines.genetic import GeneticSettings
from hadrl_lightning.baselines.learners import LearnerSettings
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.cli.checkpointing import Checkpointing
from hadrl_lightning.cli.mistakes import naming_settings
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.planning import PlannerSettings
from hadrl_lightning.planning.refine import RefinementSettings
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork
from hadrl_lightning.typed import read_as

SETTINGS = [
    PlannerSettings,
    RefinementSettings,
    WorldModelSettings,
    SetWorldModelSettings,
    DDPGSettings,
    SetDDPGSettings,
    LearnerSettings,
    GeneticSettings,
]
WRONG: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (PlannerSettings, {"use_reward": "no"}, "use_reward must be true or false, got 'no'"),
    (PlannerSettings, {"planning_members": 2.5}, "planning_members must be a whole number or none, got 2.5"),
    (PlannerSettings, {"latency_scale_s": "30 GHz"}, "latency_scale_s must be a number, in one of ns, us, "),
    (PlannerSettings, {"latency_scale_s": nan}, "latency_scale_s must be a number, got nan"),
    (PlannerSettings, {"expl_scale": 10**400}, "expl_scale must be a number, got 1000"),
    (PlannerSettings, {"form": "nope"}, "form must be one of tschantz, gould, outcome, got 'nope'"),
    (SetWorldModelSettings, {"hidden_size": nan}, "hidden_size must be a whole number, got nan"),
    (
        SetDDPGSettings,
        {"hidden_sizes": [64, "x"]},
        "hidden_sizes must be a list of whole numbers, got [64, 'x']",
    ),
    (
        HADRL,
        {"physics": "nonsense"},
        "physics must be one of strict, published, or a physics of your own as module.name, got nonsense",
    ),
    (HADRL, {"fast_level": 1}, "fast_level must be a text, got 1"),
    (HADRL, {"slow_level": None}, "slow_level must be a text, got None"),
    (HADRL, {"scenario": "es2.yaml"}, "scenario must be a Scenario, got 'es2.yaml'"),
    (HADRL, {"planner": {"form": "outcome"}}, "planner must be a PlannerSettings, got {'form': 'outcome'}"),
    (TransitionDataModule, {"num_envs": "2"}, "num_envs must be a whole number, got '2'"),
    (TransitionDataModule, {"scenario": "es2.yaml"}, "scenario must be a Scenario, got 'es2.yaml'"),
    (CEMPlanning, {"caching_reward": "luck"}, "caching_reward must be one of "),
    (CEMPlanning, {"seed_decisions": 1.5}, "seed_decisions must be a whole number, got 1.5"),
    (Checkpointing, {"mode": "best"}, "mode must be one of min, max, got 'best'"),
    (EdgeNetwork, {"scenario": "es2.yaml"}, "scenario must be a Scenario, got 'es2.yaml'"),
    *(
        (
            EdgeNetwork,
            {"scenario": Scenario(), "num_envs": value},
            f"num_envs must be a whole number, got {value!r}",
        )
        for value in ("2", 1.5, True)
    ),
    (
        EdgeNetwork,
        {"scenario": Scenario(), "dtype": torch.int32},
        "dtype must be one of floating-point numbers",
    ),
]


@pytest.mark.parametrize(("make", "arguments", "message"), WRONG)
def test_an_argument_of_another_type_is_refused_in_one_line(
    make: Callable[..., Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        make(**arguments)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("arguments", [{"seed": "x"}, {"planner": {}}])
def test_an_argument_beside_the_files_of_an_agent_is_checked_too(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be a "):
        HADRL.from_config("es2.yaml", **arguments)


@pytest.mark.parametrize("cls", SETTINGS)
def test_every_field_of_every_settings_class_is_checked(cls: type) -> None:
    assert dataclasses.fields(cls)
    for field in dataclasses.fields(cls):
        with pytest.raises(ValueError, match=f"^{field.name} must be .*, got <object"):
            cls(**{field.name: object()})


def test_units_lists_and_numbers_of_numpy_are_read() -> None:
    assert PlannerSettings(latency_scale_s="30ms").latency_scale_s == 0.03  # type: ignore[arg-type]
    assert DDPGSettings(hidden_sizes=[8, 8]).hidden_sizes == (8, 8)  # type: ignore[arg-type]
    settings = PlannerSettings(planning_members=np.int64(1), use_exploration=np.bool_(True))  # type: ignore[arg-type]
    assert type(settings.planning_members) is int
    assert settings.use_exploration is True
    scenario = Scenario(num_users=3)
    assert EdgeNetwork(scenario, "published", np.int64(2)).requests.shape == (2, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (bool, [True], [1, "true", None]),
        (int, [0, -3, 10**400], [1.0, True, "1", None]),
        (float, [1, 0.5, float("inf")], [True, "1", nan]),
        (int | None, [None, 3], ["none", 0.5]),
        (Literal["a", 1], ["a", 1], [True, "b", 1.0]),
        (tuple[float, ...], [(), (1, 2.5)], [1.0, (1, "x"), "12"]),
        (tuple[float, int], [(0.5, 1)], [(1,), (1, 2, 3), (1, 0.5)]),
        (tuple[tuple[int, int], ...], [((1, 2), (3, 4))], [(1, 2)]),
        (Any, [object, None, 1], []),
        (Callable[[int], int], [abs], []),
    ],
)
def test_a_type_takes_its_own_values_and_no_others(hint: Any, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        assert read_as("it", value, hint) == value
    for value in wrong:
        with pytest.raises(ValueError, match=r"^it must be "):
            read_as("it", value, hint)


def test_a_seed_and_a_number_of_networks_that_cannot_be_are_named_in_full() -> None:
    with (
        pytest.raises(HadrlError, match=r"^data.seed must be at least 0 and below 2\^64, got -1$"),
        naming_settings({"data": TransitionDataModule}),
    ):
        TransitionDataModule(seed=-1)
    with pytest.raises(HadrlError, match=r"^data.num_envs: networks in parallel must be as many as fit"):
        TransitionDataModule(num_envs=10**12).setup("fit")
