"""Views and transitions: rows of named tensors, and how a field that is added reaches everything by itself."""

import math
import pickle
from dataclasses import dataclass, field, replace

import pytest
import torch
from jaxtyping import Float
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader

from hadrl_lightning.agents import SetWorldModel, SetWorldModelSettings, WorldModel, WorldModelSettings
from hadrl_lightning.agents.views import check_caching_view, check_offloading_view
from hadrl_lightning.data import CachingTransitions, OffloadingTransitions, ReplayBuffer, TrainingBatch
from hadrl_lightning.data.passes import member_batches
from hadrl_lightning.envs.bounds import vector_bounds
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.nn.set_encoder import SMALL as SMALL_NUMBER
from hadrl_lightning.nn.tokens import TokenFields
from hadrl_lightning.planning import CEMPlanner, PlannerSettings
from hadrl_lightning.scenario import GIB, Physics, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    CachingView,
    EdgeNetwork,
    OffloadingView,
    fields_of,
    from_vector,
    rules,
    serve,
    to_vector,
    vector_size,
)
from hadrl_lightning.simulator.fields import SERVER, USER, number
from hadrl_lightning.simulator.rows import concatenated, stacked
from tests.agents.test_set_world_model import SCENARIO, generator, transitions

DATA = transitions(slots=1, envs=6)
MEMBERS = 2
SMALL = SetWorldModelSettings(ensemble_size=MEMBERS, hidden_size=4, weight_size=4, num_resources=1)


# --- rows ----------------------------------------------------------------------------------------------------------


def test_what_is_done_to_rows_is_done_to_all_tensors_and_keeps_their_kind() -> None:
    assert [name for name, _ in DATA.tensors()][:2] == ["view.cache", "view.free_cache_bits"]
    assert [name for name, _ in DATA.tensors()][-3:] == [
        "next_view.cloud_compute_hz",
        "next_view.cloud_delay_s",
        "latency",
    ]
    part = DATA[torch.tensor([[4, 0], [1, 1]])]
    assert isinstance(part, OffloadingTransitions)
    assert type(part.view) is OffloadingView
    assert part.view.requests.shape == (2, 2, 6)
    assert torch.equal(part.latency[0, 1], DATA.latency[0])
    assert part.weight is None
    for again in (concatenated(DATA.split(4)), stacked(list(DATA))):
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(again.tensors(), DATA.tensors(), strict=True))
    weighted = replace(DATA, weight=torch.ones(6))[2:]
    assert weighted.weight is not None
    assert len(weighted.weight) == len(weighted) == 4


def test_only_real_numbers_take_another_format() -> None:
    double = DATA.to(dtype=torch.float64)
    assert (double.dtype, double.view.dtype) == (torch.float64, torch.float64)
    assert (double.view.cache.dtype, double.view.requests.dtype) == (torch.bool, torch.long)
    assert to_vector(double.view).dtype == torch.float64


def test_a_loader_collates_rows_and_lightning_moves_them() -> None:
    batch = next(iter(DataLoader(DATA, batch_size=4)))
    assert isinstance(batch, OffloadingTransitions)
    assert torch.equal(batch.view.requests, DATA.view.requests[:4])
    training = TrainingBatch(
        member_batches(DATA, MEMBERS, 2, generator()), [CachingTransitions.none(SCENARIO)]
    )
    moved = move_data_to_device(training, torch.device("meta"))
    assert moved.offloading.data.device.type == moved.caching[0].view.device.type == "meta"
    assert moved.caching[0].cache.dtype == torch.bool
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.next_view.cycles, batch.next_view.cycles)


# --- a field that is added -----------------------------------------------------------------------------------------


@dataclass(eq=False)
class PatientView(OffloadingView):
    """Users have a patience, too."""

    patience_s: Float[Tensor, "*rows user"] = field(
        metadata=number(USER, text="patience of user {}", unit="s", scale=10.0, high=100.0)
    )


def patient(data: OffloadingTransitions = DATA, seconds: float | None = None) -> OffloadingTransitions:
    """Transitions of users with a patience, by which their latency is multiplied."""
    draw = generator(3)

    def with_patience(view: OffloadingView) -> PatientView:
        drawn = 50 * torch.rand(view.cycles.shape, generator=draw)
        return PatientView(
            **vars(view), patience_s=drawn if seconds is None else torch.full_like(drawn, seconds)
        )

    views = with_patience(data.view), with_patience(data.next_view)
    return replace(data, view=views[0], next_view=views[1], latency=data.latency * views[0].patience_s)


def test_a_new_field_of_users_reaches_the_vector_and_back_and_the_bounds() -> None:
    view = patient(seconds=20.0).view
    size = vector_size(PatientView, SCENARIO)
    assert size == vector_size(OffloadingView, SCENARIO) + SCENARIO.num_users
    vector = to_vector(view)
    assert vector.shape == (6, size)
    assert vector[:, -6:].tolist() == [[2.0] * 6] * 6  # in 10 s
    assert torch.equal(vector[:, :-6], to_vector(DATA.view))
    torch.testing.assert_close(from_vector(PatientView, vector, SCENARIO).patience_s, view.patience_s)
    physics = rules("strict")
    bounds = vector_bounds(PatientView, SCENARIO, physics, physics.offloading_limits(SCENARIO))
    assert (len(bounds.low), bounds.low[-6:], bounds.high[-6:]) == (size, (0.0,) * 6, (10.0,) * 6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, "from 0 to 100, got -1"),
        (101.0, "from 0 to 100, got 101"),
        (math.nan, "from 0 to 100, got nan"),
    ],
)
def test_a_new_field_is_checked_by_its_declaration(value: float, message: str) -> None:
    view = patient().view
    check_offloading_view(view, "strict")
    view.patience_s[3, 4] = value
    with pytest.raises(
        HadrlError, match=f"^offloading observation: patience of user 4 must be {message} in network 3$"
    ):
        check_offloading_view(view, "strict")
    with pytest.raises(ValueError, match="patience_s must be given"):
        PatientView.of(**vars(DATA.view))


def test_a_new_field_reaches_replay_tokens_learning_and_plans_of_structured_and_flat_models() -> None:
    data = patient()
    buffer = ReplayBuffer(10, data)
    buffer.add(data)
    assert buffer.shapes["next_view.patience_s"] == (6,)
    data = buffer.contents()
    fields = TokenFields.of(PatientView)
    assert fields.token_size == 10
    assert [one.name for one in fields.user[:4]] == [
        "input_bits",
        "cycles",
        "spectral_efficiency",
        "patience_s",
    ]
    torch.testing.assert_close(fields.read(data.view).user[..., 3], data.view.patience_s / 10)
    model = SetWorldModel(SMALL, view=PatientView, generator=generator())
    flat = WorldModel(
        vector_size(PatientView, SCENARIO),
        18,
        WorldModelSettings(ensemble_size=2, hidden_size=8),
        generator=generator(),
    )
    settings = PlannerSettings(form="tschantz", informed_candidates=0, share_steps=1, target_sweeps=1)
    planner = CEMPlanner(18, settings, num_users=6, num_targets=2)
    other = replace(data.view, patience_s=data.view.patience_s + 30)
    for one in (model, flat):
        one.observe(data)
        one.loss(data).total.backward()
        means = [one.step(one.start(view, 1), data.action)[0].mean for view in (data.view, other)]
        assert not torch.equal(*means)
        assert planner.plan(one, data.view, generator(4)).action.shape == (6, 18)
    assert model.user_normaliser.size == 7
    spread = (data.view.patience_s / 10 / SMALL_NUMBER).asinh().std()  # about that of ln x
    assert model.user_normaliser.scale[3] == pytest.approx(spread.item(), rel=0.1)
    with pytest.raises(
        ValueError, match=r"a structured model sees a view of .*patience_s, got .*cloud_delay_s$"
    ):
        model.start(DATA.view, 1)


def test_a_structured_model_learns_what_a_new_field_means() -> None:
    data = patient(transitions(slots=20, envs=8))
    model = SetWorldModel(replace(SMALL, hidden_size=16), view=PatientView, generator=generator())
    model.observe(data)
    optimiser, first = model.configure_optimizers(), model.loss(data).latency_error.item()
    for _ in range(12):
        for batch in member_batches(data, MEMBERS, 32, generator()):
            optimiser.zero_grad()
            model.loss(batch).total.backward()
            optimiser.step()
    assert model.loss(data).latency_error < 0.5 * first


@dataclass(eq=False)
class PairView(OffloadingView):
    hops: Float[Tensor, "*rows user server"] = field(metadata=number(USER, SERVER, text="hops of pair {}"))


def test_a_field_that_no_token_can_hold_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"hops of PairView must be of users, .* got one of user and server"):
        SetWorldModel(SMALL, view=PairView)


def test_no_rows_of_a_scenario_say_what_its_views_are_like() -> None:
    none = OffloadingView.none(Scenario(num_servers=3, num_users=5, num_services=4, popularity="zipf"))
    assert len(none) == 0
    assert none.sizes() == {"server": 3, "service": 4, "user": 5}
    assert {one.name: getattr(none, one.name).dtype for one in fields_of(OffloadingView)}[
        "requests"
    ] == torch.long


# --- what views tell -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("physics", ["strict", "published"])
def test_a_view_tells_all_that_a_latency_hangs_on_but_the_fading(physics: Physics) -> None:
    other = {"cloud_rate_bit_per_s": 3e6, "cloud_compute_hz": 5e9, "cloud_delay_s": 0.7}
    scenario = replace(
        SCENARIO, cache_bytes=300 * GIB, bandwidth_hz=(1e8, 2e8), compute_hz=(2e10, 6e10), **other
    )
    network = EdgeNetwork(scenario, physics, num_envs=2, generator=generator())
    cache = torch.zeros(2, 2, 10, dtype=torch.bool)
    cache[:, 1] = True
    network.begin_frame(cache)
    view, slot = network.offloading_view(), network.unfolding.slot
    server = torch.tensor([[0, 1, 0, 1, 0, 1]] * 2)
    quarter, half = torch.full((2, 6), 0.25), torch.full((2, 6), 0.3)
    shares = Allocation(server, quarter, half)
    latency = serve(scenario, cache, slot.requests, slot.positions, torch.ones(2, 6), shares, physics).latency
    one = {name: getattr(view, name).double() for name, _ in view.tensors()}
    sent = one["input_bits"] / (0.25 * one["bandwidth_hz"].gather(1, server) * one["spectral_efficiency"])
    hit = sent + one["cycles"] / (0.3 * one["compute_hz"].gather(1, server))
    rate, clock, delay = (one[name][:, None] for name in other)
    miss = sent + one["input_bits"] / rate + one["cycles"] / clock + delay
    torch.testing.assert_close(latency.double(), torch.where(server == 1, hit, miss), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.stack([one[name][0] for name in other]).tolist(), list(other.values()))


def test_links_by_hand_and_their_harmonic_mean() -> None:
    places = ((200.0, 0.0), (100.0, 50.0), (100.0, 0.0))  # 100 m and 50 m from server 0, and on it: 30 m
    network = EdgeNetwork(Scenario(num_servers=1, num_users=3, user_positions_m=places), num_envs=2)
    # log2(1 + 10^((20 + 114 − 128.1 − 37.6 log10(d / 1 km)) / 10))
    links = [math.log2(1 + 10 ** ((5.9 - 37.6 * math.log10(d)) / 10)) for d in (0.1, 0.05, 0.03)]
    assert links[0] == pytest.approx(14.45, abs=0.01)
    seen = network.offloading_view().spectral_efficiency
    torch.testing.assert_close(seen, torch.tensor([links] * 2))
    view = network.caching_view()
    assert view.spectral_efficiency.tolist() == pytest.approx([3 / sum(1 / link for link in links)] * 2)
    assert view.users.tolist() == [3.0, 3.0]


def test_what_services_fill_is_seen_and_kept_and_is_no_part_of_vectors() -> None:
    scenario = Scenario(num_services=2, popularity="zipf", storage_bytes=(100.0, 300.0))
    network = EdgeNetwork(scenario, num_envs=3, generator=torch.Generator().manual_seed(0))
    view = network.caching_view()
    assert view.storage_bits.tolist() == [[800.0, 2400.0]] * 3
    vector = to_vector(view)
    assert vector.shape == (3, vector_size(CachingView, scenario)) == (3, 2 * 2 + 2 + 2 * 2 + 2)
    again = from_vector(CachingView, vector, scenario)
    untold = {"past_requests", "users", "spectral_efficiency"}
    for name, value in view.tensors():
        assert torch.equal(value, getattr(again, name)) != (name in untold), name
    buffer = ReplayBuffer(4, view)
    buffer.add(view)
    assert buffer.contents().storage_bits.tolist() == [[800.0, 2400.0]] * 3
    given = {name: value.tolist() for name, value in view.tensors()}
    with pytest.raises(ValueError, match="storage_bits must be given"):
        CachingView.of(**{name: value for name, value in given.items() if name != "storage_bits"})
    zero = CachingView.of(**{**given, "storage_bits": [[0.0, 1.0]] * 3})
    with pytest.raises(
        HadrlError, match="storage of service 0 must be at least 1 and finite, got 0 in network 0"
    ):
        check_caching_view(zero, scenario, "strict")
