"""What decides the level that an environment leaves out, unless the user gives a policy."""

from jaxtyping import Bool
from torch import Tensor

from hadrl_lightning.simulator import Allocation, EdgeNetwork, equal_shares, fill_caches


def most_requested(network: EdgeNetwork) -> Bool[Tensor, "batch server service"]:
    """Caches filled with the services asked for most often so far in the episode, while they fit, [B, S, K].

    It knows nothing of the popularity but what the network has seen; ties (and the first decision) go to the smaller
    index. With caches that hold everything it caches everything.
    """
    counts = network.state.request_counts
    return fill_caches(network.scenario, counts[:, None, :].expand(network.cache.shape), table=network.exact)


def home_with_equal_shares(network: EdgeNetwork) -> Allocation:
    """Every user offloads to the server whose radio it uses, and gets the same share as the others there, [B, U]."""
    return equal_shares(network.scenario, network.homes, network.dtype)
