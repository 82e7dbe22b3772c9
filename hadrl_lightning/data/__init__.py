"""Experience: transitions, replay buffers, passes over them, and the data module that owns them."""

from .bootstrap import bootstrap_weights
from .datamodule import TransitionDataModule
from .passes import MemberBatches, member_batches
from .replay import ReplayBuffer
from .streams import EpisodeStream, TrainingBatch, TrainingStream
from .transitions import CachingTransitions, OffloadingTransitions, WeightedTransitions

__all__ = [
    "CachingTransitions",
    "EpisodeStream",
    "MemberBatches",
    "OffloadingTransitions",
    "ReplayBuffer",
    "TrainingBatch",
    "TrainingStream",
    "TransitionDataModule",
    "WeightedTransitions",
    "bootstrap_weights",
    "member_batches",
]
