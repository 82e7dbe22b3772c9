"""Tasks that arrive by chance, work that carries over, and users without a task wherever tasks are counted."""

import csv
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hadrl_lightning.agents import SetWorldModel, SetWorldModelSettings
from hadrl_lightning.agents.adapting import Adaptation, Lived, _latencies
from hadrl_lightning.baselines import (
    OFFLOADING_POLICIES,
    ClairvoyantPolicy,
    EmptySlot,
    best_known_policy,
    carried_bound,
    carried_over,
    coming_fading,
    empty_slot,
    hindsight_policy,
    lower_bound,
    offloading_problem,
    relaxed_assignment,
    square_root_shares,
)
from hadrl_lightning.baselines.clairvoyant import planned
from hadrl_lightning.baselines.problem import summed_latency
from hadrl_lightning.benchmark.slot_actor import SlotActor, SlotCritic, SlotNumbers
from hadrl_lightning.callbacks.predictions import write_decisions
from hadrl_lightning.callbacks.references import References
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.data.transitions import OffloadingTransitions
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge.references import bounds, slot_costs
from hadrl_lightning.judge.scores import Scoreboard
from hadrl_lightning.planning.rounds import plan_by_sums
from hadrl_lightning.play import (
    MEASURED,
    episode_scores,
    home_equal,
    mean_of_tasks,
    offloading_reward,
    run_episode,
    slot_scores,
    tasks,
)
from hadrl_lightning.scenario import Preferences, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    EdgeNetwork,
    OffloadingView,
    Use,
    decode_offloading,
    equal_shares,
    make_generator,
)
from hadrl_lightning.simulator.constants import constants
from hadrl_lightning.simulator.processes import Queues, SlowServers, World
from hadrl_lightning.simulator.state import Slot

CPU = torch.device("cpu")
PLAIN: dict[str, Any] = {"load": None, "tasks_per_slot": 0.7}


def world(**chosen: Any) -> Scenario:
    """ES3 with queues of these settings, and slow servers that it is named together with."""
    further = chosen.pop("further", {})
    sizes = chosen.pop("sizes", {})
    base = replace(Scenario.from_config("es3.yaml"), **sizes)
    return replace(base, processes={"queues": chosen, **further})


def network_of(scenario: Scenario, num_envs: int = 3, seed: int = 0, **more: Any) -> EdgeNetwork:
    return EdgeNetwork(scenario, num_envs=num_envs, generator=make_generator(seed, Use.TEST_NETWORKS), **more)


def full(network: EdgeNetwork) -> Tensor:
    return torch.ones_like(network.cache)


def carried(network: EdgeNetwork) -> dict[str, Tensor]:
    return network.state.carried["queues"]


def tasks_of(process: Queues, scenario: Scenario, num_envs: int, slots: int) -> Tensor:
    """Tasks of every slot, network and user."""
    seen = World(scenario, constants(scenario, CPU, torch.float64), num_envs, CPU, torch.float32)
    generator = torch.Generator().manual_seed(0)
    memory = [process.initial(seen, generator)]
    for _ in range(slots - 1):
        memory.append(process.advance(seen, memory[-1], generator))
    return torch.stack([one["tasks"] for one in memory]).double()


# Arrivals ------------------------------------------------------------------------------------------------------------


def test_tasks_arrive_as_often_as_is_said_and_at_any_load() -> None:
    scenario = replace(Scenario.from_config("es3.yaml"), num_users=20)
    cycles = torch.tensor(scenario.cycles, dtype=torch.float64) @ torch.tensor(
        scenario.popularity_vector, dtype=torch.float64
    )
    for load in (0.3, 0.6):
        mean = load * 0.5 * 60e9 / (20 * float(cycles))
        for arrivals in ("bernoulli", "poisson", "bursts"):
            process = Queues(arrivals=arrivals, load=load, slot_s=0.5, on_slots=3.0, off_slots=6.0)  # type: ignore[arg-type]
            found = tasks_of(process, scenario, 200, 120)
            asked = found > 0
            offered = found.mean() * 20 * cycles / 0.5
            assert float(offered) == pytest.approx(load * 60e9, rel=0.03)
            expected = process.usual_tasks(constants(scenario, CPU, torch.float64), 20)
            assert float(asked.double().mean()) == pytest.approx(float(expected.asking), rel=0.03)
            assert float(found[asked].mean()) == pytest.approx(float(expected.cycles), rel=0.02)
            variance = float(found.var())
            if arrivals == "bernoulli":
                assert set(found.unique().tolist()) == {0.0, 1.0}
                assert variance == pytest.approx(mean * (1 - mean), rel=0.02)
            elif arrivals == "poisson":
                assert variance == pytest.approx(mean, rel=0.03)
            else:  # on a third of the time, thrice as many then
                assert variance == pytest.approx(mean + 2 * mean**2, rel=0.05)
                both = (asked[1:] & asked[:-1]).double().mean() / asked.double().mean()
                busy = 1 - torch.tensor(-3 * mean).exp()
                assert float(both) == pytest.approx(float(2 / 3 * busy), rel=0.06)


def test_a_task_of_everybody_in_every_slot_leaves_the_draws_and_sizes_as_they_are() -> None:
    scenario = world(arrivals="every", load=None, slot_s=100.0, buffer_s=1e5)
    usual = replace(scenario, processes={})
    one, other = (run_episode(network_of(it), full, home_equal) for it in (scenario, usual))
    for name, mine, theirs in zip(one._fields, one, other, strict=True):
        assert torch.equal(mine, theirs) or name in MEASURED, name
    assert torch.equal(
        network_of(scenario).caching_view().past_requests, network_of(usual).caching_view().past_requests
    )


def test_what_is_drawn_depends_on_no_decision() -> None:
    scenario = world(load=1.2, sizes={"decisions_per_episode": 2})
    networks = [network_of(scenario), network_of(scenario)]
    policies = (home_equal, OFFLOADING_POLICIES["least_loaded_equal"](scenario, torch.Generator()))
    for policy, network in zip(policies, networks, strict=True):
        run_episode(network, full, policy)
    mine, theirs = (network.unfolding.memory["queues"]["tasks"] for network in networks)
    assert torch.equal(mine, theirs)
    assert not torch.equal(carried(networks[0])["backlog"], carried(networks[1])["backlog"])


# Work ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["kept", "dropped"])
def test_queues_are_those_of_a_twin_in_plain_python(late: str) -> None:
    slow = {"slow_servers": {"slow_part": 0.4, "slow_slots": 4.0, "slow_factor": 0.5}}
    chosen = {"load": 1.5, "buffer_s": 2.0, "slot_s": 0.5, "late": late, "dropped_s": 7.0}
    sizes = {"num_users": 7, "decisions_per_episode": 8}
    scenario = world(**chosen, sizes=sizes, further=slow)
    network = network_of(scenario, 1)
    bits, cycles, deadlines = scenario.input_bits, scenario.cycles, scenario.deadlines_s
    backlog, room, counts = [0.0] * 3, 2 * 20e9, dict.fromkeys(("arrived", "admitted", "dropped", "late"), 0)
    for slot in range(scenario.slots_per_episode):
        if network.frame_over:
            network.begin_frame(torch.tensor([[[True] * 10, [False] * 10, [True] * 10]]))
        view = network.offloading_view()
        assert view.backlog_s[0].tolist() == pytest.approx([work / 20e9 for work in backlog])  # type: ignore[attr-defined]
        number = network.unfolding.slot.more["tasks"][0].tolist()
        speed = [20e9 * one for one in network.unfolding.slot.more["server_speed"][0].tolist()]
        asked = network.requests[0].tolist()
        assert view.input_bits[0].tolist() == pytest.approx([n * bits[k] for n, k in zip(number, asked)])
        target = [(user * user + slot) % 3 for user in range(7)]
        band = [1.0 + (3 * user + slot) % 5 for user in range(7)]
        share = [band[u] / sum(band[v] for v in range(7) if target[v] == target[u]) for u in range(7)]
        allocation = Allocation(torch.tensor([target]), *[torch.tensor([share])] * 2)
        service = network.step(allocation)
        sent, latency = [0.0] * 7, [0.0] * 7
        for u, (n, k, s) in enumerate(zip(number, asked, target)):
            mine = share[u] / sum(share[v] for v in range(7) if target[v] == s and number[v]) if n else 1.0
            if n:
                rate = mine * scenario.bandwidth_hz * float(service.spectral_efficiency[0, u])
                sent[u] = n * bits[k] / rate
                there = backlog[s] / speed[s] + n * cycles[k] / (mine * speed[s])
                away = n * bits[k] / (4 * 1024**2) + n * cycles[k] / 4e9 + 0.1
                latency[u] = sent[u] + (away if s == 1 else there)
        left, taken = list(backlog), [False] * 7
        for s in (0, 2):
            users = sorted((u for u in range(7) if target[u] == s and number[u]), key=lambda u: sent[u])
            shut = False
            for u in users:
                work = number[u] * cycles[asked[u]]
                if late == "dropped" and latency[u] > deadlines[asked[u]]:
                    continue
                shut |= left[s] + work > room
                if not shut:
                    left[s] += work
                    taken[u] = True
        for u in range(7):
            drops = bool(number[u]) and target[u] != 1 and not taken[u]
            timely = not drops and latency[u] <= deadlines[asked[u]]
            assert float(service.latency[0, u]) == pytest.approx(7.0 if drops else latency[u], rel=1e-4)
            assert (bool(service.hit[0, u]), bool(service.on_time[0, u])) == (taken[u], timely)
            assert bool(service.asked[0, u]) == bool(number[u])
            counts["arrived"] += bool(number[u])
            counts["admitted"] += taken[u]
            counts["dropped"] += drops
            counts["late"] += bool(number[u]) and not drops and not timely
        backlog = [max(0.0, work - 0.5 * hz) for work, hz in zip(left, speed)]
    found = {name: int(carried(network)[name]) for name in counts}
    assert found == counts
    assert all(counts.values())


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    st.sampled_from(["bernoulli", "poisson", "bursts"]),
    st.floats(0.3, 1.0),
    st.floats(1.0, 4.0),
    st.sampled_from(["kept", "dropped"]),
    st.integers(0, 2**32 - 1),
)
def test_no_work_is_lost_and_none_appears(
    arrivals: str, tasks: float, buffer_s: float, late: str, seed: int
) -> None:
    chosen = {"arrivals": arrivals, "load": None, "tasks_per_slot": tasks, "buffer_s": buffer_s, "late": late}
    network = network_of(world(**chosen, sizes={"compute_hz": 8e9}), 4, seed)
    offered = torch.zeros(4, dtype=torch.float64)
    draws = torch.Generator().manual_seed(seed)
    while not network.episode_over:
        if network.frame_over:
            network.begin_frame(torch.rand(network.cache.shape, generator=draws) < 0.8)
        cycles = network.present.cycles_asked(network.requests)
        action = 2 * torch.rand(4, network.scenario.offloading_action_size, generator=draws) - 1
        service = network.step(decode_offloading(network.scenario, action))
        assert service.latency.isfinite().all()
        offered += (cycles * service.hit).sum(dim=1)
        now = carried(network)
        # Cycles are whole numbers, of which sums in double precision are exact.
        assert torch.equal(now["admitted_cycles"], offered)
        assert torch.equal(now["admitted_cycles"], now["served_cycles"] + now["backlog"].sum(dim=1))
        assert (now["backlog"] >= 0).all()
        assert (now["backlog"] <= now["room"]).all()
        assert (now["arrived"] >= now["admitted"] + now["dropped"]).all()
    assert (now["admitted"] > 0).all()


def test_permuting_users_permutes_what_they_get_and_leaves_the_backlogs() -> None:
    scenario, order = world(load=1.5, buffer_s=1.0, sizes={"num_users": 6}), torch.tensor([3, 0, 5, 1, 4, 2])
    action = torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = []
    for index in (torch.arange(6), order):
        network = network_of(scenario, 2)
        network.unfolding.serve()
        slot = network.unfolding.slot
        assert slot.fading is not None
        slot.requests, slot.positions, slot.fading = (
            one[:, index] for one in (slot.requests, slot.positions, slot.fading)
        )
        slot.more["tasks"] = slot.more["tasks"][:, index]
        network._constants = network._constants._replace(cells=network._constants.cells[index])
        network.unfolding.serve = lambda: None  # type: ignore[method-assign]
        network.begin_frame(full(network))
        service = network.step(decode_offloading(scenario, action[:, :, index].flatten(1)))
        found.append((service, carried(network)))
    (one, left), (other, left_then) = found
    for name in ("latency", "hit", "energy", "on_time"):
        torch.testing.assert_close(getattr(one, name)[:, order], getattr(other, name))
    assert bool(left["dropped"].any())
    for name, value in left.items():
        assert torch.equal(value, left_then[name]), name


def test_queues_go_on_from_a_saved_state_to_the_bit() -> None:
    scenario = world(arrivals="bursts", load=1.0, buffer_s=2.0)
    here, there = network_of(scenario), network_of(scenario, seed=1)

    def frame(network: EdgeNetwork) -> list[Tensor]:
        network.begin_frame(full(network))
        found = []
        while not network.frame_over:
            service = network.step(equal_shares(scenario, network.homes, torch.float32))
            found += [*service, network.requests, network.offloading_observation()]
        return [*found, *carried(network).values(), network.caching_view().requests]

    frame(here)
    there.load_state_dict(here.state_dict())
    for _ in range(3):
        for mine, theirs in zip(frame(here), frame(there), strict=True):
            assert torch.equal(mine, theirs)


def test_queues_compose_with_every_world_and_any_sizes_whatever_the_order_of_the_settings() -> None:
    worlds: dict[str, Any] = {
        name: {} for name in ("queues", "slow_servers", "moving_users", "handover", "correlated_channel")
    }
    worlds["drifting_requests"] = {"regimes": 3, "server_difference": 0.3}
    scenario = replace(
        Scenario.from_config("es2.yaml", "tight.yaml"), decisions_per_episode=2, processes=worlds
    )
    found = []
    for names in (list(scenario.processes), list(reversed(scenario.processes))):
        processes = {name: scenario.processes[name] for name in names}
        network = network_of(replace(scenario, processes=processes))
        episode = run_episode(network, lambda net: torch.zeros_like(net.cache), home_equal)
        assert list(network.unfolding.processes)[-1] == "queues"
        scored = [value for name, value in episode._asdict().items() if name not in MEASURED]
        found.append([*scored, *carried(network).values()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    published = EdgeNetwork(world(), "published", 2, generator=torch.Generator().manual_seed(0))
    assert run_episode(published, full, home_equal).latency.isfinite().all()
    ranges: dict[str, Any] = {
        "num_servers": {"low": 1, "high": 5},
        "num_users": {"low": 1, "high": 9},
        "num_services": {"low": 3, "high": 6},
        "popularity": "zipf",
        "compute_hz": {"low": 1e9, "high": 9e10},
    }
    drawn = network_of(Scenario.from_dict({**ranges, "processes": {"queues": {}}}))
    for _ in range(3):
        assert run_episode(drawn, full, home_equal).latency.isfinite().all()
        assert (carried(drawn)["room"].shape) == (3, drawn.scenario.num_servers)


def test_an_empty_battery_drops_the_tasks_of_those_alone_who_have_one() -> None:
    device = {"device": {"battery_j": 2.0, "empty_j": 1.9, "transmit_power_dbm": 40.0}}
    scenario = world(**PLAIN, arrivals="bernoulli", further=device)
    network = network_of(scenario)
    arrived = torch.zeros(3)
    network.begin_frame(full(network))
    while not network.frame_over:
        tasks = network.unfolding.slot.more["tasks"] > 0
        service = network.step(equal_shares(scenario, network.homes, network.dtype))
        assert torch.equal(service.asked, tasks)
        arrived += tasks.sum(dim=1)
    counts, dropped = carried(network), network.state.carried["device"]["dropped"]
    assert torch.equal(counts["arrived"].float(), arrived)
    assert 0 < float(dropped.sum()) < float(arrived.sum())
    assert torch.equal(counts["admitted"] + dropped, counts["arrived"])
    assert not counts["late"].any()


# Users without a task ------------------------------------------------------------------------------------------------


def test_users_without_a_task_count_for_nothing() -> None:
    scenario = world(**PLAIN, arrivals="bernoulli")
    network = network_of(scenario, 8)
    past = network.caching_view().past_requests.sum(dim=1) / (1000 * 30)
    torch.testing.assert_close(past, torch.full((8,), 0.7), rtol=0, atol=0.01)
    assert (network.caching_view().users == 21).all()
    asked = []

    def note(slot: Any) -> None:
        asked.append(network.state.request_counts.sum(dim=1))

    episode = run_episode(network, full, home_equal, note)
    idle = ~episode.asked
    assert 0.25 < float(idle.double().mean()) < 0.35
    assert torch.equal(torch.stack(asked), episode.asked.sum(dim=2).cumsum(dim=0).float())
    assert not episode.hit[idle].any()
    assert not episode.latency[idle].any()
    assert not episode.energy[idle].any()
    scores = episode_scores(episode)
    assert (scores.hit_ratio == 1).all()
    torch.testing.assert_close(
        scores.on_time, (episode.on_time & episode.asked).sum((0, 2)) / episode.asked.sum((0, 2))
    )
    assert torch.equal(network.state.hit_counts.sum((1, 2)), network.state.request_counts.sum(1))


def test_a_slot_in_which_nobody_asks_is_worth_nothing_and_has_no_ratio() -> None:
    sizes = {"num_users": 2, "decisions_per_episode": 1, "slots_per_decision": 3}
    network = network_of(world(load=None, tasks_per_slot=1e-3, sizes=sizes), 2)
    for policy in OFFLOADING_POLICIES.values():
        network.begin_frame(full(network))
        decide = policy(network.scenario, torch.Generator().manual_seed(0))
        while not network.frame_over:
            assert bool(network.present.idle(network.requests).all())
            service = network.step(decide(network))
            for value in slot_scores(service, torch.zeros(2)):
                assert not value.any()
            assert not offloading_reward(service.latency).any()
        network.reset()


def test_files_and_figures_of_episodes_are_of_tasks(tmp_path: Path) -> None:
    network = network_of(world(**PLAIN, arrivals="bernoulli"), 2)
    episode = run_episode(network, lambda net: full(net) & (torch.arange(10) < 5), home_equal)
    write_decisions(tmp_path, episode, network)
    with (tmp_path / "decisions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == int(episode.asked.sum()) < episode.asked.numel()
    timely = [int(row["on_time"]) for row in rows]
    assert 0 < sum(timely) < len(rows)
    board = Scoreboard("it")
    board.add(episode)
    by_episode = [[int(row["on_time"]) for row in rows if row["episode"] == str(one)] for one in range(2)]
    assert len(by_episode[0]) != len(by_episode[1])
    expected = sum(sum(one) / len(one) for one in by_episode) / 2
    assert float(board.values()["on_time"]) == pytest.approx(expected)
    held = run_episode(network, full, home_equal)
    board = Scoreboard("it")
    board.add(held)
    assert float(board.values()["hit_ratio"]) == 1


def test_a_latency_that_is_no_number_is_no_user_without_a_task() -> None:
    latency = torch.tensor([[1.0, torch.nan], [0.0, torch.nan]])
    assert tasks(latency).tolist() == [2.0, 1.0]
    for value in (offloading_reward(latency), mean_of_tasks(latency, latency)):
        assert value.isnan().all()


def test_references_know_how_long_tasks_wait_and_the_least_loaded_server_is_that_of_the_least_backlog() -> (
    None
):
    scenario = world(sizes={"num_users": 3})
    network = network_of(scenario, 1)
    network.begin_frame(full(network))
    network.unfolding.slot.more["tasks"] = torch.ones(1, 3)
    network.unfolding.memory["queues"]["tasks"] = torch.ones(1, 3)
    carried(network)["backlog"] = torch.tensor([[0.0, 60e9, 80e9]], dtype=torch.float64)
    assert network.present.waiting_s.tolist() == [[0.0, 3.0, 4.0]]
    for name in ("best_known", "least_loaded_equal", "least_loaded_sqrt", "genetic"):
        policy = OFFLOADING_POLICIES[name](scenario, torch.Generator().manual_seed(0))
        assert policy(network).server.tolist() == [[0, 0, 0]], name
    slot = (scenario, network.cache, network.requests, network.positions, torch.ones(1, 3))
    assert any("leaves less work behind" in note for note in References(scenario, "strict").notes)
    waiting = lower_bound(*slot, table=network.present)
    alone = lower_bound(*slot, table=network.exact)
    assert float(waiting) >= float(alone)
    carried(network)["backlog"] = torch.full((1, 3), 20e9, dtype=torch.float64)
    torch.testing.assert_close(lower_bound(*slot, table=network.present), alone + 3)


def test_a_hidden_speed_is_not_told_by_the_backlog_that_views_show() -> None:
    slow = {"slow_servers": {"slow_part": 0.9, "slow_factor": 0.5, "out_part": 0.0}}
    network = network_of(world(further=slow), 4)
    carried(network)["backlog"] = torch.full((4, 3), 40e9, dtype=torch.float64)
    process = network.unfolding.processes["slow_servers"]
    assert isinstance(process, SlowServers)
    assert (network.offloading_view().backlog_s == 2).all()  # type: ignore[attr-defined]
    speed = network.unfolding.slot.more["server_speed"].double()
    torch.testing.assert_close(network.present.waiting_s, 2 / speed)


def model_of(scenario: Scenario, transitions: OffloadingTransitions) -> SetWorldModel:
    made = SetWorldModel.made_for(
        scenario,
        "strict",
        SetWorldModelSettings(ensemble_size=2, change_weight=0.1, discount=0.9),
        torch.Generator().manual_seed(0),
    )
    made.observe(transitions)
    return made


def transitions_of(scenario: Scenario) -> OffloadingTransitions:
    network = network_of(scenario, 6)
    network.begin_frame(full(network))
    view = network.offloading_view()
    action = torch.rand(6, scenario.offloading_action_size, generator=torch.Generator().manual_seed(0)) - 0.5
    service = network.step(decode_offloading(scenario, action))
    after = network.offloading_view()
    return OffloadingTransitions(view, action, offloading_reward(service.latency), after, service.latency)


def test_users_without_a_task_change_nothing_of_what_a_model_learns_and_plans() -> None:
    scenario = world(**PLAIN, sizes={"num_users": 6})
    seen = transitions_of(scenario)
    idle = ~seen.view.asking  # type: ignore[operator, union-attr]
    assert bool(idle.any())
    other = seen.clone()
    other.latency[idle] = 123.0
    other.action.view(6, 3, 6)[:, 1:][idle.unsqueeze(1).expand(-1, 2, -1)] = 0.7
    for view in (other.view, other.next_view):
        gone = ~view.asking  # type: ignore[operator, union-attr]
        view.spectral_efficiency[gone] = 0.3  # type: ignore[union-attr]
        view.requests[gone] = 0  # type: ignore[union-attr]
    one, two = (model_of(scenario, it) for it in (seen, other))
    for mine, theirs in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs)
    losses = [one.loss(it) for it in (seen, other)]
    for mine, theirs in zip(*losses, strict=True):
        torch.testing.assert_close(mine, theirs)
    losses[0].total.backward()
    assert all(value.grad.isfinite().all() for value in one.parameters() if value.grad is not None)
    demand = one.pair_demands(seen.view)
    assert not demand.transpose(2, 3)[:, idle].any()
    left = one.carried_work(seen.view)
    assert left is not None
    assert not left.work[:, idle].any()
    assert left.work[:, ~idle].all()
    plans = [plan_by_sums(one, it.view, None) for it in (seen, other)]
    torch.testing.assert_close(plans[0].share[~idle], plans[1].share[~idle])
    assert torch.equal(plans[0].target[~idle], plans[1].target[~idle])
    torch.testing.assert_close(plans[0].prediction.reward_mean, plans[1].prediction.reward_mean)
    assert (plans[0].prediction.mean[:, idle] < -15).all()


def test_a_plan_for_users_who_ask_is_that_of_a_network_without_the_others() -> None:
    scenario = world(**PLAIN, sizes={"num_users": 6})
    seen = transitions_of(scenario)
    model = model_of(scenario, seen)
    for row in range(6):
        view: Any = seen.view[row : row + 1]
        who = view.asking[0]
        alone = view.map(lambda value, who=who: value[:, who] if value.shape[1:2] == (6,) else value)
        step, alone_step = (
            model.step(model.start(one, 1), action)[0]
            for one, action in (
                (view, seen.action[row : row + 1]),
                (alone, seen.action[row].view(3, 6)[:, who].reshape(1, -1)),
            )
        )
        torch.testing.assert_close(step.mean[:, :, who], alone_step.mean)
        torch.testing.assert_close(step.reward_mean, alone_step.reward_mean, rtol=1e-4, atol=0)


def test_what_is_believed_of_servers_goes_by_tasks_alone() -> None:
    scenario = world(**PLAIN, sizes={"num_users": 6})
    seen = transitions_of(scenario)
    view: Any = seen.view
    idle = ~view.asking
    allocation = decode_offloading(scenario, seen.action)
    found = []
    for value in (0.0, torch.nan, 99.0):
        adaptation = Adaptation(model_of(scenario, seen), "all")
        measured = _latencies(seen.latency.masked_fill(idle, value), view)
        assert measured.isnan().equal(idle)
        adaptation.learn(Lived(view, allocation, measured))
        assert adaptation.belief is not None
        found.append(adaptation.belief.mean)
        assert found[-1].isfinite().all()
        assert torch.equal(found[-1], found[0])
        assert all(value.isfinite().all() for value in adaptation.model.parameters())
    assert found[0].any()


def test_an_actor_over_sets_decides_for_those_alone_who_have_a_task() -> None:
    scenario = Scenario(num_servers=3, num_users=6)
    kind = type("Idle", (OffloadingView,), {"idle_users": True})
    view = network_of(scenario, 2).offloading_view()
    sizes = {name: getattr(view, name).clone() for name in ("input_bits", "cycles")}
    for value in sizes.values():
        value[0, 2:] = 0
        value[1] = 0
    idle = kind(**{**dict(view.tensors()), **sizes})
    seen, order = SlotNumbers.of(idle)
    assert seen.present.tolist() == [[True] * 2 + [False] * 4, [False] * 6]
    assert set(order[0, :2].tolist()) == {0, 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actor, critic = SlotActor(), SlotCritic()
        target, share = actor.act(seen)
    assert not share[~seen.present].any()
    for value in (*actor.judge(seen, target, share), critic(seen)):
        assert value.isfinite().all()


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        ({"load": 0.0}, "load must be"),
        ({"load": 11.0}, "load must be"),
        ({"load": None}, "load or tasks_per_slot must be given, and the other be null, got neither"),
        ({"load": 0.5, "tasks_per_slot": 1.0}, "and the other be null, got 0.5 and 1"),
        ({"load": None, "tasks_per_slot": 101.0}, "tasks_per_slot must be"),
        ({"slot_s": 0.0}, "slot_s must be"),
        ({"buffer_s": 0.5}, "buffer_s must be at least slot_s = 1, the work of a slot, got 0.5"),
        ({"dropped_s": -1.0}, "dropped_s must be"),
        ({"on_slots": 0.5}, "on_slots must be"),
        ({"off_slots": float("inf")}, "off_slots must be"),
        ({"arrivals": "often"}, "arrivals"),
        ({"late": "never"}, "late"),
        ({"arrivals": "every"}, "load must be null with arrivals every"),
        ({"arrivals": "every", "load": None, "tasks_per_slot": 2.0}, "tasks_per_slot must be null"),
        ({"arrivals": "bernoulli", "load": None, "tasks_per_slot": 1.5}, "must be at most 1"),
        ({"arrivals": "bernoulli", "load": 2.0}, "load must be at most 0.926 with arrivals bernoulli"),
        ({"further": {"moving_users": {"slot_s": 2.0}}}, "must agree on slot_s, got 2 of moving_users and 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(chosen: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        network_of(world(**chosen))
    assert "\n" not in str(caught.value)


# References over many slots -------------------------------------------------------------------------------------------


def short_of_compute(users: int, tasks_per_slot: float, compute_hz: float) -> Scenario:
    """Episodes of three slots in one frame, with a server and, where nothing is cached, a way to the cloud."""
    sizes = {"num_servers": 2, "num_users": users, "slots_per_decision": 3, "decisions_per_episode": 1}
    queues = {"load": None, "tasks_per_slot": tasks_per_slot, "buffer_s": 1000.0}
    return world(**queues, sizes={**sizes, "compute_hz": compute_hz})


def first_alone(network: EdgeNetwork) -> Tensor:
    """The first server holds everything, others nothing."""
    cache = full(network)
    cache[:, 1:] = False
    return cache


def cost_of(network: EdgeNetwork, offloading: Any) -> float:
    """Latency of an episode, summed over users and slots."""
    return float(run_episode(network, first_alone, offloading).latency.sum())


def least_of_all(scenario: Scenario, seed: int) -> float:
    """The same of the best of all targets, with square-root shares for the fading to come."""
    network = network_of(scenario, 1, seed)
    network.reset()
    start = network.state_dict()

    def best(slot: int) -> float:
        if network.episode_over:
            return 0.0
        before, found = network.state_dict(), []
        fading, table = coming_fading(network), network.present
        seen = (scenario, network.cache, network.requests, network.positions, fading)
        problem = offloading_problem(*seen, table=table)
        for choice in itertools.product(range(scenario.num_servers), repeat=scenario.num_users):
            served = network.step(square_root_shares(problem, torch.tensor([choice]), network.dtype))
            found.append(float(served.latency.sum()) + best(slot + 1))
            network.load_state_dict(before)
        return min(found)

    network.load_state_dict(start)
    network.begin_frame(first_alone(network))
    return best(0)


@pytest.mark.unchecked
def test_a_clairvoyant_plan_is_near_the_best_of_all_and_below_what_looks_at_one_slot() -> None:
    scenario = short_of_compute(2, 1.0, 1e9)
    found: dict[str, list[float]] = {"clairvoyant": [], "hindsight": [], "best": []}
    for seed in (1, 3, 5):
        for name in ("clairvoyant", "hindsight"):
            policy = OFFLOADING_POLICIES[name](scenario, torch.Generator())
            network = network_of(scenario, 1, seed)
            found[name].append(cost_of(network, policy))
        network = network_of(scenario, 1, seed)
        found["best"].append(least_of_all(scenario, seed))
    for plan, slot, best in zip(*found.values(), strict=True):
        assert best * (1 - 1e-5) <= plan <= slot * (1 + 1e-5)
    total = {name: sum(costs) for name, costs in found.items()}
    assert total["clairvoyant"] <= 1.01 * total["best"]
    assert total["hindsight"] >= 1.02 * total["best"]


def test_looking_at_slots_to_come_changes_nothing_and_shows_what_will_come() -> None:
    network = network_of(world(arrivals="bursts", further={"slow_servers": {}}), 2)
    network.begin_frame(full(network))
    coming = network.unfolding.coming(3)
    for slot in coming:
        changed = network.changed.clone()
        assert torch.equal(network.unfolding.coming(2)[0].fading, slot.fading)
        assert torch.equal(network.changed, changed)
        assert torch.equal(network.requests, slot.requests)
        for name in ("tasks", "server_speed"):
            assert torch.equal(network.unfolding.slot.more[name], slot.more[name])
        network.step(home_equal(network))


@pytest.mark.unchecked
def test_a_clairvoyant_policy_plans_anew_in_every_episode_and_for_other_caches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario = world(sizes={"num_users": 4, "slots_per_decision": 2, "decisions_per_episode": 2})

    def caching(network: EdgeNetwork) -> Tensor:
        cache = full(network)
        cache[:, network.decision % 3] = False
        return cache

    made: list[tuple[int, int]] = []
    plan = planned

    def counted(network: EdgeNetwork, slots: list[Slot], plans: int) -> list[Allocation]:
        made.append((network.slot, len(slots)))
        return plan(network, slots, plans)

    monkeypatch.setattr("hadrl_lightning.baselines.clairvoyant.planned", counted)
    kept, network = ClairvoyantPolicy(window=4, plans=2), network_of(scenario, 2, 5)
    again = network_of(scenario, 2, 5)
    for _ in range(2):
        played = run_episode(network, caching, kept)
        assert made == [(0, 4), (2, 2)]
        anew = run_episode(again, caching, ClairvoyantPolicy(window=4, plans=2))
        assert torch.equal(played.latency, anew.latency)
        made.clear()
    network.reset()
    network.begin_frame(full(network))
    kept(network)  # and this episode is left where it is
    for _ in range(2):
        network.reset()
        network.begin_frame(full(network))
        network.step(home_equal(network))
        kept(network)
    assert made == [(0, 4), (1, 3), (1, 3)]


def test_a_clairvoyant_policy_looks_at_one_slot_where_nothing_carries_over() -> None:
    scenario = Scenario.from_config("es2.yaml")
    network = network_of(scenario, 2)
    network.begin_frame(full(network))
    for one, other in zip(ClairvoyantPolicy()(network), hindsight_policy(network), strict=True):
        assert torch.equal(one, other)


def empty_slots(scenario: Scenario, num_envs: int, seed: int) -> list[EmptySlot]:
    slots: list[EmptySlot] = []

    def note(network: EdgeNetwork) -> Allocation:
        slots.append(empty_slot(network))
        return home_equal(network)

    run_episode(network_of(scenario, num_envs, seed), first_alone, note)
    return slots


def least_by_hand(slots: list[EmptySlot], queues: Queues, row: int) -> float:
    """The least cost over all targets of all slots, in plain numbers: nothing is dropped."""
    users, servers = slots[0].brought.shape[1:]
    choices = list(itertools.product(range(servers), repeat=users))

    def best(slot: int, left: list[float]) -> float:
        if slot == len(slots):
            return 0.0
        now, found = slots[slot], []
        hz, brought = now.compute_hz[row].tolist(), now.brought[row].tolist()
        alone = summed_latency(now.problem.rows([row] * len(choices)), torch.tensor(choices)).tolist()
        for choice, cost in zip(choices, alone, strict=True):
            after = list(left)
            for user, server in enumerate(choice):
                cost += left[server] / hz[server] * (brought[user][server] > 0)
                after[server] += brought[user][server]
            after = [max(work - queues.slot_s * speed, 0.0) for work, speed in zip(after, hz, strict=True)]
            found.append(cost + best(slot + 1, after))
        return min(found)

    return best(0, [0.0] * servers)


@pytest.mark.unchecked
@pytest.mark.parametrize(("cases", "near"), [(4, 0.95), (1, 0.9)])  # of empty and full queues, or the chord
def test_no_decisions_get_below_the_bound_of_an_episode(
    cases: int, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hadrl_lightning.baselines.carried.MOST_CASES", cases)
    scenario = short_of_compute(3, 2.0, 2e9)
    slots, queues = empty_slots(scenario, 4, 0), Queues(**scenario.processes["queues"])
    best = torch.tensor([least_by_hand(slots, queues, row) for row in range(4)], dtype=torch.float64)
    alone = torch.stack([relaxed_assignment(one.problem).bound for one in slots]).sum(dim=0)
    bound = carried_bound(slots, queues, scenario.preferences, 10_000.0, 3 * best)
    assert bool((bound <= best * (1 + 1e-9)).all())
    assert bool((bound >= near * best).all())
    assert bool((alone < 0.75 * best).all())  # each slot by itself, with empty queues


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("queues", "further", "weights"),
    [
        ({}, {}, {}),
        (
            {"buffer_s": 3.0, "tasks_per_slot": 2.0},
            {"slow_servers": {"slow_factor": 0.2, "slow_part": 0.5}},
            {},
        ),
        ({"late": "dropped"}, {"device": {}}, {"missed": 2.0}),
        (None, {"device": {"battery_j": 5.0, "charge_w": 2.0, "device_hz": 2e9}}, {"energy_j": 1.0}),
    ],
)
def test_no_decisions_of_networks_get_below_the_lower_bound(
    queues: dict[str, Any] | None, further: dict[str, Any], weights: dict[str, float]
) -> None:
    sizes = {"num_users": 4, "num_servers": 2, "slots_per_decision": 4, "decisions_per_episode": 2}
    base = replace(Scenario.from_config("es3.yaml"), **sizes, compute_hz=2e9)
    processes = {**({} if queues is None else {"queues": {**PLAIN, **queues}}), **further}
    scenario = replace(base, processes=processes, preferences=Preferences(**weights))
    network = network_of(scenario, 8)
    slots: list[EmptySlot] = []

    def note(network: EdgeNetwork) -> Allocation:
        slots.append(empty_slot(network))
        return best_known_policy(network)

    costs = [slot_costs(run_episode(network, first_alone, note), scenario.preferences).sum(dim=0)]
    made = network.unfolding.processes
    bound = carried_bound(slots, carried_over(made), scenario.preferences, 10.0, 3 * costs[0].double())
    for policy in (ClairvoyantPolicy(window=8, plans=5), home_equal):
        again = run_episode(network_of(scenario, 8), first_alone, policy)
        costs.append(slot_costs(again, scenario.preferences).sum(dim=0))
    for cost in costs:
        assert bool((bound <= cost.double() * (1 + 1e-6)).all())
    assert float(bound.sum()) > 0.2 * float(costs[0].sum())
    stream = EpisodeStream(scenario, "strict", 8, 8, 0, Use.TEST_NETWORKS)
    assert torch.tensor(bounds(stream, first_alone)).shape == (8,)


def test_the_lower_bound_says_that_it_knows_nothing_of_what_ones_own_process_carries_over() -> None:
    class Own(SlowServers):
        carries_work = True

    with pytest.raises(
        HadrlError, match=r"^processes must be queues or device for lower-bound, got own, which"
    ):
        carried_over({"queues": Queues(), "own": Own()})


@pytest.mark.parametrize("names", [("slow_servers", "queues"), ("queues", "slow_servers")])
def test_a_server_that_drops_its_tasks_is_known_by_that_to_be_slow(names: tuple[str, str]) -> None:
    chosen = {
        "slow_servers": {"slow_part": 0.4, "slow_slots": 4.0, "telemetry": "used"},
        "queues": {"load": 1.5, "late": "dropped"},
    }
    base = Scenario.from_config("es3.yaml")
    network = network_of(replace(base, processes={name: chosen[name] for name in names}))
    dropped_all = 0
    while not network.episode_over:
        if network.frame_over:
            network.begin_frame(full(network))
        allocation = home_equal(network)
        service = network.step(allocation)
        computed, came = torch.zeros(2, 3, 3, dtype=torch.long)
        computed.scatter_add_(1, allocation.server, service.hit.long())
        came.scatter_add_(1, allocation.server, service.asked.long())
        fresh = network.state.carried["slow_servers"]["slowdown_age"] == 0
        assert torch.equal(fresh, came > 0)
        dropped_all += int(((came > 0) & (computed == 0)).sum())
    assert dropped_all > 0
