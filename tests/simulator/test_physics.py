"""The two physics: properties of the default one for every input, and both against slow twins, number for number."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hadrl_lightning.agents import HADRL
from hadrl_lightning.data import OffloadingTransitions, TransitionDataModule
from hadrl_lightning.play import caching_reward, offloading_reward, run_episode
from hadrl_lightning.scenario import GIB, MIB, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    decode_caching,
    decode_offloading,
    equal_shares,
    fill_caches,
    rules,
    serve,
    switching_cost,
    weighted_shares,
)
from hadrl_lightning.simulator.constants import constants
from hadrl_lightning.simulator.processes import usual
from hadrl_lightning.simulator.processes.usual import requested
from hadrl_lightning.simulator.service import served_slot
from hadrl_lightning.simulator.state import NetworkState, Slot
from tests.helpers.twin import GIB_BITS, PUBLISHED, PublishedTwin, StrictTwin

check = settings(deadline=None, derandomize=True, max_examples=60)
NAN, INF = math.nan, math.inf


@st.composite
def scenarios(draw) -> Scenario:
    """Small networks of every shape, with sizes over many orders of magnitude."""
    servers, services = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    sizes = st.floats(1e3, 1e11)

    def values(strategy, length):
        return tuple(draw(st.lists(strategy, min_size=length, max_size=length)))

    return Scenario(
        num_servers=servers,
        num_users=draw(st.integers(1, 9)),
        num_services=services,
        popularity="zipf",
        zipf_exponent=draw(st.floats(0, 3)),
        storage_bytes=values(sizes, services),
        input_bytes=values(st.floats(1, 1e8), services),
        cache_bytes=values(sizes, servers),
        usable_cache_fraction=draw(st.sampled_from([0.1, 0.8, 1.0])),
        compute_hz=values(st.floats(1e6, 1e11), servers),
        bandwidth_hz=values(st.floats(1e5, 1e9), servers),
        share_floor=draw(st.sampled_from([0.01, 0.05, 1.0])),
    )


SEEDS = st.integers(0, 2**32)
EXTREMES = torch.tensor([-1.0, 1.0, 0.0, -1e30, 1e30])


def actions(seed: int, batch: int, size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random actions in which every third value or so is a bound, beyond it, or zero."""
    generator = torch.Generator().manual_seed(seed)
    action = torch.rand(batch, size, generator=generator, dtype=dtype) * 2 - 1
    extreme = EXTREMES[torch.randint(0, len(EXTREMES), (batch, size), generator=generator)].to(dtype)
    return torch.where(torch.rand(batch, size, generator=generator) < 0.3, extreme, action)


@check
@given(scenario=scenarios(), seed=SEEDS)
def test_shares_of_every_server_with_users_sum_to_one(scenario, seed):
    allocation = decode_offloading(scenario, actions(seed, 3, scenario.offloading_action_size))
    for share in (allocation.bandwidth_share, allocation.compute_share):
        assert (share > 0).all()
        for row in range(3):
            for server in range(scenario.num_servers):
                here = share[row][allocation.server[row] == server]
                assert here.numel() == 0 or here.sum().item() == pytest.approx(1, abs=1e-5)


@check
@given(scenario=scenarios(), seed=SEEDS, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_no_cache_is_filled_above_its_usable_part(scenario, seed, dtype):
    action = actions(seed, 3, scenario.caching_action_size, dtype)
    previous = torch.zeros(3, scenario.num_servers, scenario.num_services, dtype=torch.bool)
    cache = decode_caching(scenario, action, previous)
    wanted = action.view(cache.shape) > 0
    assert not (cache & ~wanted).any()
    for row in range(3):
        for server, usable_bits in enumerate(scenario.usable_cache_bits):
            content = cache[row, server].tolist()
            used = sum(bits for bits, cached in zip(scenario.storage_bits, content) if cached)
            assert used <= usable_bits * (1 + 1e-12)
            for service, bits in enumerate(scenario.storage_bits):  # what was left out would not fit
                if wanted[row, server, service] and not content[service] and bits <= usable_bits:
                    better = [
                        other
                        for other, cached in enumerate(content)
                        if cached
                        and action.clamp(-1, 1).view(cache.shape)[row, server, other]
                        >= action.clamp(-1, 1).view(cache.shape)[row, server, service]
                    ]
                    assert bits + sum(scenario.storage_bits[o] for o in better) > usable_bits * (1 - 1e-12)
    EdgeNetwork(scenario, num_envs=3, dtype=dtype).begin_frame(cache)  # accepted


def random_slot(scenario: Scenario, seed: int, fading: str = "drawn"):
    """Cache, requests, positions, fading and allocation of three networks."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, scenario.num_users)
    cache = torch.rand(3, scenario.num_servers, scenario.num_services, generator=generator) < 0.5
    requests = torch.randint(0, scenario.num_services, shape, generator=generator)
    positions = torch.randint(-100, 100, (*shape, 2), generator=generator).float()
    draw = torch.rand(shape, generator=generator)
    draw = {"drawn": draw, "zero": torch.zeros(shape), "huge": draw * 1e9}[fading]
    allocation = decode_offloading(scenario, actions(seed, 3, scenario.offloading_action_size))
    return cache, requests, positions, draw, allocation


@check
@given(scenario=scenarios(), seed=SEEDS, fading=st.sampled_from(["drawn", "zero", "huge"]))
def test_latency_is_finite_and_positive_and_hits_only_where_cached(scenario, seed, fading):
    cache, requests, positions, draw, allocation = random_slot(scenario, seed, fading)
    service = serve(scenario, cache, requests, positions, draw, allocation)
    assert torch.isfinite(service.latency).all()
    assert (service.latency > 0).all()
    assert torch.isfinite(service.energy).all()
    assert (service.energy >= 0).all()
    for row in range(3):
        for user in range(scenario.num_users):
            cached = cache[row, allocation.server[row, user], requests[row, user]]
            assert service.hit[row, user] == cached
    assert (service.bandwidth_load <= 1 + 1e-5).all()
    assert (service.compute_load <= 1 + 1e-5).all()


@check
@given(scenario=scenarios(), seed=SEEDS)
def test_permuting_users_permutes_results(scenario, seed):
    # All users in one place relative to the same home: given coordinates, so the home moves with the user.
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(scenario.num_users, generator=generator)
    points = [(float(x), 50.0) for x in torch.randint(-300, 1200, (scenario.num_users,), generator=generator)]
    before = dataclasses.replace(scenario, user_positions_m=tuple(points))
    after = dataclasses.replace(scenario, user_positions_m=tuple(points[i] for i in order.tolist()))
    cache, requests, _, fading, _ = random_slot(scenario, seed)
    action = actions(seed, 3, scenario.offloading_action_size)
    moved_action = action.view(3, 3, -1)[:, :, order].reshape(action.shape)
    positions = torch.tensor(points).expand(3, -1, -1)
    plain = serve(before, cache, requests, positions, fading, decode_offloading(before, action))
    moved = serve(
        after,
        cache,
        requests[:, order],
        positions[:, order],
        fading[:, order],
        decode_offloading(after, moved_action),
    )
    for name in ("latency", "hit", "on_time", "energy", "spectral_efficiency"):
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name)[:, order], rtol=1e-4, atol=0)
    torch.testing.assert_close(moved.bandwidth_load, plain.bandwidth_load)


@check
@given(scenario=scenarios(), seed=SEEDS)
def test_networks_of_a_batch_do_not_touch_each_other(scenario, seed):
    cache, requests, positions, fading, allocation = random_slot(scenario, seed)
    together = serve(scenario, cache, requests, positions, fading, allocation)
    for row in range(3):
        one = slice(row, row + 1)
        alone = serve(
            scenario,
            cache[one],
            requests[one],
            positions[one],
            fading[one],
            Allocation(*(part[one] for part in allocation)),
        )
        torch.testing.assert_close(alone.latency, together.latency[one])


# One user, by hand -------------------------------------------------------------------------------------------------


def one_user(cached: bool, fading: float = 1.0, position: tuple[float, float] = (200.0, 0.0)):
    """User of service index 1 (k = 2), 100 m from server 0 at (100, 0), all of server 1's capacity."""
    scenario = Scenario(num_users=1)
    cache = torch.zeros(1, 2, 10, dtype=torch.bool)
    cache[0, 1, 1] = cached
    allocation = Allocation(torch.tensor([[1]]), torch.ones(1, 1), torch.ones(1, 1))
    where = torch.tensor([[position]])
    return serve(scenario, cache, torch.tensor([[1]]), where, torch.tensor([[fading]]), allocation)


def test_latency_and_energy_of_a_hit_by_hand():
    # Input 2·700 KiB = 11,468,800 bit; 500 cycles a ten bit: 573,440,000 cycles; 100 m: loss 128.1 − 37.6 = 90.5 dB;
    # SNR 20 + 114 − 90.5 = 43.5 dB = 22387.21; log2(22388.21) = 14.45046 bit/s/Hz; times 200 MHz.
    service = one_user(cached=True)
    sending = 11_468_800 / (200e6 * 14.45046)
    assert sending == pytest.approx(0.0039683, rel=1e-4)
    assert service.hit.item()
    assert service.latency.item() == pytest.approx(sending + 573_440_000 / 60e9, rel=1e-5)
    assert service.energy.item() == pytest.approx(0.1 * sending, rel=1e-5)  # 20 dBm = 0.1 W
    assert service.on_time.item()  # deadline 1.6 s
    assert service.bandwidth_load.tolist() == [[0, 1]]


def test_latency_of_a_miss_by_hand():
    # To the cloud at 4 Mibit/s: 11,468,800 / 4,194,304 = 2.734375 s; 0.57344 GHz·s / 4 GHz = 0.14336 s; 0.1 s.
    service = one_user(cached=False)
    sending = 11_468_800 / (200e6 * 14.45046)
    assert not service.hit.item()
    assert service.latency.item() == pytest.approx(sending + 2.734375 + 0.14336 + 0.1, rel=1e-6)
    assert not service.on_time.item()


def test_halving_the_fading_halves_the_linear_gain():
    sending = 11_468_800 / (200e6 * math.log2(1 + 0.5 * 10**4.35))
    assert one_user(True, fading=0.5).energy.item() == pytest.approx(0.1 * sending, rel=1e-5)


def test_a_user_on_its_server_counts_as_thirty_metres_away():
    # 128.1 + 37.6·log10(0.03) = 70.842 dB -> SNR 63.158 dB
    sending = 11_468_800 / (200e6 * math.log2(1 + 10**6.31584))
    assert one_user(True, position=(100.0, 0.0)).energy.item() == pytest.approx(0.1 * sending, rel=1e-4)


@pytest.mark.parametrize("position", [(200.0, 0.0), (100.0, 0.0), (100.0, 1e-30), (1e7, 1e7)])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("fading", [0.0, 1e-38, 1e9])
def test_a_rayleigh_draw_of_any_size_leaves_latency_finite(position, cached, fading):
    service = one_user(cached, fading, position)
    assert math.isfinite(service.latency.item())
    assert service.latency.item() > 0
    assert math.isfinite(service.energy.item())


def test_a_network_survives_draws_of_exactly_zero(monkeypatch):
    monkeypatch.setattr(usual, "rayleigh", lambda shape, *_: torch.zeros(shape))
    network = EdgeNetwork(Scenario(), num_envs=2)
    network.begin_frame(torch.ones_like(network.cache))
    service = network.step(decode_offloading(network.scenario, torch.zeros(2, 90)))
    assert torch.isfinite(service.latency).all()
    assert (offloading_reward(service.latency) > 0).all()


@pytest.mark.parametrize("name", ["bandwidth_share", "compute_share"])
def test_no_decision_gives_away_more_than_a_server_has(name):
    network = EdgeNetwork(Scenario(num_users=4), num_envs=1)
    network.begin_frame(network.cache)
    fair = equal_shares(network.scenario, torch.tensor([[0, 0, 1, 1]]), network.dtype)
    greedy = fair._replace(**{name: torch.tensor([[0.5, 0.5, 0.7, 0.5]])})
    with pytest.raises(ValueError, match=f"{name} must sum to at most 1 on every server, got 1.2"):
        network.step(greedy)
    network.step(fair)


def test_equal_shares_of_very_many_users_are_not_taken_for_more_than_there_is():
    network = EdgeNetwork(Scenario(num_servers=1, num_users=100_000), num_envs=1)
    network.begin_frame(network.cache)
    everybody = torch.zeros(1, 100_000, dtype=torch.long)
    network.step(equal_shares(network.scenario, everybody, network.dtype))


def test_fading_is_rayleigh_with_sigma_one():
    draws = usual.rayleigh((200, 1000), torch.Generator().manual_seed(0), torch.device("cpu"), torch.float64)
    assert draws.mean().item() == pytest.approx(math.sqrt(math.pi / 2), rel=0.01)
    assert (draws**2).mean().item() == pytest.approx(2, rel=0.02)


def test_switching_cost_counts_what_is_new_by_hand():
    # New: server 0 services k = 1 and 3, server 1 service k = 10: 14 · 2000 MiB at 200 MiB/s = 140 s. Dropping is free.
    scenario = Scenario()
    before = torch.zeros(2, 2, 10, dtype=torch.bool)
    before[0, 0, 4] = before[0, 1, 1] = True
    after = torch.zeros_like(before)
    after[0, 0, [0, 2]] = after[0, 1, [1, 9]] = True
    torch.testing.assert_close(switching_cost(scenario, before, after), torch.tensor([140.0, 0.0]))


def test_strict_shares_by_hand():
    # Users 0, 1 at server 0 with a = 1 and -1: weights 1 and 0.05; user 2 alone at server 1.
    action = torch.tensor([[-1.0, -0.01, 0.0, 1, -1, -1, 0, 0, 0]])
    allocation = decode_offloading(Scenario(num_users=3), action)
    assert allocation.server.tolist() == [[0, 0, 1]]
    torch.testing.assert_close(allocation.bandwidth_share, torch.tensor([[1 / 1.05, 0.05 / 1.05, 1]]))
    torch.testing.assert_close(allocation.compute_share, torch.tensor([[0.5, 0.5, 1]]))


def test_weighted_shares_by_hand():
    server = torch.tensor([[0, 0, 0, 1, 2, 2]])
    action = torch.tensor([[1.0, -1.0, 0.0, -0.7, 0.4, 9.0]])
    weights = [
        1.0,
        1e-3,
        1e-3**0.5,
        1e-3 ** (0.6 / 2),
    ]  # logarithms go evenly from ln 0.001 to 0; 9 counts as 1
    three, two = sum(weights[:3]), weights[3] + 1
    expected = [1 / three, 1e-3 / three, weights[2] / three, 1.0, weights[3] / two, 1 / two]
    torch.testing.assert_close(weighted_shares(server, action, 4), torch.tensor([expected]))


def test_targets_are_equal_bins():
    scenario = Scenario(num_servers=5, num_users=7)
    action = torch.zeros(1, 21)
    action[0, :7] = torch.tensor([-1, -0.61, -0.59, -0.19, 0.19, 0.61, 1])
    assert decode_offloading(scenario, action).server.tolist() == [[0, 0, 1, 2, 2, 4, 4]]


def test_caches_are_filled_in_falling_order_and_pass_over_what_does_not_fit():
    # 40 GiB · 0.8 = 32 GiB = 32768 MiB; sizes 20000 (k = 10), 16000 (k = 8), 12000 (k = 6), 2000 (k = 1).
    scenario = Scenario(num_servers=1, cache_bytes=40 * GIB)
    action = torch.full((1, 10), -0.5)
    action[0, 9], action[0, 7], action[0, 5], action[0, 0] = 0.9, 0.8, 0.7, 0.1
    cache = decode_caching(scenario, action, torch.zeros(1, 1, 10, dtype=torch.bool))
    # 20000, not 16000 (36000), then 12000 (32000), not 2000 (34000)
    assert cache.nonzero()[:, 2].tolist() == [5, 9]


def test_a_cache_that_fits_exactly_is_taken():
    scenario = Scenario(num_servers=1, cache_bytes=6000 * MIB, usable_cache_fraction=1.0)
    cache = fill_caches(scenario, torch.ones(1, 1, 10))
    assert cache.nonzero()[:, 2].tolist() == [0, 1]  # 2000 + 4000 MiB; ties go to the lower index


def test_everything_fits_the_published_caches():
    cache = decode_caching(Scenario(), torch.full((1, 20), 0.01), torch.zeros(1, 2, 10, dtype=torch.bool))
    assert cache.all()


# Refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("physics", ["strict", "published"])
def test_actions_that_are_not_finite_are_refused(bad, physics):
    action = torch.zeros(2, 90)
    action[1, 3] = bad
    with pytest.raises(ValueError, match="offloading action must be finite, got 1 values that are not"):
        decode_offloading(Scenario(), action, physics)
    caching = torch.zeros(2, 20)
    caching[0, 0] = caching[1, 1] = bad
    with pytest.raises(ValueError, match="caching action must be finite, got 2 values that are not"):
        decode_caching(Scenario(), caching, torch.zeros(2, 2, 10, dtype=torch.bool), physics)


@pytest.mark.parametrize("shape", [(90,), (2, 89), (1, 2, 90), ()])
@pytest.mark.parametrize("physics", ["strict", "published"])
def test_actions_of_a_wrong_shape_are_refused(shape, physics):
    with pytest.raises(ValueError, match=r"offloading action must have shape \[batch, 90\], got \["):
        decode_offloading(Scenario(), torch.zeros(shape), physics)
    with pytest.raises(ValueError, match=r"caching action must have shape \[batch, 20\], got \["):
        decode_caching(Scenario(), torch.zeros(shape), torch.zeros(2, 2, 10, dtype=torch.bool), physics)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("server", torch.full((1, 30), 2), "server must be from 0 to 1, got 2 to 2"),
        ("server", torch.zeros(1, 29, dtype=torch.long), r"server must have shape \[1, 30\], got \[1, 29\]"),
        ("bandwidth_share", torch.full((1, 30), NAN), "bandwidth_share must be finite, got 30"),
        ("compute_share", torch.full((1, 30), -0.5), "compute_share must not be negative, got -0.5"),
        ("compute_share", torch.full((1, 30), 3e38), "compute_share must be at most 1, got 3e[+]38"),
    ],
)
def test_allocations_that_make_no_sense_are_refused(field, value, message):
    network = EdgeNetwork(Scenario())
    network.begin_frame(network.cache)
    good = decode_offloading(network.scenario, torch.zeros(1, 90))
    with pytest.raises(ValueError, match=message):
        network.step(good._replace(**{field: value}))
    assert network.slot == 0
    network.step(good)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(1, 2, 9, dtype=torch.bool), "cache must have shape"),
        (1, torch.full((1, 30), 10), "requests must be from 0 to 9, got 10 to 10"),
        (2, torch.full((1, 30, 2), INF), "positions must be finite"),
        (3, torch.full((1, 30), -1.0), "fading must not be negative, got -1"),
        (3, torch.full((1, 30), NAN), "fading must be finite"),
        (3, torch.ones(1, 31), "fading must have shape"),
    ],
)
def test_serve_refuses_what_makes_no_sense(place, value, message):
    scenario = Scenario()
    arguments = [
        torch.zeros(1, 2, 10, dtype=torch.bool),
        torch.zeros(1, 30, dtype=torch.long),
        torch.zeros(1, 30, 2),
        torch.ones(1, 30),
    ]
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        serve(scenario, *arguments, decode_offloading(scenario, torch.zeros(1, 90)))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(1, 2, 10), "cache must be of type torch.bool, got torch.float32"),
        (1, torch.zeros(1, 30), "requests must be of type torch.int64, got torch.float32"),
        (2, torch.zeros(1, 30, 2, dtype=torch.long), "positions must be of type float, got torch.int64"),
        (3, torch.ones(1, 30, dtype=torch.bool), "fading must be of type float, got torch.bool"),
    ],
)
@pytest.mark.unchecked
def test_serve_refuses_other_number_formats(place, value, message):
    test_serve_refuses_what_makes_no_sense(place, value, message)


def test_begin_frame_refuses_caches_that_do_not_fit():
    network = EdgeNetwork(Scenario(cache_bytes=40 * GIB))
    with pytest.raises(ValueError, match=r"cache must fit into the usable cache, got 3\.36 times as much"):
        network.begin_frame(torch.ones_like(network.cache))  # 110000 MiB into 32768
    with pytest.raises(ValueError, match=r"cache must be bool of shape \[1, 2, 10\]"):
        network.begin_frame(torch.zeros(1, 2, 9, dtype=torch.bool))
    assert network.decision == 0


def test_decisions_out_of_turn_are_refused():
    network = EdgeNetwork(Scenario(slots_per_decision=1, decisions_per_episode=1))
    allocation = decode_offloading(network.scenario, torch.zeros(1, 90))
    with pytest.raises(RuntimeError, match="step must follow begin_frame"):
        network.step(allocation)
    network.begin_frame(network.cache)
    with pytest.raises(RuntimeError, match="begin_frame must follow"):
        network.begin_frame(network.cache)
    network.step(allocation)
    assert network.episode_over
    with pytest.raises(RuntimeError, match="begin_frame must follow"):
        network.begin_frame(network.cache)
    network.reset()
    network.begin_frame(network.cache)


def test_networks_out_of_range_are_refused():
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        EdgeNetwork(Scenario(), num_envs=0)


# Settings ----------------------------------------------------------------------------------------------------------


def request_frequencies(scenario: Scenario) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    network = EdgeNetwork(scenario, num_envs=4000, generator=generator)
    counts = torch.bincount(network.requests.flatten(), minlength=scenario.num_services)
    return counts.double() / counts.sum()


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        # service 1 gets 0.0336 and the missing mass 0.24315...
        (
            {},
            [0.27680, 0.03660, 0.04022, 0.04476, 0.05063, 0.05858, 0.07003, 0.08815, 0.12193, 0.21229],
        ),
        ({"num_services": 3, "popularity": "zipf", "zipf_exponent": 1.0}, [2 / 11, 3 / 11, 6 / 11]),
        ({"num_services": 4, "popularity": "zipf", "zipf_exponent": 0.0}, [0.25] * 4),
        ({"num_services": 4, "popularity": (0.0, 3.0, 1.0, 0.0)}, [0, 0.75, 0.25, 0]),
    ],
)
def test_requests_follow_the_popularity(settings_, expected):
    frequencies = request_frequencies(Scenario(**settings_))
    torch.testing.assert_close(frequencies, torch.tensor(expected).double(), atol=0.005, rtol=0)


def test_a_service_without_weight_is_never_asked_for_even_by_the_largest_draw(monkeypatch):
    scenario = Scenario(num_services=7, popularity=(0.0, *[0.1] * 5, 0.0))
    largest = 1 - 2**-24
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, largest))
    assert (EdgeNetwork(scenario).requests == 5).all()
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
    assert (EdgeNetwork(scenario).requests == 1).all()


def test_users_are_drawn_over_whole_metres_of_their_cell():
    network = EdgeNetwork(Scenario(num_servers=3, num_users=6), num_envs=3000)
    x, y = network.positions.unbind(-1)
    for user, centre in enumerate([100, 100, 300, 300, 500, 500]):
        assert x[:, user].min() == centre - 100
        assert x[:, user].max() == centre + 99  # the upper end is open
    assert y.min() == -100
    assert y.max() == 99
    assert torch.equal(network.positions, network.positions.round())


def test_given_coordinates_stay_and_go_home_to_the_nearest_server():
    scenario = Scenario(
        num_users=3,
        server_positions_m=((0.0, 0.0), (1000.0, 0.0)),
        user_positions_m=((510.0, 3.0), (499.0, -7.5), (1000.0, 0.0)),
    )
    assert scenario.cells == (1, 0, 1)
    assert scenario.published_homes == (1, 0, 1)
    network = EdgeNetwork(scenario, num_envs=2)
    expected = torch.tensor(scenario.user_positions_m).expand(2, -1, -1)
    network.begin_frame(network.cache)
    assert torch.equal(network.positions, expected)
    network.step(decode_offloading(scenario, torch.zeros(2, 9)))
    assert torch.equal(network.positions, expected)


def test_capacities_can_differ_from_server_to_server():
    # Server 1 has half the compute and a quarter of the bandwidth; SNR as in the example of one user.
    scenario = Scenario(num_users=2, compute_hz=(60e9, 30e9), bandwidth_hz=(200e6, 50e6))
    cache = torch.ones(1, 2, 10, dtype=torch.bool)
    allocation = Allocation(torch.tensor([[0, 1]]), torch.ones(1, 2), torch.ones(1, 2))
    positions = torch.tensor([[[200.0, 0.0], [400.0, 0.0]]])  # 100 m from servers 0 and 1
    service = serve(
        scenario, cache, torch.ones(1, 2, dtype=torch.long), positions, torch.ones(1, 2), allocation
    )
    sending = 11_468_800 / (200e6 * math.log2(1 + 10**4.35))
    expected = [sending + 573_440_000 / 60e9, 4 * sending + 573_440_000 / 30e9]
    torch.testing.assert_close(service.latency, torch.tensor([expected]), rtol=1e-5, atol=0)


def test_strict_observations_say_what_the_coming_decision_can_allot():
    scenario = Scenario(num_users=2, cache_bytes=40 * GIB)
    network = EdgeNetwork(scenario)
    cache = torch.zeros(1, 2, 10, dtype=torch.bool)
    cache[0, 0, 0] = True
    network.begin_frame(cache)
    observation = network.offloading_observation()[0]
    assert observation.shape == (2 * 10 + 3 * 2 + 3 * 2,)
    remaining = [32 - 2000 / 1024, 32, 2000, 2000, 60, 60]  # GiB, 10^5 Hz, 10^9 Hz
    torch.testing.assert_close(observation[20:26], torch.tensor(remaining))
    requests = (network.requests[0] + 1).tolist()
    assert observation[26:28].tolist() == requests
    bits = [k * 700 * 1024 * 8 / 1e6 for k in requests]
    torch.testing.assert_close(observation[28:30], torch.tensor(bits))
    network.step(decode_offloading(scenario, torch.full((1, 6), -1.0)))  # both to server 0
    slow = network.caching_observation()[0]
    assert slow.shape == (10 * 5 + 2,)
    shares = [sum(k == service for k in requests) / 2 for service in range(1, 11)]
    torch.testing.assert_close(slow[20:30], torch.tensor(shares))
    assert slow[30].item() == (1.0 if 1 in requests else 0.0)  # all hits are of service 1 at server 0
    assert slow[31:50].sum().item() == 0
    torch.testing.assert_close(slow[50:], torch.full((2,), 32 * 8 * 1024**3 / 1e9))


# Randomness and state ----------------------------------------------------------------------------------------------


def play(policy, physics, seed=11):
    generator = torch.Generator().manual_seed(seed)
    network = EdgeNetwork(Scenario(), physics, num_envs=3, generator=generator)
    fading = []
    draw = usual.rayleigh

    def recorded(*arguments):
        fading.append(draw(*arguments))
        return fading[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usual, "rayleigh", recorded)
        episode = run_episode(
            network,
            lambda n: fill_caches(n.scenario, torch.ones(3, 2, 10) * policy),
            lambda n: decide(n, policy),
        )
    return episode, torch.stack(fading), network.positions


def decide(network: EdgeNetwork, policy: float) -> Allocation:
    action = torch.linspace(-1, 1, 90).expand(network.num_envs, -1) * policy
    return decode_offloading(network.scenario, action, network.physics)


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_two_policies_with_one_seed_meet_the_same_draws(physics):
    one, one_fading, one_positions = play(0.7, physics)
    other, other_fading, other_positions = play(-0.4, physics)
    assert torch.equal(one.requests, other.requests)
    assert torch.equal(one_fading, other_fading)
    assert torch.equal(one_positions, other_positions)
    assert not torch.equal(one.latency, other.latency)


def test_another_seed_draws_otherwise_and_the_global_seed_is_left_alone():
    state = torch.get_rng_state()
    assert not torch.equal(play(0.7, "strict", 1)[0].requests, play(0.7, "strict", 2)[0].requests)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("slots", [0, 3, 5, 7])
def test_a_saved_network_continues_bit_for_bit(slots):
    def network_at(seed):
        return EdgeNetwork(Scenario(), num_envs=2, generator=torch.Generator().manual_seed(seed))

    def advance(network, count):
        latencies = []
        for _ in range(count):
            if network.frame_over:
                network.begin_frame(fill_caches(network.scenario, torch.ones(2, 2, 10)))
            latencies.append(network.step(decide(network, 0.3)).latency)
        return latencies

    original = network_at(1)
    advance(original, slots)
    saved = original.state_dict()
    expected = advance(original, 9)
    restored = network_at(2)
    restored.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(advance(restored, 9), expected))
    assert torch.equal(restored.caching_observation(), original.caching_observation())
    assert torch.equal(restored.offloading_observation(), original.offloading_observation())
    assert (restored.slot, restored.decision) == (original.slot, original.decision)
    again = network_at(3)  # what was saved did not move with the networks
    again.load_state_dict(saved)
    assert torch.equal(advance(again, 1)[0], expected[0])


def test_a_state_of_another_size_is_refused():
    network = EdgeNetwork(Scenario(), num_envs=2)
    before = network.requests.clone()
    with pytest.raises(ValueError, match=r"cache must have shape \[2, 2, 10\], got \[3, 2, 10\]"):
        network.load_state_dict(EdgeNetwork(Scenario(), num_envs=3).state_dict())
    assert torch.equal(network.requests, before)


# Nothing waits for a number ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_a_whole_slot_is_traced_from_action_to_next_state_and_no_number_is_waited_for(physics):
    # `item`, `bool` of a tensor, or a branch by data ends the tracing with an error.
    network = EdgeNetwork(Scenario(), physics, 4, generator=torch.Generator().manual_seed(0))
    network.begin_frame(torch.rand(network.cache.shape) > 0.9)
    processes, table = network.unfolding.processes, network.table

    class Slots(torch.nn.Module):
        def forward(self, action, state, requests, positions, fading):
            allocation = network.rules.decode_offloading(network.scenario, action)
            slot = Slot(requests, positions, fading)
            view = network.rules.offloading_view(table, NetworkState.of(state), slot)
            served = served_slot(network.rules, processes, table, NetworkState.of(state), slot, allocation)
            return tuple(served.service), served.state.tensors(), view.bandwidth_hz

    coming, action = network.unfolding.foreseen(), torch.rand(4, 90) * 2 - 1
    given = (action, network.state.tensors(), coming.requests, coming.positions, coming.fading)
    service, state, _ = torch.export.export(Slots(), given, strict=False).module()(*given)
    served = network.step(decode_offloading(network.scenario, action, physics))
    torch.testing.assert_close(service, tuple(served))
    torch.testing.assert_close(state, network.state.tensors())


def test_requests_are_found_by_parts_as_by_search_whatever_the_popularity():
    draws = torch.rand(300, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws[0, :4] = torch.tensor([0.0, 0.25, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    for weights in (
        [1.0] * 10,
        [1, 0, 0, 1, 2, 0],
        [0, 1, 0],
        [1e-9, 1e-9, 1],
        [1 / k for k in range(1, 88)],
    ):
        scenario = Scenario(num_services=len(weights), popularity=weights)
        table = constants(scenario, torch.device("cpu"), torch.float32)
        assert (table.popularity_split is None) == (weights[0] == 1e-9)  # no parts are small enough
        searched = requested(table._replace(popularity_split=None), draws)
        assert torch.equal(requested(table, draws), searched), weights
        assert set(searched.flatten().tolist()) <= {k for k, weight in enumerate(weights) if weight}


def test_strict_physics_keeps_no_counts_that_none_of_its_views_shows():
    network = EdgeNetwork(Scenario(), "strict", 2)
    network.begin_frame(torch.zeros_like(network.cache))
    network.step(equal_shares(network.scenario, network.requests % 2, network.dtype))
    assert network.state.request_counts.sum() == 60
    assert not network.state.request_gain.any()
    assert not network.state.taken_bits.any()


NAMES = sorted(PUBLISHED)
NUM_ENVS = 2


def scenario_of(name: str, cache_gib: float = 200) -> Scenario:
    row = PUBLISHED[name]
    return Scenario(
        num_servers=row["servers"],
        num_users=row["users"],
        input_step_bytes=row["input_kib"] * 1024,
        compute_hz=row["ghz"] * 1e9,
        free_share=row["free"],
        offload_thresholds=tuple(row["thresholds"]),
        cache_bytes=cache_gib * GIB_BITS / 8,
    )


class SideBySide:
    """A network and one twin for each of its rows, fed with the same draws."""

    def __init__(self, monkeypatch, name, physics, dtype, cache_gib=200, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.network = EdgeNetwork(
            scenario_of(name, cache_gib), physics, NUM_ENVS, generator=self.generator, dtype=dtype
        )
        self.scenario, self.physics, self.dtype = self.network.scenario, physics, dtype
        twin = PublishedTwin if physics == "published" else StrictTwin
        self.twins = [twin(name, cache_gib) for _ in range(NUM_ENVS)]
        self.choice = torch.Generator().manual_seed(seed + 1)
        self.tolerance = 1e-5 if dtype == torch.float64 else 1e-4
        draw = usual.rayleigh

        def recorded(*arguments):
            self.fading = draw(*arguments)
            return self.fading

        monkeypatch.setattr(usual, "rayleigh", recorded)

    def agree(self, rows, expected, floor=1e-9):
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(rows.double(), expected, rtol=self.tolerance, atol=floor)

    def requests(self):
        return (self.network.requests + 1).tolist()

    def action(self, size):
        return torch.rand(NUM_ENVS, size, generator=self.choice, dtype=self.dtype) * 2 - 1

    def offloading_action(self):
        """Some users ask for nothing; no share lies within reach of rounding errors of a rounding edge."""
        while True:
            action = self.action(self.scenario.offloading_action_size)
            idle = torch.rand(action.shape, generator=self.choice) < 0.1
            idle[:, : self.scenario.num_users] = False
            action = torch.where(idle, -1.0, action).to(self.dtype)
            if not any(near_edge(twin, row) for twin, row in zip(self.twins, action.tolist())):
                return action

    def frame(self, action):
        network = self.network
        cache = decode_caching(self.scenario, action, network.cache, self.physics)
        switching = network.begin_frame(cache)
        self.agree(switching, [t.begin_frame(a) for t, a in zip(self.twins, action.tolist())])
        hits = []
        for _ in range(self.scenario.slots_per_decision):
            hits.append(self.slot(self.offloading_action()))
        reward = caching_reward(torch.stack(hits).mean(0), switching)
        self.agree(reward, [twin.caching_reward() for twin in self.twins])
        self.agree_on_observations()

    def slot(self, action):
        network = self.network
        self.agree_on_observations()
        requests, positions = self.requests(), network.positions.tolist()
        service = network.step(decode_offloading(self.scenario, action, self.physics))
        arguments = zip(action.tolist(), requests, positions, self.fading.tolist())
        results = [twin.serve(*argument) for twin, argument in zip(self.twins, arguments)]
        for name, value in service._asdict().items():
            self.agree(value, [result[name] for result in results])
        self.agree(offloading_reward(service.latency), [result["reward"] for result in results])
        return service.hit.to(self.dtype).sum(1)

    def agree_on_observations(self):
        network = self.network
        self.agree(network.caching_observation(), [t.caching_observation() for t in self.twins], 1e-4)
        expected = [t.offloading_observation(r) for t, r in zip(self.twins, self.requests())]
        self.agree(network.offloading_observation(), expected, 1e-6)

    def play_episode(self):
        self.network.reset()
        for twin in self.twins:
            twin.start()
        while not self.network.episode_over:
            self.frame(self.action(self.scenario.caching_action_size))


def near_edge(twin: PublishedTwin, action: list[float]) -> bool:
    """A rounding error of float32 could move a target over a threshold, or a share to another third decimal."""
    users = twin.users
    if any(abs(a - t) < 1e-6 for a in action[:users] for t in twin.thresholds):
        return True
    targets = [twin.target(a) for a in action[:users]]
    for wishes in (action[users : 2 * users], action[2 * users :]):
        for user in range(users):
            thousandths = 1000 * twin.exact_share(wishes, targets, user)
            if abs(thousandths % 1 - 0.5) < 1e-4:
                return True
    return False


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_published_episodes_equal_the_scalar_twin(monkeypatch, name, dtype):
    side = SideBySide(monkeypatch, name, "published", dtype)
    side.play_episode()
    if dtype == torch.float64:
        side.play_episode()  # a second one starts from nothing


@pytest.mark.parametrize(("name", "cache_gib"), [*zip(NAMES, (20, 100, 20, 100))])
def test_published_episodes_with_overfull_caches_equal_the_scalar_twin(monkeypatch, name, cache_gib):
    SideBySide(monkeypatch, name, "published", torch.float64, cache_gib, seed=5).play_episode()


@pytest.mark.parametrize(("name", "cache_gib"), [*zip(NAMES, (40, 200, 40, 200)), (NAMES[0], 200)])
def test_strict_episodes_equal_the_scalar_twin(monkeypatch, name, cache_gib):
    SideBySide(monkeypatch, name, "strict", torch.float64, cache_gib, seed=9).play_episode()


def test_shares_are_rounded_to_three_decimals():
    # Three users of server 0 ask for 1 each: 1/3 -> 0.333. The fourth is alone on server 1: 1.
    scenario = Scenario(num_users=4)
    action = torch.tensor([[-1.0, -1, -1, 1, 1, 1, 1, 0.5, 1, 1, 1, 0.25]])
    allocation = decode_offloading(scenario, action, "published")
    assert allocation.server.tolist() == [[0, 0, 0, 1]]
    expected = torch.tensor([[0.333, 0.333, 0.333, 1.0]])
    torch.testing.assert_close(allocation.bandwidth_share, expected)
    torch.testing.assert_close(allocation.compute_share, expected)


def test_exactly_zero_gets_the_free_share_and_breaks_capacity():
    # Server 0: wishes 1 and -0.3 -> shares 1 and 0 -> free 0.2. All at zero on server 1: 0.2 each.
    scenario = Scenario(num_users=4, free_share=0.2)
    shares = [1.0, -0.3, 0.0, -1.0]
    action = torch.tensor([[-1.0, -1.0, 1.0, 1.0, *shares, *shares]])
    allocation = decode_offloading(scenario, action, "published")
    torch.testing.assert_close(allocation.bandwidth_share, torch.tensor([[1.0, 0.2, 0.2, 0.2]]))
    zeros = torch.zeros(1, 2)
    requests = torch.zeros(1, 4, dtype=torch.long)
    cache = torch.zeros(1, 2, 10, dtype=torch.bool)
    positions = zeros.expand(1, 2).repeat(4, 1)[None] + 50
    service = serve(scenario, cache, requests, positions, torch.ones(1, 4), allocation, "published")
    torch.testing.assert_close(service.bandwidth_load, torch.tensor([[1.2, 0.4]]))


def test_a_share_that_rounds_to_zero_gets_the_free_share_too():
    # 0.0004 / 1.0004 rounds to 0.000: free share; 0.0006 / 1.0006 rounds to 0.001.
    scenario = Scenario(num_users=2, free_share=0.3)
    action = torch.tensor([[-1.0, -1.0, 1.0, 0.0004, 1.0, 0.0006]])
    allocation = decode_offloading(scenario, action, "published")
    torch.testing.assert_close(allocation.bandwidth_share, torch.tensor([[1.0, 0.3]]))
    torch.testing.assert_close(allocation.compute_share, torch.tensor([[0.999, 0.001]]))


def test_all_zero_shares_of_thirty_users_allot_several_times_the_capacity():
    scenario = scenario_of("ES2")
    allocation = decode_offloading(scenario, torch.zeros(1, 90), "published")
    assert allocation.server.tolist() == [[0] * 30]  # 0 is not above the threshold 0
    assert allocation.bandwidth_share.sum().item() == pytest.approx(30 * 0.2)


@pytest.mark.parametrize(
    ("name", "coordinates", "servers"),
    [
        ("ES2", [-1, -0.01, 0, 0.01, 1], [0, 0, 0, 1, 1]),
        ("ES3", [-1, -0.5, -0.49, 0.5, 0.51], [0, 0, 1, 1, 2]),
        ("ES4", [-0.51, -0.49, 0.01, 0.49, 0.51], [0, 1, 2, 2, 3]),
        ("ES5", [-0.61, -0.59, -0.19, 0.21, 0.61], [0, 1, 2, 3, 4]),
    ],
)
def test_published_thresholds_cut_the_axis(name, coordinates, servers):
    scenario = scenario_of(name)
    action = torch.zeros(1, scenario.offloading_action_size)
    action[0, :5] = torch.tensor(coordinates)
    assert decode_offloading(scenario, action, "published").server[0, :5].tolist() == servers


@pytest.mark.parametrize(
    "use",
    [
        lambda scenario, physics: decode_offloading(scenario, torch.zeros(1, 90), physics),
        EdgeNetwork,
        HADRL,
        TransitionDataModule,
    ],
)
def test_thresholds_of_another_number_of_servers_are_refused_where_they_matter(use):
    scenario = Scenario(num_servers=4, offload_thresholds=(0.0,))
    use(scenario, "strict")
    message = r"^scenario.offload_thresholds must have num_servers - 1 = 3 values under physics published, got 1; null"
    with pytest.raises(ValueError, match=message):
        use(scenario, "published")


def test_without_thresholds_published_cuts_into_equal_bins():
    scenario = Scenario(num_servers=4, num_users=4)
    action = torch.tensor([[-0.51, -0.49, 0.49, 0.51, *[0.0] * 8]])
    assert decode_offloading(scenario, action, "published").server.tolist() == [[0, 1, 2, 3]]


def test_the_published_association_of_es4_is_not_the_cell():
    # Published: floor(i / 7) capped at 3. Cells: floor(4 i / 30): 0-7, 8-14, 15-22, 23-29.
    scenario = scenario_of("ES4")
    assert scenario.published_homes == (0,) * 7 + (1,) * 7 + (2,) * 7 + (3,) * 9
    assert scenario.cells == (0,) * 8 + (1,) * 7 + (2,) * 8 + (3,) * 7
    # User 7 stands on server 0 in cell 0: 200 m from server 1, whose radio it uses as published.
    positions = torch.tensor([[[100.0, 0.0]] * 30])
    cache = torch.zeros(1, 4, 10, dtype=torch.bool)
    allocation = decode_offloading(scenario, torch.full((1, 90), 0.5), "strict")
    requests = torch.zeros(1, 30, dtype=torch.long)
    one = torch.ones(1, 30)
    published = serve(scenario, cache, requests, positions, one, allocation, "published").latency[0, 7]
    strict = serve(scenario, cache, requests, positions, one, allocation, "strict").latency[0, 7]
    # Spectral efficiency at 200 m: 134 - 128.1 + 26.2812 dB -> 1654.2 -> 10.692; at 30 m: 63.158 dB -> 20.981.
    sent = 500 * 1024 * 8 / (200e6 / 30)
    assert (published - strict).item() == pytest.approx(sent * (1 / 10.6927 - 1 / 20.981), rel=2e-3)


def test_the_other_scenarios_associate_by_cell():
    for name in ("ES2", "ES3", "ES5"):
        assert scenario_of(name).published_homes == scenario_of(name).cells


def test_published_caching_checks_only_the_cache_before_and_only_if_all_are_over():
    # 20 GiB, 16 usable. Service index 9 takes 20000 MiB = 19.5 GiB: over the limit. Index 0: 2000 MiB.
    scenario = scenario_of("ES2", cache_gib=20)
    everything = torch.ones(1, 20)
    empty = torch.zeros(1, 2, 10, dtype=torch.bool)
    full = decode_caching(scenario, everything, empty, "published")
    assert full.all()  # 107 GiB into 16
    one_over = empty.clone()
    one_over[0, 0, 9] = True
    assert decode_caching(scenario, -everything, one_over, "published").sum() == 0  # server 1 is not over
    both_over = one_over.clone()
    both_over[0, 1, 9] = True
    assert torch.equal(decode_caching(scenario, -everything, both_over, "published"), both_over)


def test_published_caches_over_the_limit_are_accepted_by_the_network():
    network = EdgeNetwork(scenario_of("ES2", cache_gib=20), "published")
    cost = network.begin_frame(torch.ones_like(network.cache))
    assert cost.item() == pytest.approx(2 * 55 * 2000 / 200)  # 2 servers, 55 units of 2000 MiB at 200 MiB/s


def test_published_energy_is_twenty_times_the_transmission_time():
    scenario = Scenario(num_users=1)
    allocation = decode_offloading(scenario, torch.tensor([[-1.0, 1.0, 1.0]]), "published")
    cache = torch.zeros(1, 2, 10, dtype=torch.bool)
    positions, requests = torch.tensor([[[100.0, 100.0]]]), torch.zeros(1, 1, dtype=torch.long)
    published = serve(scenario, cache, requests, positions, torch.ones(1, 1), allocation, "published")
    # 100 m: loss 128.1 - 37.6 = 90.5 dB, SNR 10^4.35, log2(1 + 22387.2) = 14.4504
    seconds = 700 * 1024 * 8 / (200e6 * math.log2(1 + 10**4.35))
    assert published.energy.item() == pytest.approx(20 * seconds, rel=1e-5)


def test_asking_for_nothing_is_what_the_published_arithmetic_rewards() -> None:
    """All shares zero: everyone gets the free share, and the latency falls below that of any feasible decision."""
    scenario = Scenario()
    network = EdgeNetwork(scenario, "published", num_envs=64, generator=torch.Generator().manual_seed(3))
    nothing = decode_offloading(scenario, torch.zeros(64, scenario.offloading_action_size), "published")
    everything = torch.ones(64, scenario.num_servers, scenario.num_services, dtype=torch.bool)
    episode = run_episode(network, lambda _: everything, lambda _: nothing)
    assert 7.5 < float(episode.latency.sum(dim=2).mean()) < 8.5
    assert float(episode.bandwidth_load.max()) == pytest.approx(
        0.2 * 30
    )  # six times the capacity of one server


def test_targets_of_structured_planners_are_put_as_the_thresholds_read_them() -> None:
    scenario = Scenario(num_servers=3, num_users=5, offload_thresholds=(-0.9, 0.8))
    target = torch.tensor([[-1.0, -0.4, -0.3, 0.3, 1.0]])
    action = torch.cat((target, torch.full((1, 10), 0.5)), dim=1)
    assert decode_offloading(scenario, action, "published").server.tolist() == [[0, 1, 1, 1, 2]]
    put = rules("published").in_its_bins(scenario, action)
    assert decode_offloading(scenario, put, "published").server.tolist() == [[0, 0, 1, 1, 2]]
    assert torch.equal(put[:, 5:], action[:, 5:])
    assert rules("strict").in_its_bins(scenario, action) is action


def test_a_structured_agent_stores_targets_under_the_servers_that_served() -> None:
    scenario = Scenario(num_servers=3, num_users=5, offload_thresholds=(-0.9, 0.8), decisions_per_episode=1)
    agent = HADRL(scenario, physics="published")
    network = EdgeNetwork(scenario, "published", 4)
    action = 2 * torch.rand(4, 15, generator=torch.Generator().manual_seed(0)) - 1
    lessons = agent.world_model.prepared(
        OffloadingTransitions(
            network.offloading_view(), action, torch.ones(4), network.offloading_view(), torch.ones(4, 5)
        )
    )
    assert torch.equal(lessons.target, agent.decide_offloading(scenario, action).server)
