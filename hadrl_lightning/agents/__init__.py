"""The agents: LightningModules that learn and decide."""

from .caching_objective import CachingObjective, caching_objective
from .ddpg import DDPG, DDPGSettings
from .hadrl import HADRL, CachingDecision
from .set_ddpg import SetDDPG, SetDDPGSettings
from .set_world_model import SetWorldModel, SetWorldModelSettings
from .stored import progress
from .trainer_limits import check_trainer
from .world_model import WorldModel, WorldModelSettings

__all__ = [
    "DDPG",
    "HADRL",
    "CachingDecision",
    "CachingObjective",
    "DDPGSettings",
    "SetDDPG",
    "SetDDPGSettings",
    "SetWorldModel",
    "SetWorldModelSettings",
    "WorldModel",
    "WorldModelSettings",
    "caching_objective",
    "check_trainer",
    "progress",
]
