"""Whatever comes in, there comes out a valid result or a clear error of one line; never a traceback or a silent NaN.

Draws are fixed (`derandomize`): the suite is the same every time. A few examples by default, the rest with `-m slow`.
"""

import math
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hadrl_lightning.agents import HADRL
from hadrl_lightning.benchmark import PlanSettings, make_plan
from hadrl_lightning.benchmark.plan import parse_sweep, parse_value
from hadrl_lightning.benchmark.training import build, num_slots, resolved
from hadrl_lightning.callbacks import default_callbacks
from hadrl_lightning.cli import main
from hadrl_lightning.cli.app import HadrlCLI
from hadrl_lightning.cli.checkpointing import Checkpointing
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.play import caching_reward, offloading_reward
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork, decode_caching, decode_offloading, serve

BOTH = ("strict", "published")
pytestmark = pytest.mark.unchecked
IDS = ("hadrl/ServiceCaching-v0", "hadrl/ComputationOffloading-v0", "hadrl/EdgeNetwork-v0")

# What is drawn -------------------------------------------------------------------------------------------------------

EXTREMES = (
    0,
    -1,
    1,
    0.0,
    -0.0,
    5e-324,
    1e-30,
    1e30,
    1e300,
    -1e300,
    10**30,
    10**400,
    math.nan,
    math.inf,
    -math.inf,
)
ODD = (
    True,
    False,
    None,
    "",
    "abc",
    "nan",
    "1e999",
    "published",
    "zipf",
    [],
    {},
    [[]],
    [1, 2],
    [[0, 0]],
    {"a": 1},
)
numbers = st.one_of(st.sampled_from(EXTREMES), st.floats(), st.integers(-(10**6), 10**6))
junk = st.recursive(
    st.one_of(numbers, st.sampled_from(ODD), st.text(string.printable, max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "num_users"]), inner, max_size=2)
    ),
    max_leaves=4,
)
positive = st.floats(-3, 15).map(lambda exponent: 10**exponent)
fields = st.sampled_from(sorted(Scenario.__dataclass_fields__))


@st.composite
def scenario_fields(draw: Any) -> dict[str, Any]:
    """Fields of a small network, of which some are plausible, some extreme and some of another type."""
    servers, users, services = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    found = {
        "num_servers": servers,
        "num_users": users,
        "num_services": services,
        "popularity": "zipf",
        "decisions_per_episode": draw(st.integers(1, 2)),
        "slots_per_decision": draw(st.integers(1, 3)),
    }
    lengths = st.sampled_from([servers, users, services, services + 1])
    plausible = st.one_of(positive, lengths.flatmap(lambda n: st.lists(positive, min_size=n, max_size=n)))
    for name in draw(st.lists(fields, max_size=4, unique=True)):
        found[name] = draw(st.one_of(plausible, plausible, numbers, junk))
    return found


@st.composite
def networks(draw: Any) -> EdgeNetwork:
    """Small networks of valid scenarios."""
    scenario = Scenario(
        num_servers=draw(st.integers(1, 3)),
        num_users=draw(st.integers(1, 4)),
        num_services=draw(st.integers(1, 3)),
        popularity="zipf",
        cache_bytes=draw(st.sampled_from([1e9, 3e9, 1e10])),
        decisions_per_episode=2,
        slots_per_decision=2,
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return EdgeNetwork(scenario, draw(st.sampled_from(BOTH)), draw(st.integers(1, 2)), generator=generator)


@st.composite
def arrays(draw: Any, shape: list[int]) -> np.ndarray:
    """Arrays of mostly this shape, of any number format, random with extremes among them."""
    if draw(st.integers(0, 4)) == 0:
        shape = draw(st.lists(st.integers(0, 6), max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.uniform(-1.5, 1.5, shape)
    if draw(st.integers(0, 3)) == 0:
        extreme = draw(st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-45, -0.0, 1.0, -1.0]))
        values = np.where(rng.random(shape) < 0.3, extreme, values)
    kind = draw(st.sampled_from(["float32"] * 4 + ["float64", "float16", "int64", "int32", "bool"]))
    with np.errstate(all="ignore"):
        return values.astype(kind)


# What must hold ------------------------------------------------------------------------------------------------------


def examples(few: int, many: int) -> Any:
    """Few examples by default, many in the slow tests."""
    return pytest.mark.parametrize("number", [few, pytest.param(many, marks=pytest.mark.slow)])


def explore(number: int, check: Callable[[], None]) -> None:
    """Run a property on a fixed choice of examples."""
    settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(check)()


def assert_clear(error: Exception) -> None:
    """One line that says something."""
    text = str(error)
    assert len(text.split()) > 2, repr(error)
    assert "\n" not in text, repr(error)


def assert_finite(*tensors: torch.Tensor) -> None:
    for tensor in tensors:
        assert bool(torch.isfinite(tensor).all()), tensor


def assert_valid(network: EdgeNetwork, cache: torch.Tensor, allocation: Any, service: Any) -> None:
    """A slot that obeys the physics it was played with."""
    assert_finite(
        *allocation[1:], service.latency, service.energy, service.bandwidth_load, service.compute_load
    )
    assert_finite(offloading_reward(service.latency), network.caching_observation())
    assert_finite(network.offloading_observation())
    assert bool((service.latency >= 0).all())
    assert bool((service.energy >= 0).all())
    if network.physics == "strict":
        assert float(service.bandwidth_load.max()) <= 1 + 1e-5
        assert float(service.compute_load.max()) <= 1 + 1e-5
        size = torch.tensor(network.scenario.storage_bits, dtype=torch.float64)
        room = torch.tensor(network.scenario.usable_cache_bits, dtype=torch.float64)
        assert bool((cache.double() @ size <= room * (1 + 1e-9)).all())


def play(network: EdgeNetwork, frames: int = 2, slots: int = 2) -> None:
    """A few slots with random decisions, half of them bounds."""
    scenario, generator = network.scenario, torch.Generator().manual_seed(0)

    def action(size: int) -> torch.Tensor:
        drawn = torch.rand(network.num_envs, size, generator=generator) * 4 - 2
        return drawn.clamp(-1, 1)

    for _ in range(min(frames, scenario.decisions_per_episode)):
        cache = decode_caching(scenario, action(scenario.caching_action_size), network.cache, network.physics)
        switching = network.begin_frame(cache)
        assert_finite(switching, caching_reward(torch.zeros_like(switching), switching))
        for _ in range(min(slots, scenario.slots_per_decision)):
            wish = action(scenario.offloading_action_size)
            allocation = decode_offloading(scenario, wish, network.physics)
            assert_valid(network, cache, allocation, network.step(allocation))
        if not network.frame_over:
            return


# Scenarios -----------------------------------------------------------------------------------------------------------


def played(make: Callable[[], Scenario]) -> None:
    """A scenario is refused, or can be played under both physics."""
    try:
        scenario = make()
    except ValueError as error:
        return assert_clear(error)
    for physics in BOTH:
        try:
            play(EdgeNetwork(scenario, physics, 2, generator=torch.Generator().manual_seed(0)))
        except ValueError as error:
            if physics == "strict" or "offload_thresholds must have" not in str(error):
                raise
    return None


@examples(60, 1000)
def test_any_scenario_is_refused_or_gives_finite_latencies(number: int) -> None:
    @given(scenario_fields())
    def check(values: dict[str, Any]) -> None:
        played(lambda: Scenario.from_dict(values))

    explore(number, check)


@examples(40, 400)
def test_any_settings_file_is_refused_or_holds_a_scenario(number: int, tmp_path: Path) -> None:
    file = tmp_path / "fuzz.yaml"

    @given(
        st.one_of(
            scenario_fields().map(lambda values: yaml.safe_dump({"data": {"scenario": values}})),
            junk.map(lambda value: yaml.safe_dump({"data": value})),
            st.text("abc:-[]{}#&*!|>%@`'\"\n 0123456789.e", max_size=30),
            st.binary(max_size=20).map(lambda found: found.decode("latin-1")),
        )
    )
    def check(text: str) -> None:
        file.write_text(text, encoding="latin-1", errors="replace")
        played(lambda: Scenario.from_config(str(file)))

    explore(number, check)


# Decisions -----------------------------------------------------------------------------------------------------------


@examples(60, 600)
def test_any_action_is_refused_or_leads_to_a_feasible_decision(number: int) -> None:
    @given(networks(), st.data())
    def check(network: EdgeNetwork, data: Any) -> None:
        scenario, batch = network.scenario, network.num_envs
        slow = torch.from_numpy(data.draw(arrays([batch, scenario.caching_action_size])))
        fast = torch.from_numpy(data.draw(arrays([batch, scenario.offloading_action_size])))
        try:
            cache = decode_caching(scenario, slow, network.cache, network.physics)
            network.begin_frame(cache)
            allocation = decode_offloading(scenario, fast, network.physics)
            service = network.step(allocation)
        except ValueError as error:
            return assert_clear(error)
        assert_valid(network, cache, allocation, service)
        return None

    explore(number, check)


@examples(60, 600)
def test_any_slot_is_refused_or_served(number: int) -> None:
    @given(networks(), st.data())
    def check(network: EdgeNetwork, data: Any) -> None:
        scenario = network.scenario
        shape = [network.num_envs, scenario.num_users]
        action = torch.zeros(network.num_envs, scenario.offloading_action_size)
        given_ = {
            "cache": network.cache,
            "requests": network.requests,
            "positions": network.positions,
            "fading": torch.ones(shape),
            **decode_offloading(scenario, action, network.physics)._asdict(),
        }
        name = data.draw(st.sampled_from(sorted(given_)))
        given_[name] = torch.from_numpy(data.draw(arrays(list(given_[name].shape))))
        allocation = type(decode_offloading(scenario, action))(
            *(given_.pop(key) for key in ("server", "bandwidth_share", "compute_share"))
        )
        try:
            service = serve(scenario, allocation=allocation, physics=network.physics, **given_)
        except ValueError as error:
            return assert_clear(error)
        assert_finite(service.latency, service.energy, service.bandwidth_load, service.compute_load)
        return None

    explore(number, check)


@examples(30, 300)
def test_any_action_in_gymnasium_is_refused_or_gives_an_observation_of_the_space(number: int) -> None:
    @given(networks(), st.sampled_from(IDS), st.data())
    def check(network: EdgeNetwork, name: str, data: Any) -> None:
        env = gymnasium.make(name, scenario=network.scenario, physics=network.physics).unwrapped
        env.reset(seed=data.draw(st.integers(0, 2**31 - 1)))
        shape = list(env.action_space.shape or ())
        for _ in range(3):
            action = data.draw(st.one_of(arrays(shape), arrays(shape), arrays(shape), junk))
            try:
                with np.errstate(all="ignore"):
                    observation, reward, terminated, truncated, info = env.step(action)
            except ValueError as error:
                assert_clear(error)
                continue
            assert env.observation_space.contains(observation)
            assert np.isfinite(observation).all()
            assert math.isfinite(reward)
            assert all(math.isfinite(value) for value in info.values())
            assert not terminated
            if truncated:
                return

    explore(number, check)


# Settings ------------------------------------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "data": {"scenario": {"num_users": 3, "num_services": 2, "popularity": "zipf"}},
    "model": {"fast_level": "set", "slow_level": "set", "set_world_model": {"ensemble_size": 1}},
}


def leaves(group: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted key."""
    found: dict[str, Any] = {}
    for name, value in group.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


GROUPS = (
    "data",
    "data.scenario",
    "model",
    "model.planner",
    "model.ddpg",
    "planning",
    "planning.planner",
    "trainer",
)
KEYS = (
    *sorted(leaves(resolved(TINY))),
    *GROUPS,
    "trainer.precision",
    "data.wrong",
    "planning.planner.expl_scale",
)


SIZES = ("ensemble_size", "hidden_size", "hidden_sizes", "weight_size", "actor_width", "num_resources")
SIZES = (*SIZES, "num_common_resources", "num_servers", "num_users", "num_services")
"""Settings that memory is allocated by as soon as they are read: how much there is, is for the machine to say."""


def small(key: str, value: Any) -> Any:
    """The value, but no size beyond 64."""
    if key.rpartition(".")[2] not in SIZES:
        return value
    if isinstance(value, list):
        return [small(key, item) for item in value]
    return value % 64 if isinstance(value, int) and not isinstance(value, bool) and value > 64 else value


def overlaid(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The settings with values at dotted keys, where there still is something to put them into."""
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(base))
    for key, value in changes.items():
        *groups, last = key.split(".")
        place: Any = result
        for group in groups:
            place = place.setdefault(group, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place[last] = small(key, value)
    return result


likely = st.one_of(st.integers(1, 5), st.floats(0.01, 1), st.booleans(), st.none())
changes = st.dictionaries(
    st.sampled_from(KEYS), st.one_of(likely, likely, numbers, junk), min_size=1, max_size=3
)


@examples(8, 400)
def test_any_settings_are_refused_or_can_be_built(number: int) -> None:
    @given(changes)
    def check(drawn: dict[str, Any]) -> None:
        wanted = overlaid(TINY, drawn)
        try:
            full = resolved(wanted)
            build(wanted)
        except HadrlError as error:
            return assert_clear(error)
        assert num_slots(full) >= 1
        for key, value in leaves(full).items():
            assert not isinstance(value, float) or math.isfinite(value), key
        assert resolved(full) == full
        return None

    explore(number, check)


@examples(10, 80)
def test_any_benchmark_is_refused_or_planned(number: int) -> None:
    policies = (
        "random+random",
        "hadrl",
        "ppo",
        "hadrl-published",
        "lru+home_equal",
        "nobody",
        "a+b",
        "+",
        "",
    )

    @given(
        changes,
        st.lists(st.sampled_from(policies), max_size=2),
        st.lists(st.integers(-1, 2**70), max_size=2),
        st.one_of(st.none(), st.integers(-1, 10**6)),
    )
    def check(drawn: dict[str, Any], names: list[str], seeds: list[int], slots: int | None) -> None:
        try:
            asked = PlanSettings(policies=tuple(names), seeds=tuple(seeds), overrides=drawn, slots=slots)
            cells = make_plan(asked).cells
        except HadrlError as error:
            return assert_clear(error)
        assert len({cell.key for cell in cells}) == len(cells) > 0
        return None

    explore(number, check)


@examples(200, 2000)
def test_any_value_on_the_command_line_is_read_or_refused(number: int) -> None:
    @given(st.one_of(st.text("0123456789.eE+-kMGiB naif,=", max_size=12), numbers.map(str)))
    def check(text: str) -> None:
        parse_value("data.scenario.num_users", text)
        try:
            parse_sweep(f"data.scenario.num_users={text}")
            parse_sweep(f"data.scenario.cache_bytes={text}")
        except HadrlError as error:
            assert_clear(error)

    explore(number, check)


class _Parsed(Exception):
    """Ends the command line once its parser is there."""


class _ParserOnly(HadrlCLI):
    def parse_arguments(self, parser: Any, args: Any) -> None:
        raise _Parsed(parser)


@pytest.fixture(scope="module")
def fit_parser() -> Any:
    """The parser of `hadrl fit`."""
    callbacks: dict[str, Any] = {"checkpointing": Checkpointing, **default_callbacks()}
    with pytest.raises(_Parsed) as raised:
        _ParserOnly(HADRL, TransitionDataModule, callbacks=callbacks, args=["fit"])
    return raised.value.args[0]


@examples(8, 250)
def test_any_words_for_fit_are_refused_in_one_line_or_parsed(number: int, fit_parser: Any) -> None:
    @given(changes)
    def check(drawn: dict[str, Any]) -> None:
        words = [
            f"--{key}={value if isinstance(value, str) else yaml.safe_dump(value)}"
            for key, value in drawn.items()
        ]
        try:
            found = fit_parser.parse_args(["fit", "--config", "es2.yaml", *words])
        except HadrlError as error:
            return assert_clear(error)
        assert found.subcommand == "fit"
        return None

    explore(number, check)


@examples(5, 40)
def test_any_command_ends_with_a_result_or_with_status_2_and_one_line(
    number: int, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word = st.one_of(
        st.sampled_from(
            ["--config", "es2.yaml", "--slots", "0", "-1", "--seeds", "--sweep", "--ckpt_path", "last"]
        ),
        st.sampled_from(
            ["--data.scenario.num_users", "--data.seed=1", "--engine", "ray", "--workers", "x" * 300]
        ),
        st.text(string.printable, max_size=8),
    )
    commands = st.sampled_from(["fit", "test", "predict", "benchmark", "plot", "--help", "fitt"])

    @given(commands, st.lists(word, min_size=1, max_size=4))
    def check(command: str, words: list[str]) -> None:
        capsys.readouterr()
        tail = {"benchmark": ["--policies", "nobody"], "plot": [], "--help": [], "fitt": []}.get(
            command, ["--print_config"]
        )
        try:
            status = main([command, *words, *tail])
        except SystemExit as end:
            status = end.code or 0
        error = capsys.readouterr().err
        assert status in (0, 2)
        assert (error.count("\n"), error.startswith("hadrl: error: ")) == (
            (1, True) if status else (0, False)
        )

    explore(number, check)
