"""The agents: LightningModules that learn and decide."""

from .ddpg import DDPG, DDPGSettings
from .hadrl import HADRL, CachingDecision
from .world_model import WorldModel, WorldModelSettings

__all__ = ["DDPG", "HADRL", "CachingDecision", "DDPGSettings", "WorldModel", "WorldModelSettings"]
