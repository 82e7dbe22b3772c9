"""Learning while deployed: beliefs about servers, weights that go on learning, and forgetting."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hadrl_lightning.agents import HADRL
from hadrl_lightning.agents.belief import CHANGED, DRIFT, TRUSTED, Belief, Measured
from hadrl_lightning.agents.settings import SetWorldModelSettings
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import Allocation, EdgeNetwork, OffloadingView, log_weights, weighted_shares

TIGHT = Scenario.from_config("es3.yaml", "tight.yaml")


def measured(
    part: list[list[float]], latency: list[float], target: list[int] | None = None, variance: float = 0.01
) -> Measured:
    """Of one network: parts of each user's latency as expected, s, and what was measured."""
    users = len(latency)
    return Measured(
        torch.tensor([target or [0] * users]),
        torch.tensor([part]),
        torch.full((1, users), variance).log(),
        torch.tensor([latency]).log(),
    )


def agent(scenario: Scenario = TIGHT, **settings: Any) -> HADRL:
    made = HADRL.load_from_checkpoint("hadrl.ckpt", scenario=scenario, **settings)
    made.keep_quiet()
    return made


def begun(scenario: Scenario, networks: int = 2, seed: int = 1) -> EdgeNetwork:
    network = EdgeNetwork(scenario, num_envs=networks, generator=torch.Generator().manual_seed(seed))
    network.begin_frame(agent(scenario).place(network.caching_view()))
    return network


def served(network: EdgeNetwork, decision: Allocation, slow: float = 1.0) -> Tensor:
    """Latencies of the coming slot, where the last server has another compute than it shows."""
    compute = network.table.compute_hz.clone()
    compute[-1] *= slow
    slot = network.unfolding.foreseen()
    assert slot.fading is not None
    table = network.table._replace(compute_hz=compute)
    fields = (network.cache, slot.requests, slot.positions, slot.fading, decision)
    return network.rules.serve(table, *fields).latency


# --- beliefs


def test_what_is_believed_of_a_single_part_is_the_mean_weighted_by_precision() -> None:
    belief = Belief(1, 1, 1, torch.zeros(()))
    belief.update(measured([[2.0]], [2.1]))
    prior = 1 / (TRUSTED**2 + DRIFT**2)
    expected = 100 * torch.tensor(2.1 / 2).log() / (prior + 100)
    assert float(belief.mean) == pytest.approx(float(expected), rel=1e-4)
    assert float(belief.precision) == pytest.approx(prior + 100)
    assert belief.num_surprises == 0


def test_a_surprise_is_believed_at_once_and_a_deep_fade_is_not() -> None:
    belief = Belief(1, 2, 1, torch.zeros(()))
    calm = measured([[2.0]] * 6, [2.0] * 6, [0, 0, 0, 1, 1, 1])
    belief.update(calm)
    belief.update(measured([[2.0]] * 6, [2.0, 2.0, 2.0, 20.0, 20.0, 20.0], [0, 0, 0, 1, 1, 1]))
    assert belief.mean.exp().flatten().tolist() == pytest.approx([1.0, 10.0], rel=0.01)
    assert belief.num_surprises == 1
    one = Belief(1, 1, 1, torch.zeros(()))
    one.update(measured([[2.0]] * 12, [2.0] * 11 + [20.0]))
    assert abs(float(one.mean)) < 0.05
    assert one.num_surprises == 0


def test_parts_are_told_apart_by_users_who_wait_for_other_parts() -> None:
    belief = Belief(1, 1, 2, torch.zeros(()))
    part = [[1.0, 0.1], [0.1, 1.0], [0.5, 0.5], [0.2, 0.8]]
    latency = [one + 4 * other for one, other in part]
    for _ in range(3):
        belief.update(measured(part, latency, variance=0.0025))
    assert belief.mean[0, 0].exp().tolist() == pytest.approx([1.0, 4.0], rel=0.1)


def test_what_was_not_measured_and_servers_without_users_change_nothing_that_is_believed() -> None:
    belief = Belief(1, 2, 1, torch.zeros(()))
    belief.update(measured([[2.0]] * 3, [5.0, float("nan"), float("nan")], [0, 1, 1]))
    assert float(belief.mean[0, 0]) > 0
    assert float(belief.mean[0, 1]) == 0
    assert float(belief.precision[0, 1]) < 1 / TRUSTED**2  # but it drifts
    assert float(belief.precision[0, 0]) > 1 / CHANGED**2


def test_what_is_believed_of_a_network_does_not_depend_on_those_beside_it() -> None:
    draw = torch.Generator().manual_seed(0)
    part = torch.rand(3, 7, 2, generator=draw) + 0.1
    target = torch.randint(2, (3, 7), generator=draw)
    latency = (part.sum(dim=2) * (1 + 4 * torch.rand(3, 7, generator=draw))).log()
    variance = torch.full((3, 7), -4.0)
    all_, each = Belief(3, 2, 2, part), [Belief(1, 2, 2, part) for _ in range(3)]
    all_.update(Measured(target, part, variance, latency))
    for row, belief in enumerate(each):
        one = slice(row, row + 1)
        belief.update(Measured(target[one], part[one], variance[one], latency[one]))
        torch.testing.assert_close(belief.mean, all_.mean[one])


def test_shares_are_those_of_the_actions_that_they_are_read_as() -> None:
    server = torch.tensor([[0, 0, 1, 1, 1]])
    action = torch.tensor([[1.0, -0.5, 0.2, 1.0, -1.0]])
    share = weighted_shares(server, action, 2)
    torch.testing.assert_close(log_weights(server, share, 2), action)


# --- agents that learn


def test_an_agent_that_learns_avoids_a_server_that_has_slowed_down_and_knows_it_again_when_it_forgets() -> (
    None
):
    scenario = Scenario.from_config("es3.yaml")  # all servers hold everything
    network, learning = begun(scenario), agent(scenario)
    view = network.offloading_view()
    before = learning.decide(view)
    learning.learn(view, before, served(network, before, slow=0.1))
    after = learning.decide(view)
    assert (after.server == 2).sum() < 0.7 * (before.server == 2).sum()
    both = [float(served(network, one, slow=0.1).sum()) for one in (before, after)]
    assert both[1] < 0.7 * both[0]
    learning.forget()
    assert all(torch.equal(*pair) for pair in zip(learning.decide(view), before, strict=True))


def test_caches_go_by_what_is_believed_of_servers_and_change_where_plainly_more_is_saved() -> None:
    """Those that are held when a server slows down cost about a sixth more than the best ones from then on."""
    network, learning = begun(TIGHT, networks=4), agent()
    view = network.offloading_view()
    decision = learning.decide(view)
    learning.learn(view, decision, served(network, decision, slow=0.1))
    held, found = network.cache, learning.place(network.caching_view())
    assert bool((held != found).flatten(1).any(dim=1).all())
    caching: Any = learning.caching_agent
    seen = network.caching_view()
    factor = learning._adaptation.belief.mean  # type: ignore[union-attr]
    frames = caching.frames(seen, caching.demand.now(seen), None, factor)
    uniform = torch.rand(200, TIGHT.num_users, generator=torch.Generator().manual_seed(0))
    before, after = (frames.on_slots(torch.arange(4), cache, uniform).mean(dim=1) for cache in (held, found))
    assert bool((after < 0.93 * before).all())
    learning.forget()
    assert torch.equal(learning.place(network.caching_view()), held)


def test_an_agent_learns_from_half_of_the_latencies_and_from_other_users_in_every_slot() -> None:
    learning = agent()
    for users in (30, 17, 40):
        scenario = replace(TIGHT, num_users=users)
        network = begun(scenario, seed=users)
        view = network.offloading_view()
        decision = learning.decide(view)
        latency = served(network, decision, slow=0.1)
        latency[:, ::2] = torch.nan
        learning.learn(view, decision, latency)
    factor = learning._adaptation.belief.mean.exp()  # type: ignore[union-attr]
    assert factor[:, :2, :2].log().abs().max() < 0.3
    assert bool((factor[:, 2].amax(dim=1) > 5).all())


def test_weights_that_learn_are_given_back_to_the_bit_and_part_of_no_copy(tmp_path: Path) -> None:
    network, learning = begun(TIGHT), agent()
    before = {name: value.clone() for name, value in learning.state_dict().items()}
    view = network.offloading_view()
    decision = learning.decide(view)
    learning.learn(view, decision, served(network, decision, slow=0.1), "all")
    changed = [name for name, value in learning.named_parameters() if not torch.equal(value, before[name])]
    assert any(name.startswith("world_model.resources") for name in changed)
    learning.learn(view, decision, served(network, decision, slow=0.1))  # in the same way as before
    assert learning._adaptation is not None
    assert learning._adaptation.adapt == "all"
    learning.save_weights(tmp_path / "file.ckpt")
    for copy in (learning.for_scenario(TIGHT), HADRL.from_checkpoint(tmp_path / "file.ckpt")):
        assert all(torch.equal(value, before[name]) for name, value in copy.named_parameters())
    learning.forget()
    assert all(torch.equal(value, before[name]) for name, value in learning.state_dict().items())


@pytest.mark.parametrize("adapt", ["heads", "all"])
def test_in_networks_where_nothing_changes_an_agent_that_learns_plays_about_as_well(adapt: str) -> None:
    scenario = replace(TIGHT, decisions_per_episode=2, slots_per_decision=3)

    def latency(**settings: Any) -> float:
        network = EdgeNetwork(scenario, num_envs=2, generator=torch.Generator().manual_seed(4))
        playing = agent(scenario, **settings)
        episode = playing.play(network)
        assert playing._adaptation is None  # what was learnt in an episode is forgotten after it
        return float(episode.latency.sum())

    assert latency(adapt=adapt) == pytest.approx(latency(), rel=0.01)


def test_a_controller_of_one_network_learns_from_a_plain_list() -> None:
    network, learning = begun(TIGHT, networks=1), agent()
    view = network.offloading_view()
    decision = learning.decide(view)
    learning.learn(view, decision, [float("nan")] * 29 + [1.0])
    assert learning._adaptation is not None


def _lived(users: int = 30) -> tuple[OffloadingView, Allocation, Tensor]:
    network = begun(replace(TIGHT, num_users=users))
    view = network.offloading_view()
    decision = agent().decide(view)
    return view, decision, served(network, decision)


def test_what_can_not_be_learnt_from_is_refused_in_a_line() -> None:
    view, decision, latency = _lived()
    learning = agent()
    with pytest.raises(HadrlError, match=r"latencies must have shape \[2, 30\], got \[2, 29\]"):
        learning.learn(view, decision, latency[:, 1:])
    with pytest.raises(HadrlError, match="latencies must be above 0 and finite, or NaN"):
        learning.learn(view, decision, -latency)
    with pytest.raises(HadrlError, match="adapt must be heads or all to learn, got 'off'"):
        learning.learn(view, decision, latency, "off")
    with pytest.raises(ValueError, match="server"):
        learning.learn(view, decision._replace(server=decision.server + 3), latency)
    learning.learn(view, decision, latency)
    with pytest.raises(HadrlError, match=r"that the agent learns of, 2 with 3 servers .*, got 1 with 3"):
        learning.decide(view[:1])
    with pytest.raises(HadrlError, match=r"bandwidth_share must sum to 1 on every server .*, got 0\.5"):
        learning.learn(view, decision._replace(bandwidth_share=decision.bandwidth_share / 2), latency)
    with pytest.raises(HadrlError, match="latencies must be numbers, NaN where nothing was measured, got"):
        learning.learn(view, decision, [[None] * 30] * 2)
    plain = SetWorldModelSettings(encoder="deep_sets")
    with pytest.raises(
        HadrlError, match="adapt must be off unless fast_level is set with encoder shared_resources"
    ):
        HADRL(TIGHT, set_world_model=plain, slow_level="set", adapt="heads")
