"""Joint service caching and computation offloading in mobile edge networks, on PyTorch Lightning.

Importing the package registers its environments with Gymnasium. The names below load what they need when first used.
"""

from importlib import import_module
from typing import Any

import gymnasium

__version__ = "0.1.0"
"""The version of the package; pyproject.toml reads it here."""

_HOMES = {
    "Scenario": "scenario",
    "Allocation": "simulator",
    "EdgeNetwork": "simulator",
    "Service": "simulator",
    "decode_caching": "simulator",
    "decode_offloading": "simulator",
    "serve": "simulator",
    "switching_cost": "simulator",
    "CacheHitRatio": "metrics",
    "DeadlineSatisfaction": "metrics",
    "ServiceLatency": "metrics",
    "SwitchingCost": "metrics",
    "ReplayBuffer": "data",
    "TransitionDataModule": "data",
    "CEMPlanner": "planning",
    "expected_free_energy": "planning",
    "information_gain": "planning",
    "DDPG": "agents",
    "HADRL": "agents",
    "LookaheadCaching": "agents",
    "SetDDPG": "agents",
    "SetWorldModel": "agents",
    "WorldModel": "agents",
    "best_known": "baselines",
    "CEMPlanning": "callbacks",
    "EpisodeEvaluation": "callbacks",
}
"""The subpackage of every public name."""

__all__ = sorted(_HOMES)

_ENVIRONMENTS = ("ServiceCaching", "ComputationOffloading", "EdgeNetwork")
"""`hadrl/NAME-v0` is the class `NAMEEnv`, and `NAMEVectorEnv` where a vector of them is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


def register_environments() -> None:
    """Register the environments with Gymnasium, by names so that nothing is imported before one is made."""
    for name in _ENVIRONMENTS:
        env_id = f"hadrl/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(
                id=env_id,
                entry_point=f"hadrl_lightning.envs:{name}Env",
                vector_entry_point=f"hadrl_lightning.envs:{name}VectorEnv",
            )


register_environments()
