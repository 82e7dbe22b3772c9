"""The streams: what a Trainer's loops read."""

import torch

from hadrl_lightning.data import EpisodeStream, ReplayBuffer, TrainingStream
from hadrl_lightning.scenario import Scenario


def stream(rows: int = 20, **changes: int | None) -> TrainingStream:
    shapes = {"observation": (2,), "action": (3,), "reward": (), "next_observation": (2,)}
    offloading = ReplayBuffer(100, {**shapes, "latency": (1,)})
    caching = ReplayBuffer(100, {**shapes, "cache": (3,)})
    for buffer in (offloading, caching):
        fields = {name: torch.rand(rows, *shape) for name, shape in buffer.shapes.items()}
        if rows:
            buffer.add(**fields)
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
    episodes = EpisodeStream(Scenario(num_users=4), "strict", num_episodes=5, parallel=2, seed=7)
    networks = list(episodes)
    assert len(episodes) == 3
    assert [network.num_envs for network in networks] == [2, 2, 1]
    for index, network in enumerate(networks):
        again = episodes.networks(index)
        again.reset()
        network.reset()
        assert torch.equal(again.requests, network.requests)
    assert not torch.equal(networks[0].requests, networks[1].requests)
