"""The edge network: pure batched physics on explicit state."""

from hadrl_lightning.simulator.actions import (
    Allocation,
    decode_caching,
    decode_offloading,
    equal_shares,
    fill_caches,
)
from hadrl_lightning.simulator.episode import (
    CachingPolicy,
    Episode,
    EpisodeScores,
    OffloadingPolicy,
    episode_scores,
    run_episode,
)
from hadrl_lightning.simulator.network import EdgeNetwork
from hadrl_lightning.simulator.radio import path_loss_db, spectral_efficiency
from hadrl_lightning.simulator.randomness import Use, check_seed, make_generator, restore_generator
from hadrl_lightning.simulator.service import (
    Service,
    caching_reward,
    offloading_reward,
    serve,
    switching_cost,
)

__all__ = [
    "Allocation",
    "CachingPolicy",
    "EdgeNetwork",
    "Episode",
    "EpisodeScores",
    "OffloadingPolicy",
    "Service",
    "Use",
    "caching_reward",
    "check_seed",
    "decode_caching",
    "decode_offloading",
    "episode_scores",
    "equal_shares",
    "fill_caches",
    "make_generator",
    "offloading_reward",
    "path_loss_db",
    "restore_generator",
    "run_episode",
    "serve",
    "spectral_efficiency",
    "switching_cost",
]
