import csv
import sys
from pathlib import Path

import pytest

from hadrl_lightning.benchmark import default_policies
from hadrl_lightning.cli import main
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.plots import draw
from hadrl_lightning.plots.benchmark import (
    ONE_TRAINING,
    OVER_BOTH,
    OVER_EPISODES,
    OVER_SEEDS,
    _bars,
    _convergence,
    _sweep,
)
from hadrl_lightning.plots.style import colour, family, look, style
from hadrl_lightning.plots.tables import axis, read_rows

pytestmark = pytest.mark.unchecked

HEAD = {"label": "a label", "scenario": "es2", "sweep_key": "", "sweep_value": ""}


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def summary(policy: str, metric: str, mean: float, **head: object) -> dict:
    trainings = 0 if "+" in policy else 1 if policy == "ppo" else 5
    interval = {"mean": mean, "low": mean * 0.9, "high": mean * 1.1, "seeds": 5, "trainings": trainings}
    return {"policy": policy, **HEAD, **head, "metric": metric, **interval}


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    policies = ("hadrl", "hadrl-horizon-5", "ppo", "latency_optimal+best_known")
    metrics = ("hit_ratio", "latency_s", "on_time", "energy_j", "switching_s", "ratio_to_least_known")
    write(tmp_path / "summary.csv", [summary(policy, name, 0.5) for policy in policies for name in metrics])
    curves = [
        {**summary(policy, name, value), "slots": slots}
        for policy in policies[:3]
        for name in ("hit_ratio", "latency")
        for slots, value in ((100, 0.4), (200, 0.6))
    ]
    write(tmp_path / "curves.csv", curves)
    return tmp_path


def test_a_benchmark_has_bars_and_convergence_as_pdf_and_png(benchmark: Path) -> None:
    files = draw(benchmark)
    names = [f"{name}-es2.{kind}" for name in ("bars", "convergence", "ablations") for kind in ("pdf", "png")]
    assert [file.name for file in files] == names
    for file in files:
        assert file.parent == benchmark / "figures"
        assert file.read_bytes().startswith(b"%PDF" if file.suffix == ".pdf" else b"\x89PNG")


def test_the_same_results_give_the_same_files(benchmark: Path) -> None:
    (benchmark / "curves.csv").unlink()
    first = [file.read_bytes() for file in draw(benchmark, benchmark / "one")]
    assert first == [file.read_bytes() for file in draw(benchmark, benchmark / "two")]


@pytest.mark.parametrize(
    ("key", "values"), [("data.scenario.cache_bytes", [2**34, 2**38]), ("model.fast_level", ["flat", "set"])]
)
def test_a_sweep_is_drawn_over_numbers_and_over_words(tmp_path: Path, key: str, values: list) -> None:
    rows = [
        summary(policy, metric, 0.5, sweep_key=key, sweep_value=value)
        for policy in ("hadrl", "ppo")
        for metric in ("hit_ratio", "latency_s")
        for value in values
    ]
    write(tmp_path / "summary.csv", rows)
    names = [file.name for file in draw(tmp_path)]
    short = key.rpartition(".")[2]
    assert names[0] == f"sweep-es2-{short}.pdf"
    assert f"bars-es2-{short}-{'16' if 'cache' in key else 'flat'}.png" in names


@pytest.mark.parametrize(
    ("key", "values", "label", "ticks"),
    [
        (
            "data.scenario.cache_bytes",
            ["21474836480", "214748364800"],
            "cache per server (GiB)",
            ["20", "200"],
        ),
        ("data.scenario.cloud_delay_s", ["0.1", "0.02"], "cloud delay (ms)", ["100", "20"]),
        ("data.scenario.cloud_rate_bit_per_s", ["4194304"], "cloud rate (Mibit/s)", ["4"]),
        ("data.scenario.noise_dbm", ["-114", "-90.5"], "noise (dBm)", ["-114", "-90.5"]),
        ("data.scenario.cell_radius_m", ["0", "1500"], "cell radius (km)", ["0", "1.5"]),
        ("data.scenario.num_users", ["20", "30"], "users", ["20", "30"]),
        ("planning.planner.horizon", ["1", "5"], "horizon", ["1", "5"]),
        ("data.scenario.compute_hz", ["(60000000000.0, 5e8)"], "compute per server", ["[60 GHz, 500 MHz]"]),
        ("model.fast_level", ["flat", "set"], "fast level", ["flat", "set"]),
    ],
)
def test_an_axis_has_the_name_of_any_setting_and_its_unit(
    key: str, values: list[str], label: str, ticks: list[str]
) -> None:
    shown = axis(key, values)
    assert shown.label == label
    assert [shown.short(value) for value in values] == ticks


@pytest.mark.parametrize(
    ("largest", "label"), [(2**35, "cache per server (GiB)"), (2**38, "cache per server (GiB), logarithmic")]
)
def test_a_logarithmic_axis_says_so(largest: int, label: str) -> None:
    key = "data.scenario.cache_bytes"
    rows = [
        {name: str(value) for name, value in summary("ppo", "latency_s", 0.5, sweep_value=value).items()}
        for value in (2**34, largest)
    ]
    with style() as plt:
        figure = _sweep(plt, rows, key)
        assert figure.axes[0].get_xlabel() == label
        plt.close("all")


def test_with_one_seed_no_figure_speaks_of_an_interval_over_seeds() -> None:
    row = {name: str(value) for name, value in summary("hadrl", "latency_s", 0.5).items()}
    row |= {"seeds": "1", "trainings": "1"}
    curve = {**row, "metric": "hit_ratio", "slots": "100", "low": "nan", "high": "nan"}
    with style() as plt:
        bars, sweep = _bars(plt, [row]), _sweep(plt, [{**row, "sweep_value": "5"}], "data.scenario.num_users")
        lines = _convergence(plt, [curve], [row])
        texts = [
            [text.get_text() for text in figure.legends[0].get_texts()] for figure in (bars, sweep, lines)
        ]
        plt.close("all")
    assert texts == [
        [OVER_EPISODES, ONE_TRAINING],
        ["a label (one training)", OVER_EPISODES],
        ["a label (one training)"],
    ]


def test_the_energy_has_the_panel_of_its_unit(benchmark: Path) -> None:
    rows = read_rows(benchmark / "summary.csv", ())
    for row in rows:
        row["metric"] = row["metric"].replace("energy_j", "energy_dbm_s")
    with style() as plt:
        labels = [panel.get_xlabel() for panel in _bars(plt, rows).axes]
        plt.close("all")
    assert [label for label in labels if "energy" in label] == ["energy (dBm·s)\nlower is better"]


def test_a_run_has_learning_curves_although_rows_have_gaps(tmp_path: Path) -> None:
    rows = [
        {"step": 100, "collect/latency": 5.0, "val/latency": "", "train/caching_agent/critic": 1.0},
        {"step": 200, "collect/latency": "", "val/latency": 4.0, "train/caching_agent/critic": "nan"},
    ]
    write(tmp_path / "metrics.csv", rows)
    assert [file.name for file in draw(tmp_path)] == ["learning-curves.pdf", "learning-curves.png"]


def test_a_policy_looks_the_same_everywhere_and_unlike_the_others() -> None:
    names = [*default_policies(), "ppo-set"]
    looks = {
        name: (look(name)["color"], look(name)["marker"], str(look(name)["linestyle"])) for name in names
    }
    assert len(set(looks.values())) == len(names)
    learners = [name for name in names if family(name) in ("HADRL", "ablation", "learner")]
    assert len({colour(name) for name in learners}) == len(learners)
    assert look("mine+home_equal") == look("mine+home_equal")


def test_ours_is_above_all_other_lines() -> None:
    others = [name for name in default_policies() if name != "hadrl"]
    assert look("hadrl")["zorder"] > max(look(name)["zorder"] for name in others)
    assert look("agents/es2-{seed}.ckpt")["zorder"] == look("hadrl")["zorder"]


def test_figures_say_what_is_better_what_bands_are_and_what_is_of_one_training(benchmark: Path) -> None:
    rows = read_rows(benchmark / "summary.csv", ())
    curves = read_rows(benchmark / "curves.csv", ())
    with style() as plt:
        bars, lines = _bars(plt, rows), _convergence(plt, curves, rows)
        texts = {
            figure: {text.get_text() for text in figure.legends[0].get_texts()} for figure in (bars, lines)
        }
        assert texts[bars] == {OVER_BOTH, ONE_TRAINING}
        assert OVER_SEEDS in texts[lines]
        assert "a label (one training)" in texts[lines]
        hatches = [patch.get_hatch() for patch in bars.axes[0].patches]
        assert hatches == [None, None, "////", None]  # ppo has one
        axes = [panel.get_xlabel() for panel in bars.axes] + [panel.get_title() for panel in lines.axes]
        assert all("lower is better" in text or "higher is better" in text for text in axes)
        plt.close("all")


def test_policies_are_sorted_into_families() -> None:
    names = {
        "hadrl": "HADRL",
        "hadrl-one-member": "ablation",
        "hadrl-published": "learner",
        "sac": "learner",
        "lru+least_loaded_equal": "heuristic",
        "density+least_loaded_sqrt": "knows the physics",
        "lower-bound": "knows the physics",
    }
    assert {name: family(name) for name in names} == names


def test_a_folder_without_results_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["plot", str(tmp_path)]) == 2
    assert "summary.csv (of a benchmark) or metrics.csv (of a run)" in capsys.readouterr().err
    write(tmp_path / "summary.csv", [{"policy": "hadrl"}])
    assert main(["plot", str(tmp_path)]) == 2
    assert "must have a column label" in capsys.readouterr().err


def test_the_command_prints_what_it_drew(benchmark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (benchmark / "curves.csv").unlink()
    assert main(["plot", str(benchmark), "--output", str(benchmark / "here")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_missing_matplotlib_is_told_with_its_extra(
    benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(HadrlError, match=r"pip install 'hadrl-lightning\[plots\]'"):
        draw(benchmark)
