"""Networks that the ranks share: each simulates its own, all see all of them."""

from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.distributed.collectives import Share, this_rank, whole_rows
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator.decisions import Allocation
from hadrl_lightning.simulator.network import EdgeNetwork
from hadrl_lightning.simulator.state import NetworkState, Service
from hadrl_lightning.simulator.views import CachingView, OffloadingView

AnyView = TypeVar("AnyView", CachingView, OffloadingView)


class SharedNetworks(EdgeNetwork):
    """The `num_envs` networks of all ranks, of which this rank simulates its `Share.equal`.

    Decisions are given, and observations and services returned, for all networks on every rank, so every rank has to
    make every call. The networks meet the same requests, positions and fading as if one process simulated all: each
    rank draws for all of them, from equally seeded generators, and keeps its own. Arguments as of `EdgeNetwork`.
    """

    def __init__(
        self,
        scenario: Scenario,
        physics: Physics = "strict",
        num_envs: int = 1,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.share = Share.equal(num_envs, *this_rank())
        super().__init__(scenario, physics, num_envs, device, generator)

    @property
    def cache(self) -> Bool[Tensor, "batch server service"]:
        """Services cached now, bool [B, S, K]."""
        return self._whole(self.state.cache)[0]

    @property
    def requests(self) -> Int[Tensor, "batch user"]:
        """Service asked by each user in the coming slot, long [B, U]."""
        return self.unfolding.slot_of(slice(None)).requests

    @property
    def positions(self) -> Float[Tensor, "batch user 2"]:
        """(x, y) of the users in the coming slot in metres, [B, U, 2]."""
        return self.unfolding.slot_of(slice(None)).positions

    def begin_frame(self, cache: Bool[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Apply a caching decision, bool [B, S, K], and return its switching cost in seconds, [B]."""
        return self._whole(super().begin_frame(cache[self.share.items]))[0]

    def step(self, allocation: Allocation) -> Service:
        """Serve a slot of all networks."""
        own = Allocation(*(field[self.share.items] for field in allocation))
        return Service(*self._whole(*super().step(own)))

    def caching_view(self) -> CachingView:
        """What the slow level sees, of all networks."""
        return self._whole_view(super().caching_view())

    def offloading_view(self) -> OffloadingView:
        """What the fast level sees, of all networks."""
        return self._whole_view(super().offloading_view())

    def state_dict(self) -> dict[str, Any]:
        """The state of all networks, as one process that simulates them all would save it."""
        saved = super().state_dict()
        saved["state"] = dict(zip(saved["state"], self._whole(*saved["state"].values()), strict=True))
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state of all networks, by whatever number of ranks.

        Raises:
            ValueError: the state belongs to another number of networks or to networks of another size.
        """
        for value in state_dict["state"].values():
            if len(value) != self.num_envs:
                raise ValueError(f"num_envs must be {len(value)}, got {self.num_envs}")
        own = {name: value[self.share.items] for name, value in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": own})

    @property
    def _carried_by_all(self) -> dict[str, dict[str, Tensor]]:
        own = {name: value for name, value in self.state.tensors().items() if name.startswith("carried.")}
        whole = dict(zip(own, self._whole(*own.values()), strict=True)) if own else {}
        return NetworkState.carried_of(whole)

    @property
    def _rows(self) -> slice:
        return self.share.items

    def _whole_view(self, view: AnyView) -> AnyView:
        return view.filled(self._whole(*(value for _, value in view.tensors())))

    def _whole(self, *rows: Tensor) -> list[Tensor]:
        return whole_rows(rows, self.num_envs)
