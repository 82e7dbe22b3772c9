"""Views and transitions: rows of named tensors, and how a field that is added reaches everything; what is drawn, from a
stream of its own for every use.
"""

import ast
import math
import pickle
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader

from hadrl_lightning.agents import SetWorldModel, SetWorldModelSettings, WorldModel, WorldModelSettings
from hadrl_lightning.agents.set_predictions import read_action
from hadrl_lightning.agents.views import check_caching_view, check_offloading_view
from hadrl_lightning.baselines import CACHING_POLICIES, OFFLOADING_POLICIES
from hadrl_lightning.callbacks import CEMPlanning, FiniteNumbers
from hadrl_lightning.data import (
    CachingTransitions,
    OffloadingTransitions,
    ReplayBuffer,
    TrainingBatch,
    TransitionDataModule,
)
from hadrl_lightning.data.passes import member_batches
from hadrl_lightning.envs.bounds import vector_bounds
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.nn.set_encoder import SMALL as SMALL_NUMBER
from hadrl_lightning.nn.tokens import TokenFields
from hadrl_lightning.planning import CEMPlanner, PlannerSettings
from hadrl_lightning.play import run_episode
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import GIB, Physics, Scenario
from hadrl_lightning.simulator import (
    Allocation,
    CachingView,
    EdgeNetwork,
    OffloadingView,
    Use,
    fields_of,
    from_vector,
    make_generator,
    restore_generator,
    rules,
    serve,
    to_vector,
    vector_size,
)
from hadrl_lightning.simulator.fields import SERVER, SERVICE, USER, number
from hadrl_lightning.simulator.radio import rayleigh, rayleigh_quantile
from hadrl_lightning.simulator.rows import concatenated, stacked
from tests.agents.test_set_world_model import SCENARIO, generator, transitions
from tests.helpers.ranks import build

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


LONG = transitions(slots=20, envs=8)


def assert_learns(model: SetWorldModel, data: OffloadingTransitions) -> None:
    """A few passes halve the error of what it says of latencies."""
    model.observe(data)
    optimiser, first = model.configure_optimizers(), model.loss(data).latency_error.item()
    for _ in range(12):
        for batch in member_batches(data, MEMBERS, 32, generator()):
            optimiser.zero_grad()
            model.loss(batch).total.backward()
            optimiser.step()
    assert model.loss(data).latency_error < 0.5 * first


def test_a_structured_model_learns_what_a_new_field_means() -> None:
    data = patient(LONG)
    model = SetWorldModel(replace(SMALL, hidden_size=16), view=PatientView, generator=generator())
    assert_learns(model, data)


@dataclass(eq=False)
class PairView(OffloadingView):
    hops: Float[Tensor, "*rows user server"] = field(metadata=number(USER, SERVER, text="hops of pair {}"))


def test_a_structured_model_learns_what_a_new_field_of_users_and_servers_means() -> None:
    views = {
        name: PairView(**vars(view), hops=30 * torch.rand(*view.cycles.shape, 2, generator=generator(number)))
        for number, (name, view) in enumerate({"view": LONG.view, "next_view": LONG.next_view}.items())
    }
    target = read_action(LONG.action, 2)[0]
    hops = views["view"].hops.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    data = replace(LONG, **views, latency=LONG.latency * (1 + hops))
    model = SetWorldModel(replace(SMALL, hidden_size=16), view=PairView, generator=generator())
    assert_learns(model, data)
    pairs = model.pair_demands(data.view[:3])
    served = model.at_targets(data.view[:3], target[:3]).demand
    number = served.shape[2]
    place = target[:3, None, :, None].expand(3, number, -1, 1)
    found = torch.stack([one.gather(-1, place).squeeze(-1) for one in pairs[:, :, :number]])
    torch.testing.assert_close(found, served)


@dataclass(eq=False)
class ByServiceView(OffloadingView):
    wish: Float[Tensor, "*rows user service"] = field(metadata=number(USER, SERVICE, text="wish {}"))


def test_a_field_that_no_token_can_hold_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"wish of ByServiceView must be of users, .* got one of user and service"
    ):
        SetWorldModel(SMALL, view=ByServiceView)


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


# What is drawn: always possible, always on the CPU -------------------------------------------------------------------

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.float64)


def first_draws(*key: int) -> tuple[int, ...]:
    """The first two draws of the stream (seed, use, index...)."""
    seed, use, *index = key
    return tuple(torch.randint(2**62, (2,), generator=make_generator(seed, Use(use), *index)).tolist())


# Fading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("end", ["least", "largest"])
def test_fading_is_finite_and_above_0_at_both_ends_of_what_torch_can_draw(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, end: str
) -> None:
    def rand(shape: tuple[int, ...], *, dtype: torch.dtype, **_: object) -> Tensor:
        return torch.full(shape, 0.0 if end == "least" else 1 - torch.finfo(dtype).eps / 2, dtype=dtype)

    monkeypatch.setattr(torch, "rand", rand)
    fading = rayleigh((3,), torch.Generator(), CPU, dtype)
    assert fading.dtype == dtype
    assert torch.isfinite(fading).all()
    assert (fading > 0).all()


def test_fading_by_hand_at_the_ends_and_in_the_middle() -> None:
    step = 2.0**-53  # of torch.rand in double precision
    uniform = torch.tensor([0.0, step, 0.5, 1 - 2.0**-24, 1 - step], dtype=torch.float64)
    expected = [math.sqrt(2 * step)] * 2 + [math.sqrt(2 * math.log(2) * bits) for bits in (1, 24, 53)]
    torch.testing.assert_close(rayleigh_quantile(uniform).tolist(), expected, rtol=1e-14, atol=0)


@pytest.mark.slow
def test_no_fading_is_infinite_in_the_draws_that_once_held_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(7):
        torch.rand(10_000_000, generator=generator)
    state = generator.get_state()
    for dtype in DTYPES:
        generator.set_state(state)
        fading = rayleigh((10_000_000,), generator, CPU, dtype)
        assert 0 < float(fading.min()) < float(fading.max()) < math.inf


@pytest.mark.parametrize("dtype", DTYPES)
def test_fading_follows_rayleighs_law_with_scale_1_far_into_both_tails(dtype: torch.dtype) -> None:
    count = 1_000_000
    fading = rayleigh((count,), make_generator(1, Use.TEST_NETWORKS), CPU, dtype).double()
    assert float(fading.mean()) == pytest.approx(math.sqrt(math.pi / 2), rel=2e-3)
    assert float(fading.square().mean()) == pytest.approx(2, rel=4e-3)
    for share in (1e-5, 1e-4, 1e-3, 0.1, 0.5, 0.9, 0.999, 0.9999, 0.99999):
        below = int((fading < math.sqrt(-2 * math.log1p(-share))).sum())
        error = 4 * math.sqrt(count * share * (1 - share))
        assert abs(below - count * share) < error, share


def fading(network: EdgeNetwork) -> torch.Tensor:
    """What would be drawn if the slot were served."""
    network.unfolding.serve()
    assert network.unfolding.slot.fading is not None
    return network.unfolding.slot.fading


def test_fading_and_requests_are_the_same_in_single_and_double_precision() -> None:
    networks = [
        EdgeNetwork(Scenario(), num_envs=50, dtype=dtype, generator=make_generator(3, Use.TEST_NETWORKS))
        for dtype in DTYPES
    ]
    single, double = networks
    assert torch.equal(single.requests, double.requests)
    torch.testing.assert_close(fading(single), fading(double).float(), rtol=2e-7, atol=0)


# Streams -----------------------------------------------------------------------------------------------------------


def test_no_two_keys_draw_from_the_same_stream() -> None:
    indices = [(), (0,), (0, 0), (0, 0, 0), *((n,) for n in range(1, 60)), (2**32 - 1,)]
    indices += list(product(range(1, 4), range(4)))
    keys = list(product((0, 1, 2002), Use, indices))
    draws = {first_draws(seed, use, *index) for seed, use, index in keys}
    assert len(draws) == len(keys) > 4000


def test_a_key_is_not_the_same_with_zeros_behind_it() -> None:
    numbers = [(), (0,), (0, 0)]
    assert len({first_draws(2002, Use.TEST_NETWORKS, *index) for index in numbers}) == 3


def test_seeds_and_draws_that_agree_in_32_bits_are_told_apart() -> None:
    # torch.manual_seed reads no more of a seed on the CPU.
    assert first_draws(5, Use.PLAY) != first_draws(5 + 2**32, Use.PLAY)
    states = [make_generator(seed, Use.PLAY).get_state() for seed in range(300)]
    words = torch.stack([state[24 : 24 + 8 * 624].view(torch.int64) for state in states])
    assert int((words >= 2**32).sum()) == 0
    assert len(words[:, -1].unique()) == 300  # the far end of the state depends on the key as well


def test_a_made_generator_draws_uniformly() -> None:
    draws = torch.rand(1000, 100, generator=make_generator(0, Use.PLAY, 1), dtype=torch.float64)
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.004)
    assert float(draws.var()) == pytest.approx(1 / 12, rel=0.02)
    first = torch.stack([torch.rand(2, generator=make_generator(0, Use.RESETS, n)) for n in range(2000)])
    assert float(first.mean()) == pytest.approx(0.5, abs=0.02)
    assert abs(float(torch.corrcoef(first.T)[0, 1])) < 0.09


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_named(seed: int) -> None:
    with pytest.raises(HadrlError, match=rf"seed must be at least 0 and below 2\^64, got {seed}"):
        make_generator(seed, Use.PLAY)


@pytest.mark.parametrize("number", [-1, 2**32])
def test_a_number_of_an_index_out_of_range_is_named(number: int) -> None:
    with pytest.raises(
        HadrlError, match=rf"index of RESETS must be .* below 4294967296, got \(0, {number}\)"
    ):
        make_generator(0, Use.RESETS, 0, number)


@pytest.mark.parametrize("name", ["seed", "validation_seed", "test_seed"])
def test_a_seed_of_the_data_out_of_range_is_named(name: str) -> None:
    with pytest.raises(HadrlError, match=f"^{name} must be at least 0"):
        TransitionDataModule(**{name: -1})


def test_every_use_says_what_it_is_for(root: Path) -> None:
    tree = ast.parse((root / "hadrl_lightning/simulator/randomness.py").read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
    names = [node.targets[0].id for node in body if isinstance(node, ast.Assign)]  # type: ignore[attr-defined]
    assert names == [use.name for use in Use]
    assert [type(node) for node in body[1:]] == [ast.Assign, ast.Expr] * len(Use)


def test_training_with_the_seed_of_the_test_meets_other_requests_than_the_test() -> None:
    data = TransitionDataModule(num_envs=50, seed=2002, validation_seed=2002, validation_episodes=50)
    assert data.test_seed == 2002
    data.setup("fit")
    assert data.network is not None
    validation, test = (next(iter(stream)) for stream in (data.val_dataloader(), data.test_dataloader()))
    for one, other in ((data.network, test), (data.network, validation), (validation, test)):
        assert float((one.requests == other.requests).double().mean()) < 0.2
        assert float((one.positions == other.positions).double().mean()) < 0.1


def test_predict_plays_the_episodes_of_the_test() -> None:
    data = TransitionDataModule(test_episodes=3, predict_episodes=3)
    test, predict = (next(iter(stream)) for stream in (data.test_dataloader(), data.predict_dataloader()))
    assert torch.equal(test.requests, predict.requests)


# Devices -----------------------------------------------------------------------------------------------------------


def test_a_network_on_another_device_draws_what_one_on_the_cpu_draws() -> None:
    here, there = (
        EdgeNetwork(Scenario(), num_envs=2, device=device, generator=make_generator(1, Use.TEST_NETWORKS))
        for device in ("cpu", "meta")
    )
    assert there.generator.device == CPU
    for one, other in zip(here.state.tensors().values(), there.state.tensors().values(), strict=True):
        assert other.device.type == "meta"
        assert one.shape == other.shape
    assert fading(here).shape == fading(there).shape
    assert fading(there).device.type == "meta"
    fading(here)
    assert torch.equal(here.generator.get_state(), there.generator.get_state())


def test_every_generator_lives_on_the_cpu_and_every_draw_is_made_there(root: Path) -> None:
    drawing = {"rand", "randn", "randint", "randperm", "multinomial", "normal", "bernoulli"}
    wrong, found = [], 0
    for folder in ("hadrl_lightning", "callbacks", "benchmarks"):
        for path in sorted((root / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                called, given = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
                if called == "torch.Generator":
                    found += 1
                    wrong += [f"{path.name}: {ast.unparse(node)}"] if node.args or node.keywords else []
                elif called.removeprefix("torch.") in drawing and "generator" in given:
                    found += 1
                    device = ast.unparse(given["device"]) if "device" in given else "generator.device"
                    wrong += [f"{path.name}: {ast.unparse(node)}"] if device != "generator.device" else []
    assert not wrong
    assert found > 20


def test_a_generator_on_another_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(torch.Generator):
        device = torch.device("cuda")  # type: ignore[assignment]

    with pytest.raises(ValueError, match="generator must be on the CPU, got one on cuda"):
        EdgeNetwork(Scenario(), generator=Elsewhere())


def test_the_state_of_a_generator_on_a_gpu_is_refused_in_one_line() -> None:
    with pytest.raises(HadrlError, match=r"must be that of one on the CPU \(5056 bytes\), got 16$"):
        restore_generator(make_generator(0, Use.PLAY), torch.zeros(16, dtype=torch.uint8))


def small_run(accelerator: str, folder: Path, max_epochs: int, resume_from: Path | None = None) -> Path:
    """Train a small agent and save it."""
    agent, data = build("set")
    planning = CEMPlanning(seed_decisions=1, decisions_per_epoch=1)
    trainer = quiet_trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=max_epochs,
        default_root_dir=folder,
        callbacks=[planning, FiniteNumbers()],
    )
    trainer.fit(agent, datamodule=data, ckpt_path=resume_from)
    path = folder / f"{accelerator}-{max_epochs}.ckpt"
    trainer.save_checkpoint(path)
    return path


@pytest.mark.gpu
@pytest.mark.parametrize(("first", "then"), [("gpu", "cpu"), ("cpu", "gpu")])
def test_a_run_saved_on_one_device_goes_on_on_another(tmp_path: Path, first: str, then: str) -> None:
    saved = small_run(first, tmp_path, 1)
    path = small_run(then, tmp_path, 2, saved)
    again = torch.load(path, weights_only=True)["callbacks"]["CEMPlanning"]["ranks"][0]["generator"]
    whole = small_run("cpu", tmp_path, 2)
    expected = torch.load(whole, weights_only=True)["callbacks"]["CEMPlanning"]["ranks"][0]["generator"]
    assert torch.equal(again, expected)


@pytest.mark.gpu
def test_episodes_on_a_gpu_are_those_on_the_cpu() -> None:
    here, there = (
        EdgeNetwork(Scenario(), num_envs=20, device=device, generator=make_generator(1, Use.TEST_NETWORKS))
        for device in ("cpu", "cuda")
    )
    for _ in range(3):
        for one, other in zip(here.state.tensors().values(), there.state.tensors().values(), strict=True):
            assert torch.equal(one, other.cpu())
        assert torch.equal(fading(here), fading(there).cpu())
        here.reset()
        there.reset()


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in OFFLOADING_POLICIES if name != "genetic"])
@pytest.mark.parametrize("overlay", ["channel.yaml", "queues.yaml"])
def test_policies_decide_on_a_gpu_as_on_the_cpu(name: str, overlay: str) -> None:
    scenario = replace(Scenario.from_config("es3.yaml", "tight.yaml", overlay), decisions_per_episode=1)
    here, there = (
        run_episode(
            EdgeNetwork(scenario, num_envs=8, device=device, generator=generator(1)),
            CACHING_POLICIES["popularity"](scenario, generator()),
            OFFLOADING_POLICIES[name](scenario, generator()),
        )
        for device in ("cpu", "cuda")
    )
    if name in (
        "best_known",
        "hindsight",
        "clairvoyant",
    ):  # rounding decides between two that are equally good
        torch.testing.assert_close(here.latency.sum(), there.latency.sum().cpu(), rtol=1e-3, atol=0)
        return
    assert torch.equal(here.server, there.server.cpu())
    torch.testing.assert_close(here.latency, there.latency.cpu(), rtol=1e-5, atol=1e-6)
