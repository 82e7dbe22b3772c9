"""Consoles and files that lack characters or columns lose nothing; warnings and errors are one line each."""

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from hadrl_lightning import cli
from hadrl_lightning.agents import HADRL
from hadrl_lightning.benchmark import PlanSettings, make_plan
from hadrl_lightning.benchmark.plan import Sweep
from hadrl_lightning.characters import plain, use_plain_characters
from hadrl_lightning.cli import app
from hadrl_lightning.cli.help import OPENINGS, OURS, SETTINGS
from hadrl_lightning.cli.mistakes import resuming_from
from hadrl_lightning.cli.parser import HadrlParser
from hadrl_lightning.console import make_console, show
from hadrl_lightning.data import TransitionDataModule
from hadrl_lightning.errors import HadrlError, HadrlWarning
from hadrl_lightning.files import load_tensors
from hadrl_lightning.messages import warnings_in_one_line
from hadrl_lightning.plots.style import pyplot, save
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator import EdgeNetwork, OffloadingView
from hadrl_lightning.units import with_unit


def results(num_policies: int = 2) -> Table:
    table = Table(title="100 test episodes, mean ± 95 % confidence", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for index in range(num_policies):
        table.add_column(f"policy {index}, same caches", justify="right")
    table.add_row("Σ latency (s)", *(f"{3589.45 + index:.2f}±48.73" for index in range(num_policies)))
    table.add_row("÷ best known", *(f"{1 + index / 1000:.3f}" for index in range(num_policies)))
    return table


def shown(table: Table, columns: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a table where there is room for so many columns, or for any number."""
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(columns))
    file = io.StringIO()
    show(table, file=file)
    return file.getvalue().splitlines()


def in_encoding(encoding: str) -> str:
    """What a file in an encoding gets of a table."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    show(results(), file=file)
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk", "utf-8"])
def test_a_table_is_shown_whole_in_any_encoding(encoding: str) -> None:
    text = in_encoding(encoding)
    sign = {"ascii": "+-"}.get(encoding, "±")
    assert f"3589.45{sign}48.73" in text
    assert f"3590.45{sign}48.73" in text
    assert ("/ best known" if encoding == "ascii" else "÷ best known") in text
    assert ("sum latency (s)" if encoding in ("ascii", "cp1252") else "Σ latency (s)") in text
    assert "\\" not in text
    assert "?" not in text


def test_columns_stay_in_line_where_a_character_becomes_several() -> None:
    rows = [line for line in in_encoding("ascii").splitlines() if "latency (s)" in line or "best" in line]
    assert len(rows) == 2
    assert len({len(row) for row in rows}) == 1


def test_every_character_has_something_plain_in_its_place() -> None:
    assert plain("Σ ÷ ± × − – … ≤ σ² é ﬁ", "ascii") == "sum / +- x - - ... <= sigma2 e fi"
    assert plain("Σ ÷ ±", "cp1252") == "sum ÷ ±"
    assert plain("日 \udcff", "ascii") == r"\u65e5 \udcff"
    assert plain("\udcff", "utf-8") == r"\udcff"  # a file's name that is no text


def test_a_stream_that_keeps_text_is_left_as_it_is() -> None:
    stream: Any = io.StringIO()
    use_plain_characters(stream)
    stream.write("Σ")
    assert stream.getvalue() == "Σ"


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_no_number_is_cut_on_a_terminal_that_is_too_narrow(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(results(8), columns, monkeypatch)
    text = "\n".join(lines)
    for index in range(8):
        assert f"{3589.45 + index:.2f}±48.73" in text
        assert f"{1 + index / 1000:.3f}" in text
    assert "…" not in text
    assert all(len(line) <= max(columns, 36) for line in lines)  # the first column and one more need 36
    assert sum("latency (s)" in line for line in lines) == {20: 8, 40: 8, 80: 3, 200: 1}[columns]


def test_a_file_has_the_whole_table_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(results(40), None, monkeypatch)
    assert sum("latency (s)" in line for line in lines) == 1
    assert "3628.45±48.73" in "\n".join(lines)


def test_brackets_and_colons_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(title="mean [bold] :smile:", title_justify="left")
    table.add_column("policy")
    table.add_row("mine[0]:x:")
    text = "\n".join(shown(table, None, monkeypatch))
    assert "mine[0]:x:" in text
    assert "[bold] :smile:" in text
    assert make_console(io.StringIO()).width > 1000


# --- the command line


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_help_and_errors_come_in_any_encoding(encoding: str) -> None:
    run = [sys.executable, "-m", "hadrl_lightning.cli"]
    environment = {"PYTHONIOENCODING": encoding}
    helped = subprocess.run([*run, "--help"], capture_output=True, check=False, env=environment)
    assert helped.returncode == 0
    assert b"hadrl fit --config es2.yaml" in helped.stdout
    refused = subprocess.run([*run, "fΣ"], capture_output=True, check=False, env=environment)
    assert refused.returncode == 2
    (line,) = refused.stderr.decode(encoding).splitlines()
    assert line.startswith("hadrl: error: command must be one of fit, ")
    assert "got 'fsum'" in line


def test_a_reader_that_leaves_a_pipe_ends_the_command_without_a_word() -> None:
    read, write = os.pipe()
    os.close(read)
    run = [sys.executable, "-m", "hadrl_lightning.cli", "--help"]
    done = subprocess.run(run, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_completes_every_command(shell: str) -> None:
    parser = HadrlParser(prog="hadrl")
    parser.add_subcommands().add_subcommand("fit", HadrlParser())
    script = parser.get_completion_script(f"shtab-{shell}")
    for words in ("fit", *(("benchmark", "plot", "show", "inspect") if shell != "tcsh" else ())):
        assert words in script
    for option in ("--workers", "--no_figures", "--output"):
        assert option in script or option.lstrip("-") in script


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_tables_of_test_and_benchmark_come_in_any_encoding(encoding: str, in_empty_folder: Any) -> None:
    run = [sys.executable, "-m", "hadrl_lightning.cli"]
    environment = {"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    small = ["--data.scenario.decisions_per_episode=1"]
    test = [*run, "test", "--ckpt_path=es2.ckpt", "--data.test_episodes=2", *small]
    policies = ["random+random", "popularity+home_equal"]
    benchmark = [*run, "benchmark", "--quick", "--no_figures", "--policies", *policies, *small]
    for command in (test, benchmark):
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode(encoding)
        assert "sum latency" in text or "sum lat" in text
        assert ("/ best known" if encoding == "ascii" else "÷ best known") in " ".join(text.split())
        assert "\\u" not in text
        assert "..." not in text


def test_a_warning_is_one_line_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(words: Any, args: Any) -> int:
        for text in ("bandwidth_hz is new\nto this agent", "bandwidth_hz is new\nto this agent", "another"):
            warnings.warn(text, HadrlWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(cli, "_main", warn)
    assert cli.main(["fit"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first == "hadrl: warning: bandwidth_hz is new to this agent"
    assert second == "hadrl: warning: another"


def test_other_warnings_stay_as_they_are() -> None:
    with pytest.warns(UserWarning, match="of a library"), warnings_in_one_line():
        warnings.warn("of a library", UserWarning, stacklevel=1)


def test_a_warning_is_no_error() -> None:
    assert issubclass(HadrlWarning, UserWarning)
    assert not issubclass(HadrlWarning, HadrlError)


# --- help


@pytest.fixture(scope="module")
def parser() -> HadrlParser:
    """The parser of `hadrl fit`."""
    with pytest.MonkeyPatch.context() as patch:
        made: list[HadrlParser] = []

        def parse_args(self: HadrlParser, *_: Any, **__: Any) -> Any:
            made.append(self)
            raise HadrlError("no more is needed")

        patch.setattr(HadrlParser, "parse_args", parse_args)
        with pytest.raises(HadrlError, match="no more"):
            app.run(["fit"])
    return made[0]._subcommands_action._name_parser_map["fit"]


def test_help_opens_with_what_matters(parser: HadrlParser) -> None:
    first, _, rest = parser.format_help().partition("\n\noptions:\n")
    assert len(first.splitlines()) <= 40
    assert first.splitlines()[0] == "usage: hadrl fit [--config NAME] … [--KEY VALUE] …"
    for line in (
        "--data.scenario.num_users N        mobile users (30)",
        "--data.scenario.cache_bytes X      cache of a server (200 GiB)",
        "--data.scenario.compute_hz X       CPU cycles per second of a server (60 GHz)",
        "--trainer.max_epochs N             epochs; each collects caching decisions, then learns (12)",
    ):
        assert line in first
    for setting in (
        "--trainer.precision",
        "--data.scenario.cloud_delay_s",
        "--planning.latency_weight",
        "--ckpt_path",
    ):
        assert f"\n  {setting} " in rest


def test_every_setting_that_help_speaks_of_is_there(parser: HadrlParser) -> None:
    known = {action.dest for action in parser._actions}
    assert {name for name in OURS if name not in ("verbose", "return_predictions")} <= known
    assert set(OPENINGS["fit"].settings) <= known
    for about in OPENINGS.values():
        assert set(about.settings) <= set(SETTINGS)


def test_no_help_is_cut_or_of_something_else(parser: HadrlParser) -> None:
    text = " ".join(parser.format_help().split())
    assert ":paramref:" not in text
    assert "``" not in text
    assert "os.getcwd()" not in text
    assert "max_epochs = 1000" not in text
    assert "Default: 50" not in text
    assert "Model Registry" not in text
    for action in parser._actions:
        assert not str(action.help).rstrip().endswith((",", ":", " the", " a")), action.dest
    for words in ("see its grad_clip_norm.", "that of the newest run of the same configs"):
        assert words in text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("cache_bytes", 200 * 1024**3, "200 GiB"),
        ("cache_bytes", 20e9, "20 GB"),
        ("compute_hz", 60e9, "60 GHz"),
        ("cloud_delay_s", 0.1, "100 ms"),
        ("noise_dbm", -114.0, "-114 dBm"),
        ("compute_hz", [60e9, 0.5e9], "[60 GHz, 500 MHz]"),
        ("cloud_delay_s", 0, "0 s"),
        ("num_users", 30, "30"),
        ("references", True, "true"),
    ],
)
def test_a_default_has_the_unit_that_makes_it_shortest(name: str, value: Any, text: str) -> None:
    assert with_unit(name, value) == text


# --- what can't be done is said in one line, where it is asked for ---------------------------------------------------


THREE = Scenario(num_users=3, decisions_per_episode=1, slots_per_decision=1)


@pytest.fixture(scope="module")
def agent() -> HADRL:
    return HADRL(THREE)


def said_by(ask: Callable[[], Any]) -> str:
    """The one line of a refusal."""
    with pytest.raises((ValueError, RuntimeError)) as refusal:
        ask()
    text = str(refusal.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


# Agents --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        torch.Tensor.double,
        torch.Tensor.half,
        torch.Tensor.bfloat16,
        torch.Tensor.long,
        torch.Tensor.numpy,
        torch.Tensor.tolist,
    ],
)
def test_an_agent_reads_numbers_in_any_form(agent: HADRL, form: Callable[[torch.Tensor], Any]) -> None:
    """Whole numbers below 256, which every format holds."""
    view = EdgeNetwork(THREE, generator=torch.Generator().manual_seed(0)).offloading_view()
    small = {name: value.clamp(max=255).ceil() for name, value in view.tensors() if value.dtype != torch.bool}
    other = {"cache": view.cache, **{name: form(value) for name, value in small.items()}}
    expected = agent.decide(replace(view, **small))
    found = agent.decide(OffloadingView.of(**other))
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert agent.decide(view.to(dtype=torch.float64)).server.equal(agent.decide(view).server)


def test_an_agent_plays_networks_in_double_precision_and_none_at_all(agent: HADRL) -> None:
    assert agent.play(EdgeNetwork(THREE, dtype=torch.float64)).latency.isfinite().all()
    nothing = agent.decide(EdgeNetwork(THREE).offloading_view()[:0])
    assert [list(part.shape) for part in nothing] == [[0, 3]] * 3


@pytest.mark.usefixtures("as_installed")
def test_an_agent_says_what_it_cannot_act_on(agent: HADRL) -> None:
    known = {name: value.tolist() for name, value in EdgeNetwork(THREE).offloading_view().tensors()}
    text = "cycles must be an array of real numbers, got "
    for value, rest in ((torch.ones(3, dtype=torch.complex64), "torch.complex64"), (["x" * 5000], "")):
        changed = {**known, "cycles": value}
        assert said_by(lambda changed=changed: OffloadingView.of(**changed)).startswith(text + rest)  # type: ignore[misc]
    assert said_by(lambda: agent.play(EdgeNetwork(THREE, "published"))) == (
        "network must have the physics of the agent (strict), got published"
    )
    assert said_by(lambda: agent.for_scenario(None)) == "scenario must be a Scenario, got None"


# Files ---------------------------------------------------------------------------------------------------------------


class RunsCode:
    """Would run a command where it is loaded carelessly."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_a_file_that_could_run_code_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    torch.save({"a": RunsCode()}, tmp_path / "code.ckpt")
    assert "system, which could run code" in said_by(lambda: load_tensors(tmp_path / "code.ckpt"))
    (tmp_path / "damaged.ckpt").write_bytes(np.random.default_rng(0).bytes(1000))
    assert "must be an undamaged checkpoint" in said_by(lambda: load_tensors(tmp_path / "damaged.ckpt"))


def test_a_name_longer_than_any_file_has_is_none_of_an_agent() -> None:
    assert "(no such file)" in said_by(lambda: HADRL.from_checkpoint("x" * 5000))


def test_a_figure_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    figure = pyplot().figure()
    assert "file/it.pdf can't be written: " in said_by(lambda: save(figure, tmp_path / "file" / "it"))
    pyplot().close(figure)


def test_a_checkpoint_of_an_earlier_state_lacks_something_by_its_name() -> None:
    def load_state_dict(state: dict[str, Any]) -> None:
        state["caching_fades"]

    def resume(load: Callable[[dict[str, Any]], None]) -> None:
        with resuming_from(Path("old.ckpt")):
            load({})

    assert said_by(lambda: resume(load_state_dict)).endswith("got old.ckpt without 'caching_fades'")
    with pytest.raises(KeyError):
        resume(lambda state: state["a bug of ours"])


# Scenario and data ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_installed")
def test_a_scenario_of_nobody_may_say_where_nobody_is_and_needs_a_mapping() -> None:
    assert Scenario(num_users=0, user_positions_m=()).cells == ()
    text = "scenario must be a mapping of its fields, got None"
    assert said_by(lambda: Scenario.from_dict(None)) == text  # type: ignore[arg-type]


def test_data_say_in_words_what_they_are() -> None:
    data = TransitionDataModule(THREE, num_envs=2)
    data.setup("fit")
    assert str(data) == (
        "TransitionDataModule(num_envs=2, num_servers=2, num_users=3, num_services=10, physics=strict, slots=0)"
    )


# Benchmark -----------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_twice_is_computed_and_counted_once() -> None:
    sweep = Sweep("data.scenario.num_users", (5, 5))
    settings = PlanSettings(scenarios=("es2.yaml",) * 2, sweeps=(sweep, sweep), policies=("random+random",))
    assert len(make_plan(settings).entries) == 2 * 5  # with the yardstick, of 5 seeds


def test_a_benchmark_reads_agents_and_seeds_before_anything_is_computed(tmp_path: Path) -> None:
    file = tmp_path / "cut-0.ckpt"
    file.write_bytes(b"PK")
    policies = (str(tmp_path / "cut-{seed}.ckpt"),)
    text = said_by(lambda: make_plan(PlanSettings(policies=policies, seeds=(0,))))
    assert text.startswith(f"policies must be an undamaged checkpoint, got {file}")
    text = said_by(lambda: PlanSettings(seeds=(2**70,)))
    assert text == f"seeds must be at least 0 and below 2^64, got {2**70}"


# Gymnasium -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ServiceCaching", "ComputationOffloading", "EdgeNetwork"])
def test_an_environment_asks_for_a_reset_first_and_for_real_numbers(name: str) -> None:
    env = gymnasium.make(f"hadrl/{name}-v0", scenario=THREE).unwrapped
    action = np.zeros(env.action_space.shape or (), np.float32)
    assert said_by(lambda: env.step(action)) == "step must follow reset: no episode has begun"
    env.reset(seed=0)
    assert said_by(lambda: env.step(action.astype(complex))).startswith(
        "action must be an array of numbers, got "
    )


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("name", "setting", "given"),
    [("ServiceCaching", "offloading_policy", None), ("ComputationOffloading", "caching_policy", "lru")],
)
def test_the_level_that_an_environment_leaves_out_needs_a_function(
    name: str, setting: str, given: Any
) -> None:
    text = said_by(lambda: gymnasium.make(f"hadrl/{name}-v0", scenario=THREE, **{setting: given}))
    assert text == f"{setting} must be a function of the network, got {given!r}"


def test_a_long_value_is_shown_by_its_two_ends() -> None:
    text = str(HadrlError(f"it must be short, got {'a' * 5000}z; be brief"))
    assert text.startswith("it must be short, got aaa")
    assert text.endswith("aaz; be brief")
    assert len(text) < 250
