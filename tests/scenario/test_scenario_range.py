"""Networks of a batch that differ: ranges of a scenario, what is drawn from them, and that each network is its own."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from hadrl_lightning.agents import HADRL
from hadrl_lightning.agents.seen import ranges_of_scenario
from hadrl_lightning.baselines import CACHING_POLICIES, OFFLOADING_POLICIES
from hadrl_lightning.baselines.learners import LearnerSettings, TwinDDPG
from hadrl_lightning.benchmark import PlanSettings, make_plan
from hadrl_lightning.callbacks import CEMPlanning
from hadrl_lightning.cli.checkpoints import check_settings
from hadrl_lightning.cli.mistakes import naming_settings
from hadrl_lightning.data import EpisodeStream, TransitionDataModule
from hadrl_lightning.envs import ServiceCachingEnv
from hadrl_lightning.envs.bounds import caching_bounds, offloading_bounds
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge import optimal_hit_ratio
from hadrl_lightning.play import run_episode
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import GIB, Physics, Range, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    ScenarioRange,
    SharedNetworks,
    Use,
    decode_caching,
    decode_offloading,
    make_generator,
    serve,
    switching_cost,
)
from hadrl_lightning.simulator.constants import constants

VARIED = Scenario(
    num_servers=3,
    num_users=7,
    decisions_per_episode=2,
    slots_per_decision=2,
    compute_hz={"low": 5e9, "high": "80 GHz", "log": True},
    bandwidth_hz={"low": "5MHz", "high": "400MHz"},
    cache_bytes={"low": "20GiB", "high": "80GiB", "alike": True},
    storage_bytes={"low": 1e9, "high": "30GB"},
    input_step_bytes={"low": 3e5, "high": 8e5},
    popularity={"low": 0, "high": 1},
    cloud_delay_s={"low": "10ms", "high": "200ms"},
    backhaul_bytes_per_s={"low": 1e8, "high": 3e8},
    transmit_power_dbm={"low": 10, "high": 23},
    noise_dbm={"low": -120, "high": -100},
)
PLACED = replace(
    VARIED,
    server_positions_m={"low": -300, "high": 300},
    user_positions_m={"low": -300, "high": 300},
)


def networks(
    scenario: Scenario, physics: Physics = "strict", num_envs: int = 4, seed: int = 3
) -> EdgeNetwork:
    return EdgeNetwork(scenario, physics, num_envs, generator=make_generator(seed, Use.TEST_NETWORKS, 0))


def random_policies(physics: Physics):
    draws = torch.Generator().manual_seed(1)

    def slow(network: EdgeNetwork) -> torch.Tensor:
        action = 2 * torch.rand(network.num_envs, network.scenario.caching_action_size, generator=draws) - 1
        return decode_caching(network.scenario, action, network.cache, physics, network.exact)

    def fast(network: EdgeNetwork) -> Allocation:
        size = network.scenario.offloading_action_size
        action = 2 * torch.rand(network.num_envs, size, generator=draws) - 1
        return decode_offloading(network.scenario, action, physics)

    return slow, fast


# Ranges --------------------------------------------------------------------------------------------------------------


def test_a_field_that_is_a_range_is_its_middle_and_every_network_draws_its_own() -> None:
    assert VARIED.compute_hz == pytest.approx((5e9 * 80e9) ** 0.5)
    assert VARIED.bandwidth_hz == 202.5e6
    assert VARIED.storage_bytes == (15.5e9,) * 10
    drawn = ScenarioRange(VARIED, seed=4).draw(50)
    assert not any(one.ranges for one in drawn)
    compute = torch.tensor([one.compute_per_server_hz for one in drawn])
    assert compute.min() >= 5e9
    assert compute.max() <= 80e9
    assert (compute.std(dim=1) > 0).all()  # each server of its own
    assert torch.tensor([one.cache_per_server_bits for one in drawn]).std(dim=1).max() == 0  # alike
    assert (compute < 20e9).float().mean() == pytest.approx(0.5, abs=0.15)  # every factor as likely
    assert all(20 * GIB <= one.cache_per_server_bits[0] / 8 <= 80 * GIB for one in drawn)
    assert len({one.popularity for one in drawn}) == 50


def test_a_network_depends_on_no_other_network_field_or_episode() -> None:
    draw = ScenarioRange(VARIED, seed=4).draw
    assert draw(3) == draw(5)[:3]
    assert draw(3, episode=1) != draw(3)
    fewer = {name: one for name, one in VARIED.ranges.items() if name != "popularity"}
    without = replace(VARIED, popularity="published", ranges=fewer)
    assert [one.compute_hz for one in ScenarioRange(without, seed=4).draw(3)] == [
        one.compute_hz for one in draw(3)
    ]
    assert ScenarioRange(Scenario()).draw(2) == (Scenario(), Scenario())


def test_copies_keep_the_ranges_and_a_number_takes_the_place_of_one() -> None:
    assert Scenario.from_dict(VARIED.to_dict()) == VARIED
    assert VARIED.to_dict()["compute_hz"] == asdict(VARIED.ranges["compute_hz"])
    assert "ranges" not in VARIED.to_dict()
    larger = replace(PLACED, num_users=9, num_servers=2)
    assert larger.ranges == PLACED.ranges
    assert len(larger.user_positions_m or ()) == 9
    assert VARIED.resized(4, 7, 20).ranges == VARIED.ranges
    assert "compute_hz" not in replace(VARIED, compute_hz=7e9).ranges
    with pytest.warns(match=r"compute_hz is 60000000000\.0, which takes the place of its range"):
        assert replace(VARIED, compute_hz=60e9).ranges.keys() == VARIED.ranges.keys() - {"compute_hz"}
    assert replace(VARIED, bandwidth_hz={"low": 4e6, "high": 401e6}) != VARIED  # the same middle


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("compute_hz", {"low": 5e9}, "compute_hz must have low and high, and may have log and alike, got"),
        ("compute_hz", {"low": 5e9, "high": 4e9}, "compute_hz.high must be at least low = 5e+09, got 4e+09"),
        ("compute_hz", {"low": 0.5, "high": 4e9}, "compute_hz must be at least 1, got 0.5"),
        ("compute_hz", {"low": 5e9, "high": "fast"}, "compute_hz.high must be a finite number, got 'fast'"),
        ("noise_dbm", {"low": -9, "high": 1, "log": True}, "noise_dbm.low must be above 0 where log is true"),
        ("usable_cache_fraction", {"low": 0.5, "high": 2}, "usable_cache_fraction must be at most 1, got 2"),
        ("cache_bytes", {"low": "3GHz", "high": 1e12}, "cache_bytes must be a number, in one of B"),
        ("num_servers", {"low": 1, "high": 2.5}, "num_servers.high must be a whole number, got 2.5"),
        ("num_servers", {"low": 0, "high": 2}, "num_servers must be at least 1, got 0"),
        ("num_servers", {"low": 1, "high": 1e12}, "num_servers must be as many as fit into memory"),
        (
            "num_services",
            {"low": 4, "high": 9},
            "popularity must be zipf or a range where num_services is a range",
        ),
        ("slots_per_decision", {"low": 3, "high": 9}, "slots_per_decision must be the same for all networks"),
        ("share_floor", {"low": 0.1, "high": 0.2}, "share_floor must be the same for all networks"),
        ("popularity", {"low": -1, "high": 1}, "popularity must be at least 0, got -1"),
    ],
)
def test_a_range_that_is_not_allowed_gets_a_line(
    as_installed, field: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        Scenario(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "count", "message"),
    [
        ("compute_hz", [1e9, 2e9], "num_servers", "compute_hz must be no list where num_servers is a range"),
        ("deadline_s", [1, 2], "num_services", "deadline_s must be no list where num_services is a range"),
        ("popularity", [1, 2], "num_services", "popularity must be zipf or a range where num_services is a"),
        ("server_positions_m", [[0, 0]], "num_servers", "server_positions_m must be a range where num_serve"),
        ("user_positions_m", [[0, 0]], "num_users", "user_positions_m must be a range where num_users is a"),
        ("offload_thresholds", [0.1], "num_servers", "offload_thresholds must be null where num_servers is"),
    ],
)
def test_what_is_listed_one_by_one_needs_a_fixed_count(
    field: str, value: object, count: str, message: str
) -> None:
    settings = {"popularity": "zipf", count: {"low": 1, "high": 2}, field: value}
    with pytest.raises(ValueError, match=rf"^{message}.*, got "):
        Scenario(**settings)  # type: ignore[arg-type]


def test_a_wrong_end_of_a_range_is_named_by_the_field_that_is_one(as_installed) -> None:
    with (
        pytest.raises(
            HadrlError, match=r"^data\.scenario\.compute_hz\.high must be at least low = 5, got 4$"
        ),
        naming_settings({"data": TransitionDataModule}),
    ):
        Scenario(compute_hz={"low": 5, "high": 4})  # type: ignore[arg-type]


def test_a_checkpoint_of_ranges_is_of_the_same_scenario_however_they_are_written() -> None:
    saved = {"hyper_parameters": {"scenario": asdict(Scenario(compute_hz=Range(low=5e9, high=8e10)))}}
    path = Path("last.ckpt")
    check_settings(path, saved, {"scenario": {"compute_hz": {"high": "80GHz", "low": "5GHz", "log": False}}})
    for other, told in (
        (
            {"low": 5e9, "high": 9e10},
            r"scenario\.compute_hz\.high is 80000000000\.0 there and 90000000000\.0 in",
        ),
        (
            42.5e9,
            r"scenario\.compute_hz is \{'low': 5000000000\.0, .*\} there and 42500000000\.0 in the settings",
        ),
    ):
        with pytest.raises(HadrlError, match=told):
            check_settings(path, saved, {"scenario": {"compute_hz": other}})


def test_constants_of_one_network_are_refused_for_a_range() -> None:
    with pytest.raises(ValueError, match=r"must be that of one network, got ranges of input_step_bytes"):
        constants(VARIED, torch.device("cpu"), torch.float32)


# Sizes ---------------------------------------------------------------------------------------------------------------

SIZED = replace(
    PLACED,
    num_servers={"low": 1, "high": 5},
    num_users={"low": 2, "high": 9},
    num_services={"low": 3, "high": 30, "log": True},
)


def test_sizes_lie_in_their_ranges_change_between_episodes_and_are_those_of_all_networks() -> None:
    assert SIZED.counts == {"num_servers": 3, "num_users": 6, "num_services": 9}  # the middles
    ranges = {name: SIZED.ranges[name] for name in SIZED.counts}
    bare = ScenarioRange(Scenario(popularity="zipf", **ranges), seed=4)
    sizes = [tuple(bare.sized(episode).counts.values()) for episode in range(200)]
    draw = ScenarioRange(SIZED, seed=4)
    for name, found in zip(SIZED.counts, zip(*sizes)):
        low, high = SIZED.ranges[name].low, SIZED.ranges[name].high
        assert (min(found), max(found)) == (low, high)
    assert sum(servers == 1 for servers, *_ in sizes) == pytest.approx(40, abs=20)  # each as likely
    assert sum(services < 9.5 for *_, services in sizes) == pytest.approx(100, abs=25)  # or every factor
    drawn = draw.draw(4, episode=7)
    assert {tuple(one.counts.values()) for one in drawn} == {sizes[7]}
    assert not any(one.ranges for one in drawn)
    assert len({one.compute_hz for one in drawn}) == 4
    sized = draw.sized(7)
    assert sized.ranges.keys() == PLACED.ranges.keys()
    assert draw.draw(2, 7) == ScenarioRange(sized, seed=4).draw(2, 7)  # sizes have a stream of their own


def test_a_scenario_of_several_sizes_is_copied_and_shows_its_ends() -> None:
    assert Scenario.from_dict(SIZED.to_dict()) == SIZED
    assert hash(Scenario.from_dict(asdict(SIZED))) == hash(SIZED)
    assert SIZED.to_dict()["num_users"] == {"low": 2, "high": 9, "log": False, "alike": False}
    corners = [one.counts for one in SIZED.corners()]
    assert {one["num_servers"] for one in corners} == {1, 5}
    assert {(one["num_users"], one["num_services"]) for one in corners} == {(2, 3), (9, 30)}
    assert ranges_of_scenario(SIZED)["num_services"] == (3, 30)
    assert "num_servers=1 to 5, num_users=2 to 9, num_services=3 to 30," in str(TransitionDataModule(SIZED))
    assert SIZED.resized(3, 6, 9).ranges.keys().isdisjoint(SIZED.counts)  # though these are the middles
    assert replace(SIZED, num_users=4).ranges.keys() == SIZED.ranges.keys() - {"num_users"}
    assert replace(SIZED, num_users={"low": 0, "high": 9}) != SIZED
    with pytest.raises(ValueError, match="num_users must be at least 1, got 0"):
        replace(SIZED, num_users={"low": 0, "high": 9}).require_users()


def test_what_acts_on_one_size_alone_refuses_several() -> None:
    refused = r"^num_servers must be one number for .*, got the range from 1 to 5$"
    several = {"num_servers": {"low": 1, "high": 5}, "offload_thresholds": None}
    settings = PlanSettings(overrides={"data": {"scenario": several}}, seeds=(0,))
    for make in (
        lambda: HADRL(SIZED, slow_level="flat"),
        lambda: HADRL(SIZED, fast_level="flat", slow_level="set"),
        lambda: TwinDDPG(networks(SIZED), LearnerSettings()),
        lambda: ServiceCachingEnv(SIZED),
        *(
            partial(make_plan, replace(settings, policies=(name,)))
            for name in ("twin-ddpg", "hadrl-published", "hadrl-no-planning")
        ),
    ):
        with pytest.raises(HadrlError, match=refused):
            make()


# Networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("physics", ["strict", "published"])
@pytest.mark.parametrize("scenario", [VARIED, PLACED, SIZED])
def test_a_batch_of_different_networks_is_each_of_them_alone(scenario: Scenario, physics: Physics) -> None:
    network = networks(scenario, physics)
    slow, fast = random_policies(physics)
    network.reset()
    before = torch.zeros_like(network.cache)
    while not network.episode_over:
        if network.frame_over:
            view, cache = network.caching_view(), slow(network)
            switching = network.begin_frame(cache)
            for b, one in enumerate(network.scenarios):
                alone = switching_cost(one, before[b : b + 1], cache[b : b + 1])
                torch.testing.assert_close(switching[b : b + 1], alone)
                usable = torch.tensor(
                    one.usable_cache_bits if physics == "strict" else one.cache_per_server_bits
                )
                held = (
                    (before[b] * torch.tensor(one.storage_bits)).sum(dim=1) if physics == "published" else 0
                )
                torch.testing.assert_close(view.free_cache_bits[b], usable - held, rtol=1e-5, atol=1e5)
            before = cache
        view, asked, at = network.offloading_view(), network.requests, network.positions
        allocation, fading = fast(network), network.unfolding.foreseen().fading
        assert fading is not None
        service = network.step(allocation)
        for b, one in enumerate(network.scenarios):
            row = slice(b, b + 1)
            alone = serve(
                one,
                cache[row],
                asked[row],
                at[row],
                fading[row],
                Allocation(*(x[row] for x in allocation)),
                physics,
            )
            for whole, part in zip(service, alone, strict=True):
                torch.testing.assert_close(whole[row], part)
            torch.testing.assert_close(view.input_bits[b], torch.tensor(one.input_bits)[asked[b]])
            if physics == "strict":
                torch.testing.assert_close(view.compute_hz[b], torch.tensor(one.compute_per_server_hz))


def test_the_mean_of_requests_is_the_popularity_of_each_network() -> None:
    scenario = Scenario(num_users=2000, popularity={"low": 0, "high": 1})
    network = networks(scenario)
    for b, one in enumerate(network.scenarios):
        share = torch.bincount(network.requests[b], minlength=10) / 2000
        torch.testing.assert_close(share, torch.tensor(one.popularity_vector), rtol=0, atol=0.04)


def test_every_episode_has_other_networks_and_a_saved_state_goes_on_with_the_same() -> None:
    one = networks(VARIED)
    first = one.scenarios
    one.reset()
    assert one.scenarios != first
    saved = one.state_dict()
    other = networks(VARIED, seed=9)
    other.load_state_dict(saved)
    assert other.scenarios == one.scenarios
    torch.testing.assert_close(other.offloading_observation(), one.offloading_observation())
    one.reset(), other.reset()
    assert other.scenarios == one.scenarios
    assert torch.equal(one.requests, other.requests)
    assert torch.equal(one.positions, other.positions)
    one.set_seed(5), other.set_seed(5)
    one.reset(), other.reset()
    again = one.scenarios
    one.set_seed(5)
    one.reset()
    assert again == other.scenarios == one.scenarios


@pytest.mark.parametrize(("begun", "kind"), [(0, EdgeNetwork), (3, EdgeNetwork), (3, SharedNetworks)])
def test_networks_of_the_sizes_of_a_saved_episode_go_on_to_the_bit(begun: int, kind: type) -> None:
    one, other = (
        kind(SIZED, num_envs=4, generator=make_generator(seed, Use.TEST_NETWORKS, 0)) for seed in (3, 9)
    )
    slow, fast = random_policies("strict")
    for _ in range(begun):
        one.reset()
    one.begin_frame(slow(one))
    one.step(fast(one))
    other.load_state_dict(one.state_dict())
    assert other.scenario == one.scenario
    for _ in range(4):
        assert other.scenarios == one.scenarios
        for name, value in one.state_dict()["state"].items():
            assert torch.equal(value, other.state_dict()["state"][name])
        assert torch.equal(one.offloading_observation(), other.offloading_observation())
        if one.frame_over:
            cache = slow(one)
            assert torch.equal(one.begin_frame(cache), other.begin_frame(cache))
        decided = fast(one)
        assert torch.equal(one.step(decided).latency, other.step(decided).latency)
        if one.episode_over:
            one.reset(), other.reset()


def test_the_largest_networks_have_to_fit_into_memory() -> None:
    most = {"low": 1, "high": 1000}
    large = Scenario(num_servers=most, num_services=most, popularity="zipf")  # type: ignore[arg-type]
    with pytest.raises(
        HadrlError, match="networks in parallel must be as many as fit into memory, got 10000"
    ):
        EdgeNetwork(large, num_envs=10_000)


@pytest.mark.unchecked
def test_a_training_over_sizes_resumes_to_the_bit(tmp_path: Path) -> None:
    scenario = replace(
        Scenario.from_config("any.yaml"),
        num_servers={"low": 1, "high": 3},
        num_users={"low": 2, "high": 5},
        num_services={"low": 2, "high": 9},
        slots_per_decision=2,
    )

    def trained(
        max_epochs: int, going_on_from: Path | None = None
    ) -> tuple[HADRL, TransitionDataModule, Trainer]:
        agent = HADRL(scenario)
        data = TransitionDataModule(
            scenario, num_envs=2, batch_size=4, samples_per_pass=12, passes_per_epoch=2, validation_episodes=2
        )
        planning = CEMPlanning(seed_decisions=3, decisions_per_epoch=3)
        trainer = quiet_trainer(
            max_epochs=max_epochs, limit_val_batches=1, callbacks=[planning], num_sanity_val_steps=0
        )
        trainer.fit(agent, datamodule=data, ckpt_path=going_on_from)
        return agent, data, trainer

    _, _, first = trained(1)
    first.save_checkpoint(tmp_path / "saved.ckpt")
    resumed, its, _ = trained(3, tmp_path / "saved.ckpt")
    straight, own, trainer = trained(3)
    assert len(own.offloading_buffer.parts) > 2
    for one, other in zip(own.offloading_buffer.parts, its.offloading_buffer.parts, strict=True):
        for (_, value), (_, found) in zip(one.contents().tensors(), other.contents().tensors(), strict=True):
            assert torch.equal(value, found)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert trainer.callback_metrics["val/log_latency"].isfinite()


def test_ranges_change_no_draw_of_requests_and_fading() -> None:
    fixed = replace(VARIED, compute_hz=7e9, popularity=(1.0,) * 10)
    varied = networks(replace(VARIED, popularity=(1.0,) * 10))
    alone = networks(fixed)
    for network in (varied, alone):
        network.reset()
    assert torch.equal(varied.requests, alone.requests)
    fadings = [network.unfolding.foreseen().fading for network in (varied, alone)]
    assert torch.equal(*fadings)


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_baselines_play_each_network_by_its_own_constants(physics: Physics) -> None:
    slow = CACHING_POLICIES["density"](VARIED, torch.Generator())
    latency = {}
    for name in ("best_known", "least_loaded_sqrt", "least_loaded_equal", "home_equal", "genetic"):
        draws = make_generator(0, Use.BASELINE_OFFLOADING)
        episode = run_episode(networks(VARIED, physics), slow, OFFLOADING_POLICIES[name](VARIED, draws))
        latency[name] = episode.latency.sum(dim=2).mean(dim=0)
    for name, value in latency.items():
        assert (latency["best_known"] <= value * 1.03).all(), name  # decided before the fading is known
    played = networks(VARIED, physics)
    played.reset()
    for b, one in enumerate(played.scenarios):  # what it places is what it would place there alone
        alone = CACHING_POLICIES["density"](one, torch.Generator())(EdgeNetwork(one, physics))
        assert torch.equal(slow(played)[b], alone[0])


def test_bounds_hold_for_every_network_that_can_be_drawn() -> None:
    for physics in ("strict", "published"):
        low, high = offloading_bounds(VARIED, physics)
        slow_low, slow_high = caching_bounds(VARIED, physics)
        for seed in range(5):
            network = networks(VARIED, physics, seed=seed)
            slow, fast = random_policies(physics)
            network.reset()
            while not network.episode_over:
                if network.frame_over:
                    seen = network.caching_observation()
                    assert (seen >= torch.tensor(slow_low)).all()
                    assert (seen <= torch.tensor(slow_high)).all()
                    network.begin_frame(slow(network))
                seen = network.offloading_observation()
                assert (seen >= torch.tensor(low)).all()
                assert (seen <= torch.tensor(high)).all()
                network.step(fast(network))


def test_what_an_agent_is_told_covers_every_network_that_can_be_drawn() -> None:
    for scenario in (VARIED, PLACED):
        told = ranges_of_scenario(scenario)
        for one in ScenarioRange(scenario, seed=2).draw(20):
            for name, (least, most) in ranges_of_scenario(one).items():
                slack = 1e-9 * abs(most)
                assert told[name][0] - slack <= least, name
                assert most <= told[name][1] + slack, name


def test_the_optimum_of_a_stream_is_the_mean_over_its_networks() -> None:
    stream = EpisodeStream(VARIED, "strict", 3, 2, 7, Use.TEST_NETWORKS)
    scenarios = stream.scenarios()
    assert len(scenarios) == 3
    played = []
    for network in stream:
        run_episode(network, *random_policies("strict"))
        played += network.scenarios
    assert tuple(played) == scenarios
    mean = sum(optimal_hit_ratio(one) for one in scenarios) / 3
    assert optimal_hit_ratio(*scenarios) == pytest.approx(mean)
    assert len(EpisodeStream(Scenario(), "strict", 3, 2, 7, Use.TEST_NETWORKS).scenarios()) == 1


def test_a_range_says_its_numbers() -> None:
    assert Range(low=2, high=8).number(0.5) == 5
    assert Range(low=2, high=8, log=True).number(0.5) == 4
    assert Range(low=2, high=8, alike=True).numbers([0.5, 0.9]) == (5, 5)
    assert Range(low=1e-3, high=1e3, log=True).number(1.0) == 1e3
