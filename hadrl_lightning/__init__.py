"""Joint service caching and computation offloading in mobile edge networks, on PyTorch Lightning.

Importing the package registers its environments with Gymnasium. The names below load what they need when first used.
"""

from importlib import import_module
from typing import Any

from hadrl_lightning.registration import register_environments
from hadrl_lightning.version import __version__ as __version__

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
    "SetDDPG": "agents",
    "SetWorldModel": "agents",
    "WorldModel": "agents",
    "best_known": "baselines",
    "CEMPlanning": "callbacks",
    "EpisodeEvaluation": "callbacks",
}
"""The subpackage of every public name."""

__all__ = sorted(_HOMES)

register_environments()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
