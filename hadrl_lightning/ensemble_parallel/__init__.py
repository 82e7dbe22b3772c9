"""The strategy `ensemble_parallel`: each rank holds and trains its members, simulates its networks, plans with all.

Importing it makes the name known to `Trainer`. Nothing below knows it: it puts what ranks need into the agent.
"""

from hadrl_lightning.ensemble_parallel.planning import DistributedEnsemble, plan_on_ranks
from hadrl_lightning.ensemble_parallel.strategy import EnsembleParallelStrategy, require_members

__all__ = ["DistributedEnsemble", "EnsembleParallelStrategy", "plan_on_ranks", "require_members"]
