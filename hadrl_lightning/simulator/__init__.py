"""The edge network: pure batched physics on explicit state."""

from hadrl_lightning.simulator.actions import (
    decode_caching,
    decode_caching_seen,
    decode_offloading,
    equal_shares,
    num_targets,
)
from hadrl_lightning.simulator.decisions import (
    Allocation,
    bin_index,
    fill_caches,
    log_weights,
    packed,
    packed_rows,
    weighted_shares,
)
from hadrl_lightning.simulator.fields import Field, Seen, View, fields_of, from_vector, to_vector, vector_size
from hadrl_lightning.simulator.network import EdgeNetwork
from hadrl_lightning.simulator.physics import Limits, Published, Rules, Strict, rules
from hadrl_lightning.simulator.radio import path_loss_db
from hadrl_lightning.simulator.randomness import (
    ScenarioRange,
    Use,
    check_seed,
    make_generator,
    restore_generator,
)
from hadrl_lightning.simulator.rows import Rows
from hadrl_lightning.simulator.service import Terms, serve, spectral_efficiency, switching_cost, terms
from hadrl_lightning.simulator.shared_networks import SharedNetworks
from hadrl_lightning.simulator.state import Service, Slot
from hadrl_lightning.simulator.unfolding import offloading_view_of
from hadrl_lightning.simulator.views import CachingView, OffloadingView

__all__ = [
    "Allocation",
    "CachingView",
    "EdgeNetwork",
    "Field",
    "Limits",
    "OffloadingView",
    "Published",
    "Rows",
    "Rules",
    "ScenarioRange",
    "Seen",
    "Service",
    "SharedNetworks",
    "Slot",
    "Strict",
    "Terms",
    "Use",
    "View",
    "bin_index",
    "check_seed",
    "decode_caching",
    "decode_caching_seen",
    "decode_offloading",
    "equal_shares",
    "fields_of",
    "fill_caches",
    "from_vector",
    "log_weights",
    "make_generator",
    "num_targets",
    "offloading_view_of",
    "packed",
    "packed_rows",
    "path_loss_db",
    "restore_generator",
    "rules",
    "serve",
    "spectral_efficiency",
    "switching_cost",
    "terms",
    "to_vector",
    "vector_size",
    "weighted_shares",
]
