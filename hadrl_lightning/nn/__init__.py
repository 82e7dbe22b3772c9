"""Models without Lightning: actor and critic, the ensemble, the running normaliser."""

from hadrl_lightning.nn.normaliser import RunningNormaliser
from hadrl_lightning.nn.perceptrons import Actor, Critic, DynamicsEnsemble, EnsembleLinear, RewardModel

__all__ = ["Actor", "Critic", "DynamicsEnsemble", "EnsembleLinear", "RewardModel", "RunningNormaliser"]
