"""What is drawn: always possible, always on the CPU, and from a stream of its own for every use."""

import ast
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hadrl_lightning.callbacks import CEMPlanning, FiniteNumbers
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.process import quiet_trainer
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork, Use, make_generator, restore_generator
from hadrl_lightning.simulator.radio import rayleigh, rayleigh_quantile
from tests.helpers.ensemble_ranks import build

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
