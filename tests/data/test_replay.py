import io
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hadrl_lightning.data import (
    CachingTransitions,
    EpisodeStream,
    OffloadingTransitions,
    ReplayBuffer,
    SizedReplay,
    TrainingStream,
    TransitionDataModule,
)
from hadrl_lightning.data.passes import bootstrap_weights, member_batches
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork, Rows, Use


@dataclass(eq=False)
class Pair(Rows):
    action: torch.Tensor
    reward: torch.Tensor


@dataclass(eq=False)
class Reward(Rows):
    reward: torch.Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(first: int, count: int) -> Pair:
    """Row i holds action (i, −i) and reward i."""
    number = torch.arange(first, first + count, dtype=torch.float32)
    return Pair(torch.stack((number, -number), dim=-1), number)


LIKE = rows(0, 0)


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def transitions(count: int) -> OffloadingTransitions:
    """Every field of sample i holds i."""
    number = torch.arange(count, dtype=torch.float32)
    wide = number[:, None].expand(-1, 3)
    return OffloadingTransitions(wide, wide, number, wide, wide)


def wide_rows(first: int, count: int, width: int) -> Pair:
    number = torch.arange(first, first + count, dtype=torch.float32)
    return Pair(number[:, None].expand(-1, width).clone(), number)


@settings(max_examples=25, deadline=None)
@given(
    capacity=st.integers(1, 12),
    steps=st.lists(
        st.one_of(st.tuples(st.integers(0, 15), st.integers(1, 3)), st.just("reload")), max_size=8
    ),
)
def test_a_replay_of_several_shapes_is_a_list_that_forgets_its_oldest_rows(
    capacity: int, steps: list
) -> None:
    def empty() -> SizedReplay:
        return SizedReplay(400.0, capacity, LIKE)

    def size(width: int) -> int:
        return 4 * (width + 1) + 8  # a number for each row too

    replay, model, first = empty(), [], 0
    for step in steps:
        if step == "reload":
            state, replay = through_a_file(replay.state_dict()), empty()
            replay.load_state_dict(state)
        else:
            count, width = step
            replay.add(wide_rows(first, count, width))
            model = [*model, *((number, width) for number in range(first, first + count))][-capacity:]
            while len(model) > 1 and sum(2 * size(width) for _, width in model) > 400:
                model = model[1:]
            first += count
        parts = [part.contents() for part in replay.parts]
        for part in parts:
            width = part.rows.action.shape[1]
            assert part.number.tolist() == [number for number, its in model if its == width]
            assert part.rows.reward.tolist() == part.number.tolist()
        assert len(replay) == sum(map(len, parts)) == len(model)
        assert len(parts) == len({width for _, width in model})
        assert replay.num_added == first
        assert replay.nbytes <= 400 or len(model) == 1
    if model:
        one, other = (replay.sample(5, generator(3)) for _ in range(2))
        assert torch.equal(one.action, other.action)
        assert set(one.reward.tolist()) <= {n for n, width in model if width == one.action.shape[1]}


def test_a_replay_of_several_shapes_gives_the_same_after_a_resume_and_says_what_does_not_fit() -> None:
    one, other = (SizedReplay(1e6, 40, LIKE) for _ in range(2))
    for first in range(0, 60, 5):
        one.add(wide_rows(first, 5, 1 + first % 3))
    other.load_state_dict(through_a_file(one.state_dict()))
    for first in range(60, 90, 5):
        for replay in (one, other):
            replay.add(wide_rows(first, 5, 1 + first % 4))
        samples = [replay.sample(7, generator(first)) for replay in (one, other)]
        assert torch.equal(samples[0].action, samples[1].action)
    smaller = SizedReplay(1e6, 7, LIKE)
    smaller.load_state_dict(through_a_file(one.state_dict()))
    newest = sorted(number for part in smaller.parts for number in part.contents().number.tolist())
    assert newest == list(range(83, 90))
    for first in range(90, 120, 5):
        smaller.add(wide_rows(first, 5, 5))
    assert len(smaller) == 7
    with pytest.raises(ValueError, match=r"^rows must have action, reward, got reward$"):
        one.add(Reward(torch.zeros(2)))
    with pytest.raises(ValueError, match=r"^rows must be of several shapes, got those of one$"):
        one.load_state_dict(ReplayBuffer(3, LIKE).state_dict())
    with pytest.raises(ValueError, match="must hold at least 1 row to sample from"):
        SizedReplay(1e6, 4, LIKE).sample(1, generator())


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 12),
    steps=st.lists(st.one_of(st.integers(0, 20), st.just("reload")), max_size=12),
)
def test_buffer_is_a_list_that_forgets_its_oldest_rows(capacity: int, steps: list) -> None:
    buffer, model, first = ReplayBuffer(capacity, LIKE), [], 0
    for step in steps:
        if step == "reload":
            state = through_a_file(buffer.state_dict())
            buffer = ReplayBuffer(capacity, LIKE)
            buffer.load_state_dict(state)
        else:
            buffer.add(rows(first, step))
            model = [*model, *range(first, first + step)][-capacity:]
            first += step
        assert len(buffer) == len(model)
        contents = buffer.contents()
        assert contents.reward.tolist() == model
        assert contents.action.tolist() == [[number, -number] for number in model]
        assert buffer.numbers(torch.arange(len(buffer))).tolist() == model  # row i was added as number i
        assert buffer.num_added == first
        assert buffer.nbytes <= 3 * 4 * min(capacity, max(2 * len(model), 0))


def test_memory_doubles_up_to_the_capacity() -> None:
    buffer = ReplayBuffer(500_000, LIKE)
    assert buffer.nbytes == 0
    reserved = []
    for first in range(0, 12, 3):
        buffer.add(rows(first, 3))
        reserved.append(buffer.nbytes // (3 * 4))  # a row is 3 numbers of 4 bytes
    assert reserved == [3, 6, 12, 12]
    small = ReplayBuffer(5, LIKE)
    small.add(rows(0, 3))
    small.add(rows(3, 1))
    assert small.nbytes == 5 * 3 * 4


def test_rows_that_are_large_are_kept_in_smaller_numbers() -> None:
    row = 3 * 4  # bytes: three numbers in single precision
    assert [ReplayBuffer.within(float(n * row), 5, LIKE).capacity for n in (0.5, 2.5, 4, 1e9)] == [1, 2, 4, 5]
    city = Scenario(
        num_servers=125, num_users=816, num_services=87, popularity="zipf", offload_thresholds=None
    )
    buffer = TransitionDataModule(city, memory_bytes=2.0**30).offloading_buffer
    row = sum(value[:1].element_size() * value[0].numel() for value in city_tensors(city))
    assert buffer.capacity == 2**30 // row < 500_000
    assert TransitionDataModule(Scenario()).offloading_buffer.capacity == 500_000


def city_tensors(scenario: Scenario) -> list[torch.Tensor]:
    """A row of what is stored of a slot, field by field."""
    network = EdgeNetwork(scenario)
    view = network.offloading_view()
    numbers = torch.zeros(1, scenario.offloading_action_size), torch.zeros(1)
    latency = torch.zeros(1, scenario.num_users)
    return [value for _, value in OffloadingTransitions(view, *numbers, view, latency).tensors()]


def test_an_addition_larger_than_the_buffer_keeps_its_newest_rows() -> None:
    buffer = ReplayBuffer(3, LIKE)
    buffer.add(rows(0, 2))
    buffer.add(rows(2, 7))
    assert buffer.contents().reward.tolist() == [6, 7, 8]


def test_a_restored_buffer_goes_on_as_if_never_interrupted() -> None:
    one, other = ReplayBuffer(7, LIKE), ReplayBuffer(7, LIKE)
    one.add(rows(0, 5))
    one.add(rows(5, 5))  # wrapped: rows 3 … 9
    other.add(rows(50, 3))  # what is loaded replaces it
    other.load_state_dict(through_a_file(one.state_dict()))
    draws, same_draws = generator(1), generator(1)
    for first in (10, 14, 18):
        for buffer in (one, other):
            buffer.add(rows(first, 4))
        assert torch.equal(one.sample(20, draws).action, other.sample(20, same_draws).action)


def test_a_checkpoint_holds_only_what_is_filled() -> None:
    buffer = ReplayBuffer(500_000, LIKE)
    buffer.add(rows(0, 5))
    buffer.add(rows(5, 1))  # reserves 10 rows
    fields = buffer.state_dict()["fields"]
    assert {name: tuple(field.shape) for name, field in fields.items()} == {"action": (6, 2), "reward": (6,)}
    assert sum(field.untyped_storage().nbytes() for field in fields.values()) == 6 * 3 * 4


def test_a_smaller_buffer_loads_the_newest_rows() -> None:
    large, small = ReplayBuffer(9, LIKE), ReplayBuffer(4, LIKE)
    large.add(rows(0, 9))
    small.load_state_dict(large.state_dict())
    assert small.contents().reward.tolist() == [5, 6, 7, 8]
    assert small.numbers(torch.arange(4)).tolist() == [5, 6, 7, 8]


def test_samples_are_whole_rows_uniform_and_reproducible() -> None:
    buffer = ReplayBuffer(4, LIKE)
    buffer.add(rows(0, 6))
    drawn = buffer.sample(8000, generator(2))
    assert drawn.action.shape == (8000, 2)
    assert drawn.reward.shape == (8000,)
    assert torch.equal(drawn.action, torch.stack((drawn.reward, -drawn.reward), dim=-1))
    counts = torch.bincount(drawn.reward.long(), minlength=6)
    assert counts[:2].tolist() == [0, 0]
    assert ((counts[2:] - 2000).abs() < 200).all()  # 5 standard deviations of 39
    assert torch.equal(buffer.sample(8000, generator(2)).reward, drawn.reward)


def test_gather_takes_any_shape_of_index_and_refuses_rows_that_are_not_there() -> None:
    buffer = ReplayBuffer(4, LIKE)
    buffer.add(rows(0, 6))
    gathered = buffer.gather(torch.tensor([[0, 3], [1, 1]]))
    assert gathered.reward.tolist() == [[2, 5], [3, 3]]
    assert gathered.action.shape == (2, 2, 2)
    for index in (-1, 4):
        with pytest.raises(IndexError, match=r"index must lie in 0 … 3"):
            buffer.gather(torch.tensor([index]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reward": torch.zeros(2)}, "action must be given, got only reward"),
        ({**dict(rows(0, 2).tensors()), "extra": torch.zeros(2)}, "extra must be one of action, reward"),
        (
            {"action": torch.zeros(2, 3), "reward": torch.zeros(2)},
            r"action must have shape \[n, 2\], got \[2, 3\]",
        ),
        ({"action": torch.zeros(2, 2), "reward": torch.zeros(3)}, r"reward must have shape \[2\], got \[3\]"),
        (
            {"action": torch.zeros(2, 2), "reward": torch.tensor(1.0)},
            r"reward must have shape \[2\], got \[\]",
        ),
    ],
)
def test_a_wrong_addition_names_the_field_and_changes_nothing(fields: dict, message: str) -> None:
    buffer = ReplayBuffer(4, LIKE)
    buffer.add(rows(0, 3))
    if fields.keys() == {"action", "reward"}:
        with pytest.raises(ValueError, match=message):
            buffer.add(Pair(**fields))
    with pytest.raises(ValueError, match=message):
        buffer.load_state_dict({"fields": fields, "added": 2})
    assert buffer.contents().reward.tolist() == [0, 1, 2]


def test_wrong_settings_and_empty_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
        ReplayBuffer(0, LIKE)
    with pytest.raises(ValueError, match="like must have at least one tensor, got none"):
        ReplayBuffer(1, Rows())
    with pytest.raises(ValueError, match="at least 1 row"):
        ReplayBuffer(1, LIKE).sample(1, generator())


def test_what_is_added_is_copied_detached_and_converted() -> None:
    buffer = ReplayBuffer(4, LIKE.to(dtype=torch.float64))
    added = rows(3, 1)
    buffer.add(added)
    added.reward[:] = 7
    added.action.requires_grad_(True)
    buffer.add(added)
    contents = buffer.contents()
    assert contents.action.dtype == torch.float64
    assert not contents.action.requires_grad
    assert contents.reward.tolist() == [3, 7]


def test_every_field_of_a_transition_keeps_its_type_and_has_a_name_with_dots() -> None:
    scenario = Scenario(num_users=3)
    offloading = ReplayBuffer(4, OffloadingTransitions.none(scenario))
    assert list(offloading.shapes)[:4] == [
        "view.cache",
        "view.free_cache_bits",
        "view.bandwidth_hz",
        "view.compute_hz",
    ]
    assert offloading.shapes["next_view.input_bits"] == offloading.shapes["latency"] == (3,)
    state = through_a_file(offloading.state_dict())["fields"]
    assert (state["view.cache"].dtype, state["view.requests"].dtype) == (torch.bool, torch.long)
    assert state["view.cycles"].dtype == state["action"].dtype == torch.float32
    assert "weight" not in state  # of a pass, not of what was seen
    assert (
        ReplayBuffer(4, CachingTransitions.none(scenario)).gather(torch.arange(0)).cache.dtype == torch.bool
    )
    other = ReplayBuffer(4, OffloadingTransitions.none(Scenario(num_users=4)))
    with pytest.raises(ValueError, match=r"view.requests must have shape \[0, 4\], got \[0, 3\]"):
        other.load_state_dict(offloading.state_dict())


@settings(max_examples=40, deadline=None)
@given(num_samples=st.integers(1, 23), num_members=st.integers(1, 4), batch_size=st.integers(1, 25))
def test_every_member_sees_every_sample_of_a_pass_once(
    num_samples: int, num_members: int, batch_size: int
) -> None:
    batches = member_batches(transitions(num_samples), num_members, batch_size, generator())
    seen = list(batches)
    assert len(seen) == len(batches) == -(-num_samples // batch_size)
    assert all(batch.reward.shape == (num_members, batch_size) for batch in seen[:-1])
    assert seen[-1].reward.shape == (num_members, num_samples - batch_size * (len(seen) - 1))
    for member in range(num_members):
        numbers = torch.cat([batch.reward[member] for batch in seen])
        assert sorted(numbers.tolist()) == list(range(num_samples))
    for batch in seen:  # the fields of a sample stay together
        assert all(
            torch.equal(field, batch.reward[..., None].expand_as(field))
            for field in (batch.view, batch.latency)
        )


def test_members_have_their_own_order_and_passes_their_own_draw() -> None:
    draws = generator(3)
    first, second = (member_batches(transitions(50), 2, 8, draws) for _ in range(2))
    assert not torch.equal(first.order[0], first.order[1])
    assert not torch.equal(first.order, second.order)
    assert torch.equal(first.order, member_batches(transitions(50), 2, 8, generator(3)).order)
    assert torch.equal(
        next(iter(first)).reward, next(iter(first.to("cpu"))).reward
    )  # iterating again is the same


def test_a_limited_pass_shows_the_same_distinct_samples_to_all_members() -> None:
    batches = member_batches(transitions(50), 3, 8, generator(4), max_samples=20)
    assert [batch.reward.shape[1] for batch in batches] == [8, 8, 4]
    seen = torch.cat([batch.reward for batch in batches], dim=1)
    assert len(set(seen[0].tolist())) == 20
    assert seen.sort(dim=1).values.unique(dim=0).shape[0] == 1
    assert set(seen[0].tolist()) != set(range(20))  # drawn, not the first ones
    assert len(member_batches(transitions(5), 3, 8, generator(4), max_samples=20)) == 1


def test_weights_stay_with_their_member_and_sample_in_every_batch() -> None:
    weight = torch.arange(30.0).view(3, 10)  # of member m and sample i: 10 m + i
    for held in (slice(None), slice(1, 3)):
        batches = member_batches(transitions(10), 3, 4, generator(), 7, held=held, weight=weight)
        for batch in batches.to("cpu"):
            assert batch.weight is not None
            first = torch.arange(3.0)[held, None] * 10
            assert torch.equal(batch.weight, first + batch.reward)
    with pytest.raises(ValueError, match=r"weight must have shape \[3, 10\], got \[3, 9\]"):
        member_batches(transitions(10), 3, 4, generator(), weight=weight[:, :9])


def hashed_by_hand(seed: int, number: int) -> float:
    """The weight of member 0 by SplitMix64 in whole numbers."""

    def scrambled(value: int) -> int:
        value %= 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    step = 0x9E3779B97F4A7C15
    drawn = scrambled(scrambled(seed + step) + (number + 1) * step)
    return -math.log(((drawn >> 11) + 0.5) / 2**53)


def test_bootstrap_weights_are_exponential_and_independent_between_members_and_transitions() -> None:
    weight = bootstrap_weights(torch.arange(20_000), 4, seed=5)
    assert weight.shape == (4, 20_000)
    assert weight.mean(dim=1) == pytest.approx(torch.ones(4), abs=0.03)
    assert weight.var(dim=1) == pytest.approx(torch.ones(4), abs=0.08)
    assert (weight > 1).double().mean().item() == pytest.approx(math.exp(-1), abs=0.01)
    between = torch.corrcoef(weight)
    assert (between - torch.eye(4)).abs().max() < 0.03
    next_to = torch.corrcoef(torch.stack((weight[0, :-1], weight[0, 1:])))[0, 1]
    assert abs(float(next_to)) < 0.03


def test_a_bootstrap_weight_depends_on_seed_member_and_number_alone() -> None:
    number = torch.tensor([7, 0, 2**40])
    weight = bootstrap_weights(number, 5, seed=3)
    assert torch.equal(bootstrap_weights(number.flip(0), 5, 3), weight.flip(1))
    assert torch.equal(bootstrap_weights(number[:1], 2, 3), weight[:2, :1])  # a larger ensemble adds members
    assert not torch.isclose(bootstrap_weights(number, 5, seed=4), weight).any()
    assert torch.equal(bootstrap_weights(number, 1, 3), torch.ones(1, 3))
    assert weight[0].tolist() == pytest.approx([hashed_by_hand(3, n) for n in (7, 0, 2**40)], rel=1e-6)


@pytest.mark.parametrize("name", ["num_members", "batch_size", "max_samples"])
def test_a_count_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        member_batches(transitions(3), generator=generator(), **{"num_members": 1, "batch_size": 1, name: 0})


def test_a_pass_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="data must hold at least 1 transition"):
        member_batches(transitions(0), 1, 1, generator())


# --- what a Trainer's loops read -------------------------------------------------------------------------------------


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


def sized_stream(**changes: Any) -> TrainingStream:
    """Of 9 transitions with 3 users, 20 with 5 and 4 with 7; the rewards tell all rows apart."""
    torch.manual_seed(5)
    batches, like = stream(0, **changes), OffloadingTransitions.none(SCENARIO)
    batches.offloading = SizedReplay(1e9, 100, like)
    for count, users in ((9, 3), (20, 5), (4, 7)):
        part = ReplayBuffer(1, OffloadingTransitions.none(SCENARIO.resized(2, users, 10)))
        batches.offloading.add(random_rows(part, count))
    return batches


def test_a_pass_over_several_sizes_has_batches_of_one_size_each_and_every_sample_once() -> None:
    (batch,) = (batch for batch in sized_stream(passes=1, bootstrap_seed=4))
    assert batch.offloading is not None
    seen = [part.reward for part in batch.offloading]
    assert len(seen) == len(batch.offloading) == 2 + 3 + 1
    for member in range(2):
        assert len(torch.cat([reward[member] for reward in seen]).unique()) == 33
    users = [part.latency.shape[-1] for part in batch.offloading]
    assert users != sorted(users) != users[::-1]  # in a random order
    again = [part.reward for part in batch.offloading.map(lambda rows: rows).to("cpu")]
    assert all(map(torch.equal, seen, again))


def test_a_pass_over_several_sizes_draws_every_sample_as_often_and_goes_on_after_a_resume() -> None:
    whole = sized_stream(samples_per_pass=16, passes=120, caching_updates=0, bootstrap_seed=4)
    counts: dict[float, int] = {}
    for place, batch in enumerate(whole):
        if place == 115:
            saved = whole.state_dict()
        assert batch.offloading is not None
        assert len(batch.offloading) == 2
        for part in batch.offloading:
            for reward in part.reward[0].tolist():
                counts[reward] = counts.get(reward, 0) + 1
        last = [part.weight for part in batch.offloading]
    assert len(counts) == 33
    assert min(counts.values()) > 20  # 40 expected: a third of the batches
    assert max(counts.values()) < 65
    resumed = sized_stream(samples_per_pass=16, passes=120, caching_updates=0, bootstrap_seed=4)
    resumed.load_state_dict(saved)
    for batch in resumed:
        found = [part.weight for part in batch.offloading or ()]
    assert all(map(torch.equal, last, found))


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

    data = TransitionDataModule(scenario)
    model: Any = nn.Module()
    model.num_members = 3
    data.trainer = SimpleNamespace(lightning_module=model, strategy=None, global_rank=0)  # type: ignore[assignment]
    first, second = (data.train_dataloader().generator for _ in range(2))
    assert first is second  # a loader that is asked for again goes on with the draws
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
