"""What slots are judged by, as torchmetrics metrics over what the simulator returns, for loops of one's own.

They are means over all slots or tasks together; `judge.Scoreboard`, by which commands judge, takes means over episodes.

`B` networks in parallel, `U` users, `S` servers. Every state is a sum or a concatenation, so the values over
several processes are those over all their slots. The arguments of `update` have the names of `Service`'s fields,
so the metrics of a slot can share a collection: `slot_metrics().update(**fields)`.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.data import dim_zero_cat

from hadrl_lightning.play import excess, hits, in_time, total_energy, total_latency


class _Mean(Metric):
    """Sum ÷ count of one quantity. NaN before the first update."""

    is_differentiable = False
    full_state_update = False
    quantity: ClassVar[str]
    """Names the states. A collection merges metrics whose states have equal names and, at first, values."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._total_name, self._count_name = f"{self.quantity}_total", f"{self.quantity}_count"
        self.add_state(self._total_name, torch.tensor(0.0, dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state(self._count_name, torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, values: Tensor, count: int | Tensor | None = None) -> None:
        """Add values that are each of one, or of `count` in all."""
        total, number = getattr(self, self._total_name), getattr(self, self._count_name)
        count = values.numel() if count is None else count
        count = count.to(number.device) if isinstance(count, Tensor) else count
        setattr(self, self._total_name, total + values.sum(dtype=torch.float32).to(total.device))
        setattr(self, self._count_name, number + count)

    def compute(self) -> Float[Tensor, ""]:
        total, number = getattr(self, self._total_name), getattr(self, self._count_name)
        return total / number


class CacheHitRatio(_Mean):
    """Share of requests served from the cache of the server they are offloaded to, 0 … 1."""

    higher_is_better = True
    quantity = "hit"

    def update(self, hit: Bool[Tensor, "..."], asked: Bool[Tensor, "..."] | None = None) -> None:
        """Takes `hit[B, U]` of one slot, and who had a task (None: everybody).

        Raises:
            ValueError: another shape.
        """
        self._add(hits(_matrix("hit", hit, "user")), _number(hit, asked))


class DeadlineSatisfaction(_Mean):
    """Share of requests whose latency is within the deadline of their service, 0 … 1."""

    higher_is_better = True
    quantity = "on_time"

    def update(self, on_time: Bool[Tensor, "..."], asked: Bool[Tensor, "..."] | None = None) -> None:
        """Takes `on_time[B, U]` of one slot, and who had a task (None: everybody).

        Raises:
            ValueError: another shape.
        """
        who = torch.ones_like(on_time) if asked is None else asked
        self._add(in_time(_matrix("on_time", on_time, "user"), who), _number(on_time, asked))


class TransmitEnergy(_Mean):
    """Energy that all users of a network spend on transmission in a slot, mean over slots, J (`published`: dBm·s)."""

    higher_is_better = False
    quantity = "energy"

    def update(self, energy: Float[Tensor, "..."]) -> None:
        """Takes `energy[B, U]` of one slot, J.

        Raises:
            ValueError: another shape.
        """
        self._add(total_energy(_matrix("energy", energy, "user")))


class SwitchingCost(_Mean):
    """Time to fetch newly cached services at a caching decision, mean over decisions, s."""

    higher_is_better = False
    quantity = "switching"

    def update(self, switching: Float[Tensor, "..."]) -> None:
        """Takes `switching[B]` of one caching decision, s.

        Raises:
            ValueError: another shape.
        """
        if switching.ndim != 1:
            raise ValueError(f"switching must have shape [batch], got {list(switching.shape)}")
        self._add(switching)


class BandwidthOverSubscription(_Mean):
    """Bandwidth allotted beyond capacity, as a share of it: mean of max(load − 1, 0) over slots and servers."""

    higher_is_better = False
    quantity = "bandwidth_excess"

    def update(self, bandwidth_load: Float[Tensor, "..."]) -> None:
        """Takes `bandwidth_load[B, S]` of one slot, 1 = capacity.

        Raises:
            ValueError: another shape.
        """
        self._add(excess(_matrix("bandwidth_load", bandwidth_load, "server")))


class ComputeOverSubscription(_Mean):
    """Compute allotted beyond capacity, as a share of it: mean of max(load − 1, 0) over slots and servers."""

    higher_is_better = False
    quantity = "compute_excess"

    def update(self, compute_load: Float[Tensor, "..."]) -> None:
        """Takes `compute_load[B, S]` of one slot, 1 = capacity.

        Raises:
            ValueError: another shape.
        """
        self._add(excess(_matrix("compute_load", compute_load, "server")))


class ServiceLatency(Metric):
    """Latency summed over the users of a network, s: its mean over slots, or a quantile of it.

    Args:
        quantile: None for the mean; 0.95 for the 95th percentile of the slots' sums (linear between
            neighbours), which keeps 4 bytes a slot and network.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: a quantile outside [0, 1].
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = False
    latency_total: Tensor
    latency_count: Tensor
    slot_latency: list[Tensor]

    def __init__(self, quantile: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if quantile is not None and not 0 <= quantile <= 1:
            raise ValueError(f"quantile must lie in [0, 1], got {quantile}")
        self.quantile = quantile
        if quantile is None:
            self.add_state("latency_total", torch.tensor(0.0, dtype=torch.float32), dist_reduce_fx="sum")
            self.add_state("latency_count", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")
        else:
            self.add_state("slot_latency", [], dist_reduce_fx="cat")

    def update(self, latency: Float[Tensor, "..."]) -> None:
        """Takes `latency[B, U]` of one slot, s.

        Raises:
            ValueError: another shape.
        """
        summed = total_latency(_matrix("latency", latency, "user").float())
        if self.quantile is None:
            self.latency_total = self.latency_total + summed.sum().to(self.latency_total.device)
            self.latency_count = self.latency_count + summed.numel()
        else:
            self.slot_latency.append(summed)

    def compute(self) -> Float[Tensor, ""]:
        """The mean or the quantile, s; NaN before the first update."""
        if self.quantile is None:
            return self.latency_total / self.latency_count
        if len(self.slot_latency) == 0:
            return torch.tensor(torch.nan, device=self.device)
        return _quantile(dim_zero_cat(self.slot_latency), self.quantile)


def slot_metrics(**kwargs: Any) -> MetricCollection:
    """The metrics of a slot; `update` takes the fields of `Service` by name, the result has one scalar per key.

    `kwargs` are those of `torchmetrics.Metric`, for every one of them.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "hit_ratio": CacheHitRatio(**kwargs),
        "latency": ServiceLatency(**kwargs),
        "latency_p95": ServiceLatency(quantile=0.95, **kwargs),
        "on_time": DeadlineSatisfaction(**kwargs),
        "energy": TransmitEnergy(**kwargs),
        "bandwidth_over_subscription": BandwidthOverSubscription(**kwargs),
        "compute_over_subscription": ComputeOverSubscription(**kwargs),
    }
    return MetricCollection(metrics, compute_groups=False)


def _number(values: Tensor, asked: Tensor | None) -> int | Tensor:
    """Of the tasks."""
    return values.numel() if asked is None else asked.sum()


def _matrix(name: str, values: Tensor, columns: str) -> Tensor:
    if values.ndim != 2:
        raise ValueError(f"{name} must have shape [batch, {columns}], got {list(values.shape)}")
    return values.detach()


def _quantile(values: Float[Tensor, " slot"], quantile: float) -> Float[Tensor, ""]:
    """As `torch.quantile`, which refuses more than 2²⁴ values."""
    ordered = values.sort().values
    position = quantile * (len(ordered) - 1)
    lower = int(position)
    upper = min(lower + 1, len(ordered) - 1)
    return torch.lerp(ordered[lower], ordered[upper], position - lower)
