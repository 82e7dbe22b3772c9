"""Gymnasium views of the simulator: one level with the other given by a policy, and both at once."""

from .core import Reward, slot_info
from .policies import home_with_equal_shares, most_requested
from .single import ComputationOffloadingEnv, EdgeNetworkEnv, ServiceCachingEnv
from .vector import ComputationOffloadingVectorEnv, EdgeNetworkVectorEnv, ServiceCachingVectorEnv

__all__ = [
    "ComputationOffloadingEnv",
    "ComputationOffloadingVectorEnv",
    "EdgeNetworkEnv",
    "EdgeNetworkVectorEnv",
    "Reward",
    "ServiceCachingEnv",
    "ServiceCachingVectorEnv",
    "home_with_equal_shares",
    "most_requested",
    "slot_info",
]
