"""The agents: LightningModules that learn and decide."""

from hadrl_lightning.agents.acting import CachingDecision
from hadrl_lightning.agents.ddpg import DDPG, DDPGSettings
from hadrl_lightning.agents.hadrl import HADRL
from hadrl_lightning.agents.levels import CACHING_AGENTS, SLOT_MODELS, CachingAgent, SlotModel
from hadrl_lightning.agents.lookahead import LookaheadCaching
from hadrl_lightning.agents.refusals import check_trainer
from hadrl_lightning.agents.set_ddpg import SetDDPG, SetDDPGSettings
from hadrl_lightning.agents.set_world_model import SetWorldModel
from hadrl_lightning.agents.settings import LookaheadSettings, SetWorldModelSettings
from hadrl_lightning.agents.stored import progress
from hadrl_lightning.agents.transition_model import derived_reward
from hadrl_lightning.agents.world_model import WorldModel, WorldModelSettings

__all__ = [
    "CACHING_AGENTS",
    "DDPG",
    "HADRL",
    "SLOT_MODELS",
    "CachingAgent",
    "CachingDecision",
    "DDPGSettings",
    "LookaheadCaching",
    "LookaheadSettings",
    "SetDDPG",
    "SetDDPGSettings",
    "SetWorldModel",
    "SetWorldModelSettings",
    "SlotModel",
    "WorldModel",
    "WorldModelSettings",
    "check_trainer",
    "derived_reward",
    "progress",
]
