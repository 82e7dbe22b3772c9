"""The streams: what a Trainer's loops read."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from hadrl_lightning.data import (
    CachingTransitions,
    EpisodeStream,
    OffloadingTransitions,
    ReplayBuffer,
    TrainingStream,
    TransitionDataModule,
)
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import Use

SCENARIO = Scenario(num_users=3)


def random_rows(buffer: ReplayBuffer[Any], count: int) -> Any:
    """Every number below 1: the rewards tell the rows apart."""
    shapes = buffer.shapes.values()
    drawn = (torch.rand(count, *shape) for shape in shapes)
    return buffer.like.filled(
        value.to(like.dtype) for value, (_, like) in zip(drawn, buffer.like.tensors(), strict=True)
    )


def stream(rows: int = 20, **changes: Any) -> TrainingStream:
    offloading = ReplayBuffer(100, OffloadingTransitions.none(SCENARIO))
    caching = ReplayBuffer(100, CachingTransitions.none(SCENARIO))
    if rows:
        offloading.add(random_rows(offloading, rows))
        caching.add(random_rows(caching, rows))
    settings: dict = {
        "num_members": 2,
        "passes": 4,
        "batch_size": 8,
        "samples_per_pass": None,
        "caching_updates": 6,
        "caching_batch_size": 5,
        **changes,
    }
    return TrainingStream(offloading, caching, torch.Generator().manual_seed(1), **settings)


def test_every_epoch_has_all_its_passes_although_the_loop_never_asks_for_the_end() -> None:
    batches = stream()
    assert len(batches) == 4
    for _ in range(3):
        iterator = iter(batches)
        seen = [next(iterator) for _ in range(4)]
        assert [len(batch.caching) for batch in seen] == [1, 2, 1, 2]  # 6 updates over 4 passes
        assert all(batch.offloading is not None and len(batch.offloading) == 3 for batch in seen)  # 20 / 8


def test_a_pass_has_at_most_the_set_samples_and_no_sample_twice() -> None:
    batch = next(iter(stream(samples_per_pass=12)))
    assert batch.offloading is not None
    for order in batch.offloading.order:
        assert sorted(order.tolist()) == list(range(12))
    assert len(batch.offloading.data.reward.unique()) == 12


def weights_by_sample(batches: TrainingStream) -> dict[float, list[float]]:
    """What the members make of each sample, by the sample's reward."""
    found: dict[float, list[float]] = {}
    for batch in batches:
        for part in batch.offloading or ():
            assert part.weight is not None
            for reward, weight in zip(part.reward.T.tolist(), part.weight.T.tolist()):
                for member, (one, its) in enumerate(zip(reward, weight)):
                    entry = found.setdefault(one, [0.0] * len(reward))
                    assert entry[member] in (0.0, its)  # the same in every pass
                    entry[member] = its
    return found


def test_a_member_makes_the_same_of_a_transition_in_every_pass_after_a_resume_and_on_any_rank() -> None:
    torch.manual_seed(0)
    whole = stream(bootstrap_seed=4, num_members=3)
    seen = weights_by_sample(whole)
    assert len(seen) == 20
    assert all(len(set(weights)) == 3 for weights in seen.values())
    for held in (slice(0, 1), slice(1, 3)):  # members on two ranks
        torch.manual_seed(0)
        part = stream(bootstrap_seed=4, num_members=3, held=held)
        assert weights_by_sample(part) == {reward: weights[held] for reward, weights in seen.items()}
    whole.offloading.add(random_rows(whole.offloading, 90))  # 110 in all: the oldest 10 of 20 are forgotten
    resumed = stream(rows=0, bootstrap_seed=4, num_members=3)
    resumed.offloading.load_state_dict(whole.offloading.state_dict())
    later = weights_by_sample(whole)
    assert weights_by_sample(resumed) == later
    kept = [reward for reward in later if reward in seen]
    assert len(kept) == 10
    assert all(later[reward] == seen[reward] for reward in kept)


def test_without_a_bootstrap_seed_transitions_come_without_weights_and_a_single_member_has_weights_of_1() -> (
    None
):
    batch = next(iter(stream()))
    assert batch.offloading is not None
    assert next(iter(batch.offloading)).weight is None
    alone = weights_by_sample(stream(bootstrap_seed=4, num_members=1))
    assert set(map(tuple, alone.values())) == {(1.0,)}


def test_a_data_module_bootstraps_by_its_seed_unless_told_not_to() -> None:
    scenario = Scenario(num_users=3)

    def seed_of(**settings: Any) -> int | None:
        data = TransitionDataModule(scenario, **settings)
        trained = nn.Module()
        trained.num_members = 3  # type: ignore[assignment]
        data.trainer = SimpleNamespace(lightning_module=trained, strategy=None, global_rank=0)  # type: ignore[assignment]
        return data.train_dataloader().bootstrap_seed

    assert seed_of(bootstrap=False) is None
    assert seed_of() == seed_of() != seed_of(seed=1)


def test_nothing_is_learnt_while_nothing_is_collected() -> None:
    batch = next(iter(stream(rows=0)))
    assert batch.offloading is None
    assert batch.caching == []


def test_a_restored_stream_goes_on_in_the_middle_of_an_epoch() -> None:
    torch.manual_seed(0)
    first = stream()
    iterator = iter(first)
    next(iterator)
    saved = first.state_dict()
    torch.manual_seed(0)
    second = stream()
    second.load_state_dict(saved)
    rest, resumed = list(iterator), list(iter(second))
    assert len(rest) == len(resumed) == 3
    for one, other in zip(rest, resumed, strict=True):
        assert one.offloading is not None
        assert other.offloading is not None
        assert torch.equal(one.offloading.order, other.offloading.order)
        for a, b in zip(one.caching, other.caching, strict=True):
            assert torch.equal(a.reward, b.reward)


def test_episodes_of_a_seed_are_the_same_whoever_plays_and_cover_the_number_asked_for() -> None:
    episodes = EpisodeStream(
        Scenario(num_users=4), "strict", num_episodes=5, parallel=2, seed=7, use=Use.TEST_NETWORKS
    )
    networks = list(episodes)
    assert len(episodes) == 3
    assert [network.num_envs for network in networks] == [2, 2, 1]
    for index, network in enumerate(networks):
        again = episodes.networks(index)
        again.reset()
        network.reset()
        assert torch.equal(again.requests, network.requests)
    assert not torch.equal(networks[0].requests, networks[1].requests)
