"""Actor and critic over sets of servers and services: the same weights for any number of both.

The critic sees a decision service by service: whether any server holds it (coverage) and how many do (copies), beside
what is known of the service. It does not change when servers or services change places. The actor decides for every
(server, service) from the pair's own numbers and their means over servers, services and all pairs; a code of the
server's index is the one thing that tells servers with equal caches apart, since equal servers should hold different
services.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import tau

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hadrl_lightning.nn.demand import UsualDemand
from hadrl_lightning.nn.perceptrons import multilayer_perceptron
from hadrl_lightning.simulator import CachingView
from hadrl_lightning.simulator.rows import Rows

SERVICE_FEATURES = 6
"""Numbers of a service that the critic sees; one more where it sees switching."""
PAIR_FEATURES = 8
"""Numbers of a (server, service) pair that the actor sees."""
GOLDEN_RATIO = (5**0.5 - 1) / 2
COPIES_SCALE = 4.0


@dataclass(eq=False)
class CacheInputs(Rows):
    """What actor and critic take of a caching view, whatever the physics: every row may be of another network."""

    cache: Bool[Tensor, "*rows server service"]
    """Services held now."""
    demand: Float[Tensor, "*rows service"]
    """Of each service; 0 at the start of an episode."""
    hits: Float[Tensor, "*rows server service"]
    """Of each pair."""
    storage_bits: Float[Tensor, "*rows service"]
    """Of each service, in double precision."""
    usable_bits: Float[Tensor, "*rows server"]
    """What may be filled of each cache, in double precision."""
    size: Float[Tensor, "*rows service"]
    """Storage of each service; ½ is the mean of the network."""
    fill: Float[Tensor, "*rows server service"]
    """What part of the cache each service would fill, at most 2."""

    @classmethod
    def of(cls, view: CachingView, usable_bits: Float[Tensor, "*rows server"]) -> "CacheInputs":
        """Those of a view, with what may be filled of each cache by the rules of the physics."""
        storage = view.storage_bits.double()
        size = storage / storage.mean(dim=-1, keepdim=True) / 2
        fill = (storage.unsqueeze(-2) / usable_bits.unsqueeze(-1)).clamp(max=2)
        derived = (size.to(view.dtype), fill.to(view.dtype))
        return cls(view.cache, view.demand, view.hits, storage, usable_bits, *derived)

    @property
    def dtype(self) -> torch.dtype:
        """The format of what models see."""
        return self.demand.dtype

    @property
    def num_servers(self) -> int:
        """S."""
        return self.cache.shape[-2]

    @property
    def num_services(self) -> int:
        """K."""
        return self.cache.shape[-1]


class _CacheModel(UsualDemand):
    """What actor and critic share: the usual demand stands in at the start of an episode, when nothing has been asked.

    Args:
        num_services: K of the networks that it is to be trained on.
    """

    def watch_shares(self, demand: Float[Tensor, "batch service"]) -> None:
        """Takes the demand of the rows into the usual demand; rows at the start of an episode have none.

        Ranks of `torch.distributed` share what they see, so that they stay equal: every rank has to call.
        """
        demand = demand[demand.sum(dim=-1) != 0].to(self.usual_demand.dtype)
        self.add(demand.sum(dim=0), len(demand))

    def demand(self, inputs: CacheInputs) -> Float[Tensor, "*rows service"]:
        """The demand, the usual one standing in for none; ½ where all services are equal."""
        none = inputs.demand.sum(dim=-1, keepdim=True) == 0
        usual = self.usual(inputs.num_services, inputs.demand)
        return torch.where(none, usual, inputs.demand) * (inputs.num_services / 2)


class SetCritic(_CacheModel):
    """Value of a cache = Σ over services of a network of [demand, usual demand, size, coverage, copies, fetched].

    Coverage is 1 − Π_s (1 − c_sk), copies Σ_s c_sk (both also as a share of the servers), fetched Σ_s c_sk (1 − held),
    which it sees on request alone.

    Args:
        num_services: see `_CacheModel`.
        hidden_sizes: widths of the hidden layers.
        sees_switching: whether the critic sees what is fetched; it otherwise values a cache whatever is held now.
        generator: source of the initial parameters; None: the global one.
    """

    def __init__(
        self,
        num_services: int,
        hidden_sizes: Sequence[int] = (64, 64),
        sees_switching: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_services)
        self.sees_switching = sees_switching
        num_features = SERVICE_FEATURES + sees_switching
        self.layers = multilayer_perceptron((num_features, *hidden_sizes, 1), generator)

    def forward(
        self, inputs: CacheInputs, cache: Bool[Tensor, "*rows server service"]
    ) -> Float[Tensor, "*rows"]:
        """The value of each row's cache at what it sees."""
        copies = cache.sum(dim=-2)
        fetched = (cache & ~inputs.cache).sum(dim=-2) if self.sees_switching else None
        return self._of_services(inputs, copies.to(inputs.dtype), fetched).sum(dim=-1)

    def by_copies(self, inputs: CacheInputs) -> Float[Tensor, "*rows service copies"]:
        """What each service adds to the value with 0 … S copies: a cache's value is the sum over its services.

        Only of a critic that does not see switching.
        """
        assert not self.sees_switching
        each = inputs.map(lambda value: value.unsqueeze(0))
        copies = torch.arange(inputs.num_servers + 1, device=inputs.device, dtype=inputs.dtype)
        copies = copies.view(-1, *[1] * inputs.demand.ndim).expand(-1, *inputs.demand.shape)
        return self._of_services(each, copies, None).movedim(0, -1)

    def _of_services(
        self, inputs: CacheInputs, copies: Float[Tensor, "*rows service"], fetched: Tensor | None
    ) -> Float[Tensor, "*rows service"]:
        features = [
            self.demand(inputs).expand_as(copies),
            (self.usual(inputs.num_services, inputs.demand) * (inputs.num_services / 2)).expand_as(copies),
            inputs.size.expand_as(copies),
            copies.clamp(max=1),
            copies / COPIES_SCALE,
            copies / inputs.num_servers,
        ]
        if fetched is not None:
            features.append(fetched / COPIES_SCALE)
        return self.layers(torch.stack(features, dim=-1)).squeeze(-1)


class SetActor(_CacheModel):
    """How much each server should hold each service.

    Pairs are encoded, averaged over servers, services and all, and decoded.
    """

    def __init__(self, num_services: int, width: int = 32, generator: torch.Generator | None = None) -> None:
        super().__init__(num_services)
        self.encoder = multilayer_perceptron((PAIR_FEATURES, width, width), generator)
        self.decoder = multilayer_perceptron((4 * width, width, 1), generator)

    def logits(self, inputs: CacheInputs) -> Float[Tensor, "*rows server service"]:
        """Half the log-odds that the pair is held."""
        half, servers = inputs.num_services / 2, inputs.num_servers
        like = inputs.cache.to(inputs.dtype)
        code = _codes(servers, like)
        features = (
            like,
            self.demand(inputs).unsqueeze(-2),
            inputs.hits * half * servers,
            inputs.size.unsqueeze(-2),
            inputs.fill,
            self.usual(inputs.num_services, inputs.demand) * half,
            code[:, :1],
            code[:, 1:],
        )
        pair = self.encoder(torch.stack([feature.expand_as(like) for feature in features], dim=-1))
        means = [pair.mean(dim=dims, keepdim=True).expand_as(pair) for dims in (-3, -2, (-3, -2))]
        return self.decoder(torch.cat((pair, *means), dim=-1)).squeeze(-1)

    def forward(self, inputs: CacheInputs) -> Float[Tensor, "*rows server service"]:
        """The wish in [−1, 1] of each pair."""
        return torch.tanh(self.logits(inputs))


def _codes(num_servers: int, like: Tensor) -> Float[Tensor, "server 2"]:
    """A point on the circle for each server by its index; computed on the CPU, so that it is the same everywhere."""
    angle = torch.arange(num_servers) * (GOLDEN_RATIO * tau)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).to(like)
