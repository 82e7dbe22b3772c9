import os

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torchmetrics import MetricCollection

from hadrl_lightning.metrics import (
    BandwidthOverSubscription,
    CacheHitRatio,
    ComputeOverSubscription,
    DeadlineSatisfaction,
    ServiceLatency,
    SwitchingCost,
    TransmitEnergy,
    slot_metrics,
)


def slot(number: int) -> dict[str, torch.Tensor]:
    """Two networks, two users, one server; slot `number` adds it to every latency."""
    return {
        "server": torch.zeros(2, 2, dtype=torch.int64),  # other fields of a slot are passed over
        "hit": torch.tensor([[True, number == 0], [True, True]]),
        "latency": torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + number,
        "on_time": torch.tensor([[True, True], [number == 0, False]]),
        "energy": torch.tensor([[0.1, 0.2], [0.3, 0.4]]),
        "bandwidth_load": torch.tensor([[0.5], [1.0]]),
        "compute_load": torch.tensor([[1.5], [0.0]]) + number,
    }


EXPECTED = {  # of slots 0 and 1
    "hit_ratio": 7 / 8,
    "latency": (3 + 7 + 5 + 9) / 4,
    "latency_p95": 7 + (9 - 7) * 0.85,  # sums 3, 5, 7, 9; position 0.95·3 = 2.85
    "on_time": 5 / 8,
    "energy": (0.3 + 0.7) / 2,
    "bandwidth_over_subscription": 0.0,
    "compute_over_subscription": (0.5 + 0 + 1.5 + 0) / 4,
}


def as_floats(values: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def test_a_collection_of_slots_gives_the_values_worked_out_by_hand() -> None:
    metrics = slot_metrics()
    for number in (0, 1):
        metrics.update(**slot(number))
    assert as_floats(metrics.compute()) == pytest.approx(EXPECTED)
    metrics.reset()
    metrics.update(**slot(0))
    assert metrics.compute()["latency"] == 5.0


def test_switching_cost_is_the_mean_over_decisions() -> None:
    metric = SwitchingCost()
    metric.update(torch.tensor([10.0, 0.0]))
    metric.update(torch.tensor([5.0, 1.0]))
    assert metric.compute() == 4.0


def test_over_subscription_never_cancels_against_spare_capacity() -> None:
    metric = BandwidthOverSubscription()
    metric.update(torch.tensor([[0.0, 3.0]]))
    assert metric.compute() == 1.0  # (0 + 2) / 2


def test_a_slot_counts_by_its_networks() -> None:
    metric = CacheHitRatio()
    metric.update(torch.ones(3, 1, dtype=torch.bool))
    metric.update(torch.zeros(1, 1, dtype=torch.bool))
    assert metric.compute() == 0.75


def test_metrics_that_agree_at_first_are_not_merged_by_a_collection() -> None:
    metrics = MetricCollection(
        [
            CacheHitRatio(),
            DeadlineSatisfaction(),
            BandwidthOverSubscription(),
            ComputeOverSubscription(),
            TransmitEnergy(),
        ]
    )
    for value in (1, 0):
        yes = torch.ones(1, 1, dtype=torch.bool)
        metrics.update(
            hit=yes,
            on_time=yes if value else ~yes,
            energy=torch.ones(1, 1),
            bandwidth_load=torch.ones(1, 1),
            compute_load=torch.ones(1, 1) * (2 - value),
        )
    values = as_floats(metrics.compute())
    assert values["CacheHitRatio"] == 1.0
    assert values["DeadlineSatisfaction"] == 0.5
    assert values["BandwidthOverSubscription"] == 0.0
    assert values["ComputeOverSubscription"] == 0.5


def test_the_quantile_agrees_with_torch() -> None:
    latency = torch.rand(37, 5, generator=torch.Generator().manual_seed(0))
    for quantile in (0.0, 0.3, 0.95, 1.0):
        metric = ServiceLatency(quantile=quantile)
        metric.update(latency[:10])
        metric.update(latency[10:])
        assert torch.allclose(metric.compute(), torch.quantile(latency.sum(dim=1), quantile))


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_without_slots_there_is_no_value() -> None:
    for metric in (CacheHitRatio(), ServiceLatency(), ServiceLatency(quantile=0.5)):
        assert metric.compute().isnan()


@pytest.mark.parametrize(
    ("metric", "name", "values"),
    [
        (CacheHitRatio(), "hit", torch.ones(3, dtype=torch.bool)),
        (DeadlineSatisfaction(), "on_time", torch.ones(3, dtype=torch.bool)),
        (ServiceLatency(), "latency", torch.ones(1, 2, 3)),
        (TransmitEnergy(), "energy", torch.ones(3)),
        (SwitchingCost(), "switching", torch.ones(3, 1)),
        (BandwidthOverSubscription(), "bandwidth_load", torch.ones(3)),
        (ComputeOverSubscription(), "compute_load", torch.ones(3)),
    ],
)
def test_a_wrong_shape_is_refused_by_name(metric, name: str, values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=rf"{name} must have shape \[batch"):
        metric.update(values)


def test_a_quantile_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"quantile must lie in \[0, 1\], got 95.0"):
        ServiceLatency(quantile=95.0)


def _one_slot_per_process(rank: int, address: str, results) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    metrics = slot_metrics()
    metrics.update(**slot(rank))
    results[rank] = as_floats(metrics.compute())
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(os.name == "nt", reason="gloo over a file")
def test_two_processes_agree_on_the_values_of_all_their_slots(tmp_path) -> None:
    with multiprocessing.get_context("spawn").Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(_one_slot_per_process, (f"file://{tmp_path}/meeting", results), nprocs=2)
        for rank in (0, 1):
            assert results[rank] == pytest.approx(EXPECTED)
