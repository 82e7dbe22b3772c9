"""The batched simulator against the slow twin, number for number, over whole episodes."""

import math

import pytest
import torch

from hadrl_lightning.agents import HADRL
from hadrl_lightning.data import OffloadingTransitions, TransitionDataModule
from hadrl_lightning.play import caching_reward, offloading_reward, run_episode
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork, decode_caching, decode_offloading, rules, serve
from hadrl_lightning.simulator.processes import usual
from tests.helpers.twin import GIB_BITS, PUBLISHED, PublishedTwin, StrictTwin

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


@pytest.mark.parametrize("cache_gib", [20, 100])
@pytest.mark.parametrize("name", NAMES)
def test_published_episodes_with_overfull_caches_equal_the_scalar_twin(monkeypatch, name, cache_gib):
    SideBySide(monkeypatch, name, "published", torch.float64, cache_gib, seed=5).play_episode()


@pytest.mark.parametrize("cache_gib", [40, 200])
@pytest.mark.parametrize("name", NAMES)
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
