"""What several ranks need of each other, by torch alone: exchanges, shares of items, modules that know their share."""

from hadrl_lightning.distributed.collectives import (
    ALONE,
    ActingAsOne,
    DataShare,
    Share,
    largest,
    largest_of_ranks,
    of_each_rank,
    summed,
    this_rank,
)
from hadrl_lightning.distributed.members import (
    MemberWise,
    MergedOverRanks,
    SharesRows,
    clip_gradients,
    member_parameters,
    members_held,
)

__all__ = [
    "ALONE",
    "ActingAsOne",
    "DataShare",
    "MemberWise",
    "MergedOverRanks",
    "Share",
    "SharesRows",
    "clip_gradients",
    "largest",
    "largest_of_ranks",
    "member_parameters",
    "members_held",
    "of_each_rank",
    "summed",
    "this_rank",
]
