"""Experience: transitions, replay buffers, passes over them, and the data module that owns them."""

from .datamodule import TransitionDataModule
from .passes import MemberBatches, member_batches
from .replay import ReplayBuffer
from .streams import EpisodeStream, TrainingBatch, TrainingStream
from .transitions import CachingTransitions, OffloadingTransitions

__all__ = [
    "CachingTransitions",
    "EpisodeStream",
    "MemberBatches",
    "OffloadingTransitions",
    "ReplayBuffer",
    "TrainingBatch",
    "TrainingStream",
    "TransitionDataModule",
    "member_batches",
]
