"""One ensemble on several ranks: each holds and trains its members, simulates its networks, and plans with all."""

from .collectives import largest_of_ranks, of_each_rank, summed, this_rank
from .members import MemberWise, MergedOverRanks, clip_gradients, member_parameters, members_held
from .networks import SharedNetworks
from .shares import ALONE, DataShare, Share
from .strategy import EnsembleParallelStrategy, require_members

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
