"""One ensemble on several ranks: each holds and trains its members, simulates its networks, and plans with all."""

from hadrl_lightning.parallel.collectives import largest_of_ranks, of_each_rank, summed, this_rank
from hadrl_lightning.parallel.members import (
    MemberWise,
    MergedOverRanks,
    clip_gradients,
    member_parameters,
    members_held,
)
from hadrl_lightning.parallel.networks import SharedNetworks
from hadrl_lightning.parallel.shares import ALONE, DataShare, Share
from hadrl_lightning.parallel.strategy import EnsembleParallelStrategy, require_members

__all__ = [
    "ALONE",
    "DataShare",
    "EnsembleParallelStrategy",
    "MemberWise",
    "MergedOverRanks",
    "Share",
    "SharedNetworks",
    "clip_gradients",
    "largest_of_ranks",
    "member_parameters",
    "members_held",
    "of_each_rank",
    "require_members",
    "summed",
    "this_rank",
]
