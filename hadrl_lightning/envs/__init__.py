"""Gymnasium views of the simulator: one level with the other given by a policy, and both at once."""

from hadrl_lightning.envs.core import most_requested
from hadrl_lightning.envs.single import ComputationOffloadingEnv, EdgeNetworkEnv, ServiceCachingEnv
from hadrl_lightning.envs.vector import (
    ComputationOffloadingVectorEnv,
    EdgeNetworkVectorEnv,
    ServiceCachingVectorEnv,
)

__all__ = [
    "ComputationOffloadingEnv",
    "ComputationOffloadingVectorEnv",
    "EdgeNetworkEnv",
    "EdgeNetworkVectorEnv",
    "ServiceCachingEnv",
    "ServiceCachingVectorEnv",
    "most_requested",
]
