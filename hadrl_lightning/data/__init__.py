"""Experience: transitions, replay buffers, passes over them, and the data module that owns them."""

from hadrl_lightning.data.datamodule import TransitionDataModule
from hadrl_lightning.data.passes import MemberBatches, SizedBatches, bootstrap_weights, member_batches
from hadrl_lightning.data.replay import ReplayBuffer
from hadrl_lightning.data.sized_replay import SizedReplay
from hadrl_lightning.data.streams import EpisodeStream, TrainingBatch, TrainingStream
from hadrl_lightning.data.transitions import CachingTransitions, OffloadingTransitions, Transitions

__all__ = [
    "CachingTransitions",
    "EpisodeStream",
    "MemberBatches",
    "OffloadingTransitions",
    "ReplayBuffer",
    "SizedBatches",
    "SizedReplay",
    "TrainingBatch",
    "TrainingStream",
    "TransitionDataModule",
    "Transitions",
    "bootstrap_weights",
    "member_batches",
]
