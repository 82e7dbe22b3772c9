"""Actor and critic over sets of servers and services: the same weights for any number of both.

The critic sees a decision service by service: whether any server holds it (coverage) and how many do (copies), beside
what is known of the service. It does not change when servers or services change places. The actor decides for every
(server, service) from the pair's own numbers and their means over servers, services and all pairs; a code of the
server's index is the one thing that tells servers with equal caches apart, since equal servers should hold different
services.
"""

from collections.abc import Sequence
from math import tau
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.distributed.collectives import summed
from hadrl_lightning.distributed.members import MergedOverRanks
from hadrl_lightning.nn.actor_critic import multilayer_perceptron
from hadrl_lightning.simulator import CachingView

SERVICE_FEATURES = 6
"""Numbers of a service that the critic sees; one more where it sees switching."""
PAIR_FEATURES = 8
"""Numbers of a (server, service) pair that the actor sees."""
GOLDEN_RATIO = (5**0.5 - 1) / 2
COPIES_SCALE = 4.0


class Inputs(NamedTuple):
    """What actor and critic take of a caching view."""

    cache: Float[Tensor, "*rows server service"]
    """1 where the server holds the service."""

    demand: Float[Tensor, "*rows service"]
    """Of each service; the usual one at the start of an episode."""

    hits: Float[Tensor, "*rows server service"]
    """Of each pair."""


class _CacheNetwork(MergedOverRanks):
    """What actor and critic share: sizes of servers and services, and the usual demand.

    The sizes are no weights and are not saved. The usual demand of each service is the mean of all the demand seen in
    training. It stands in at the start of an episode, when nothing has been asked yet. Weights of another number of
    services bring no usual demand: all services are then equally usual, until a training has seen them.

    Args:
        storage: storage of each service, `[K]`, in any unit.
        capacity: usable cache of each server, `[S]`, in the same unit.
    """

    size: Float[Tensor, " service"]
    fill: Float[Tensor, "server service"]
    usual_demand: Float[Tensor, " service"]
    num_seen: Float[Tensor, ""]

    def __init__(self, storage: Sequence[float], capacity: Sequence[float]) -> None:
        super().__init__()
        self.num_servers, self.num_services = len(capacity), len(storage)
        sizes = torch.tensor(storage, dtype=torch.float64)
        fill = sizes / torch.tensor(capacity, dtype=torch.float64)[:, None]
        self.register_buffer("size", (sizes / sizes.mean() / 2).float(), persistent=False)
        self.register_buffer("fill", fill.clamp(max=2).float(), persistent=False)
        self.register_buffer("usual_demand", torch.full((self.num_services,), 1 / self.num_services))
        self.register_buffer("num_seen", torch.zeros(()))
        self.register_load_state_dict_pre_hook(_without_usual_demand_of_other_services)

    @torch.no_grad()
    def watch(self, view: CachingView) -> None:
        """Takes the demand of the rows into the usual demand; rows at the start of an episode have none.

        Ranks of `torch.distributed` share what they see, so that they stay equal: every rank has to call.
        """
        demand = view.demand[view.demand.sum(dim=-1) != 0].to(self.usual_demand.dtype)
        seen = torch.cat((self.num_seen.new_tensor([len(demand)]), (demand - self.usual_demand).sum(dim=0)))
        if not self.same_on_all_ranks:
            seen = summed(seen)
        self.num_seen += seen[0]
        self.usual_demand += seen[1:] / self.num_seen.clamp(min=1)

    def read(self, view: CachingView) -> Inputs:
        """The usual demand standing in for none, shares scaled to be about ½ where all are equal."""
        none = view.demand.sum(dim=-1, keepdim=True) == 0
        demand = torch.where(none, self.usual_demand.to(view.dtype), view.demand)
        half = self.num_services / 2
        return Inputs(view.cache.to(view.dtype), demand * half, view.hits * half * self.num_servers)


def _without_usual_demand_of_other_services(
    network: _CacheNetwork, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Before `load_state_dict`: what is known of other services says nothing of these."""
    demand = state_dict.get(f"{prefix}usual_demand")
    if demand is not None and demand.shape != network.usual_demand.shape:
        number = network.num_services
        state_dict[f"{prefix}usual_demand"] = torch.full_like(network.usual_demand, 1 / number)
        state_dict[f"{prefix}num_seen"] = torch.zeros_like(network.num_seen)


class SetCritic(_CacheNetwork):
    """Value of a cache = Σ over services of a network of [demand, usual demand, size, coverage, copies, fetched].

    Coverage is 1 − Π_s (1 − c_sk), copies Σ_s c_sk (both also as a share of the servers), fetched Σ_s c_sk (1 − held),
    which it sees on request alone.

    Args:
        storage: storage of each service, `[K]`, in any unit.
        capacity: usable cache of each server, `[S]`, in the same unit.
        hidden_sizes: widths of the hidden layers.
        sees_switching: whether the network sees what is fetched; it otherwise values a cache whatever is held now.
        generator: source of the initial parameters; None: the global one.
    """

    def __init__(
        self,
        storage: Sequence[float],
        capacity: Sequence[float],
        hidden_sizes: Sequence[int] = (64, 64),
        sees_switching: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(storage, capacity)
        self.sees_switching = sees_switching
        num_features = SERVICE_FEATURES + sees_switching
        self.layers = multilayer_perceptron((num_features, *hidden_sizes, 1), generator)

    def forward(
        self, view: CachingView, cache: Bool[Tensor, "*rows server service"]
    ) -> Float[Tensor, "*rows"]:
        """The value of each row's cache at what it sees."""
        seen, held = self.read(view), cache.to(view.dtype)
        copies = held.sum(dim=-2)
        features = [
            seen.demand,
            (self.usual_demand * (self.num_services / 2)).to(copies.dtype).expand_as(copies),
            self.size.to(copies.dtype).expand_as(copies),
            1 - (1 - held).prod(dim=-2),
            copies / COPIES_SCALE,
            copies / self.num_servers,
        ]
        if self.sees_switching:
            features.append((held * (1 - seen.cache)).sum(dim=-2) / COPIES_SCALE)
        return self.layers(torch.stack(features, dim=-1)).sum(dim=(-2, -1))


class SetActor(_CacheNetwork):
    """How much each server should hold each service.

    Pairs are encoded, averaged over servers, services and all, and decoded.
    """

    code: Float[Tensor, "server 2"]

    def __init__(
        self,
        storage: Sequence[float],
        capacity: Sequence[float],
        width: int = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(storage, capacity)
        angle = torch.arange(self.num_servers) * (GOLDEN_RATIO * tau)
        self.register_buffer("code", torch.stack((angle.cos(), angle.sin()), dim=-1), persistent=False)
        self.encoder = multilayer_perceptron((PAIR_FEATURES, width, width), generator)
        self.decoder = multilayer_perceptron((4 * width, width, 1), generator)

    def logits(self, view: CachingView) -> Float[Tensor, "*rows server service"]:
        """Half the log-odds that the pair is held."""
        seen = self.read(view)
        like = seen.cache
        features = (
            like,
            seen.demand.unsqueeze(-2),
            seen.hits,
            self.size.to(like.dtype),
            self.fill.to(like.dtype),
            (self.usual_demand * (self.num_services / 2)).to(like.dtype),
            self.code[:, :1].to(like.dtype),
            self.code[:, 1:].to(like.dtype),
        )
        pair = self.encoder(torch.stack([feature.expand_as(like) for feature in features], dim=-1))
        means = [pair.mean(dim=dims, keepdim=True).expand_as(pair) for dims in (-3, -2, (-3, -2))]
        return self.decoder(torch.cat((pair, *means), dim=-1)).squeeze(-1)

    def forward(self, view: CachingView) -> Float[Tensor, "*rows server service"]:
        """The wish in [−1, 1] of each pair."""
        return torch.tanh(self.logits(view))
