"""Models without Lightning: actor and critic, the ensemble, the running normaliser."""

from hadrl_lightning.nn.actor_critic import Actor, Critic
from hadrl_lightning.nn.ensemble import DynamicsEnsemble, EnsembleLinear, RewardModel
from hadrl_lightning.nn.normaliser import RunningNormaliser

__all__ = ["Actor", "Critic", "DynamicsEnsemble", "EnsembleLinear", "RewardModel", "RunningNormaliser"]
