"""Numbers with a unit are read wherever a number is, in the unit that the setting's name says; settings are UTF-8."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from hadrl_lightning import Scenario
from hadrl_lightning.benchmark.plan import parse_sweep, parse_value
from hadrl_lightning.cli import main
from hadrl_lightning.cli.studies import _overrides
from hadrl_lightning.config_files import load_config
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.units import UNITS, read_unit, read_units

GIB = 1024**3


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("compute_hz", "20GHz", 20e9),
        ("compute_hz", "1.5 GHz", 1.5e9),
        ("data.scenario.bandwidth_hz", "200M", 200e6),
        ("cache_bytes", "20GiB", 20 * GIB),
        ("cache_bytes", "20 GB", 20e9),
        ("cache_bytes", ".5KiB", 512),
        ("backhaul_bytes_per_s", "200 MiB/s", 200 * 1024**2),
        ("cloud_rate_bit_per_s", "4Mibit/s", 4 * 1024**2),
        ("cloud_rate_bit_per_s", "10Mbit/s", 10e6),
        ("workload_cycles", "3 Gcycles", 3e9),
        ("input_bits", "8Mbit", 8e6),
        ("cloud_delay_s", "30ms", 0.03),
        ("cloud_delay_s", "0.1s", 0.1),
        ("deadline_s", "2 min", 120),
        ("cloud_delay_s", "3\u00b5s", 3e-6),
        ("cloud_delay_s", "3\u03bcs", 3e-6),
        ("min_distance_m", "0.03km", 30),
        ("transmit_power_dbm", "-20 dBm", -20),
        ("path_loss_constant_db", "128.1dB", 128.1),
        ("compute_hz", "1e400Hz", float("inf")),
        ("cloud_delay_s", "1e-99999999s", 0.0),
    ],
)
def test_a_unit_becomes_the_unit_of_the_name(name: str, text: str, number: float) -> None:
    assert read_unit(name, text) == number


@pytest.mark.parametrize("value", ["20", 20, 2.5, None, True, "zipf", "", "GHz", [1, "2"], {"a": 1}])
def test_what_has_no_unit_stays_as_it_is(value: object) -> None:
    assert read_unit("compute_hz", value) == value
    assert read_unit("num_users", "20GHz") == "20GHz"  # whoever reads it says what is wrong


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("data.scenario.compute_hz", "20GiB", "Hz, kHz, MHz, GHz, THz"),
        ("cache_bytes", "20GHz", "B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"),
        ("cloud_delay_s", "30m", "ns, us, µs, ms, s, min, h"),
        ("cell_radius_m", "30ms", "mm, cm, m, km"),
        ("noise_dbm", "1dB", "dBm"),
    ],
)
def test_a_unit_of_another_kind_is_refused(name: str, text: str, allowed: str) -> None:
    with pytest.raises(HadrlError) as caught:
        read_unit(name, [text])
    assert str(caught.value) == f"{name} must be a number, in one of {allowed} if it has a unit, got {text!r}"


def test_every_number_of_a_scenario_with_a_dimension_has_units() -> None:
    without = {field.name for field in fields(Scenario) if not field.name.endswith(tuple(UNITS))}
    assert without == {
        *("num_servers", "num_users", "num_services", "decisions_per_episode", "slots_per_decision"),
        *("popularity", "zipf_exponent", "usable_cache_fraction", "share_floor", "free_share"),
        *("offload_thresholds", "processes", "ranges"),
    }


def test_python_reads_them_too() -> None:
    given = Scenario.from_dict(
        {
            "num_servers": 3,
            "compute_hz": ["60GHz", "30 GHz", 30e9],
            "cache_bytes": "20GiB",
            "cell_radius_m": "0.2km",
            "deadline_step_s": "800ms",
            "num_users": 1,
            "user_positions_m": [["50 m", 0]],
            "server_positions_m": [["0 m", "0 m"], ["0.1 km", 0], [200, 0]],
        }
    )
    assert given == Scenario(
        num_servers=3,
        compute_hz=(60e9, 30e9, 30e9),
        cache_bytes=20 * GIB,
        cell_radius_m=200,
        deadline_step_s=0.8,
        num_users=1,
        user_positions_m=((50, 0),),
        server_positions_m=((0, 0), (100, 0), (200, 0)),
    )
    with pytest.raises(ValueError, match=r"^compute_hz must be a number, in one of Hz.*got '20GiB'$"):
        Scenario.from_dict({"compute_hz": "20GiB"})
    with pytest.raises(ValueError, match=r"^cell_radius_m must be a whole number, got 0.5$"):
        Scenario.from_dict({"cell_radius_m": "50cm"})


def test_a_file_and_the_command_line_read_them(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(
        "data: {scenario: {compute_hz: [60GHz, 30GHz], cache_bytes: 20GiB}}\n"
        "model: {planner: {latency_scale_s: 500ms}}\n"
        "trainer: {max_time: 00:01:00:00}\n",
        encoding="utf-8-sig",  # a mark in front, as some editors write it
    )
    flags = ["--data.scenario.bandwidth_hz", "[0.1GHz, 200 MHz]", "--data.scenario.noise_dbm", "-100dBm"]
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                *("--config", "es2.yaml", "--config", "mine.yaml"),
                *flags,
                "--planning.planner={latency_scale_s: 2s}",
                "--print_config",
            ]
        )
    settings = yaml.safe_load(capsys.readouterr().out)
    scenario = Scenario.from_dict(settings["data"]["scenario"])
    assert scenario.compute_hz == (60e9, 30e9)
    assert scenario.bandwidth_hz == (0.1e9, 200e6)
    assert scenario.cache_bytes == 20 * GIB
    assert scenario.noise_dbm == -100
    assert settings["model"]["planner"]["latency_scale_s"] == 0.5
    assert settings["planning"]["planner"]["latency_scale_s"] == 2
    assert load_config("mine.yaml")["data"]["scenario"] == {
        "compute_hz": [60e9, 30e9],
        "cache_bytes": 20 * GIB,
    }


def test_benchmark_reads_them_in_flags_and_sweeps() -> None:
    assert _overrides(["--data.scenario.compute_hz", "20GHz", "--data.num_envs=2k"], {}) == {
        "data": {"scenario": {"compute_hz": 20e9}, "num_envs": 2000}
    }
    assert parse_sweep("data.scenario.compute_hz=[60GHz,30GHz],20GHz").values == ((60e9, 30e9), 20e9)
    assert parse_sweep("data.scenario.cloud_delay_s=30ms,0.1").values == (0.03, 0.1)
    assert parse_value("data.scenario.popularity", "zipf") == "zipf"
    with pytest.raises(HadrlError, match=r"compute_hz must be .* got '20GiB'"):
        parse_sweep("data.scenario.compute_hz=20GiB")


@pytest.mark.parametrize("how", ["flag", "file", "sweep"])
def test_another_kind_ends_in_one_line(
    how: str, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text("data: {scenario: {compute_hz: 20GiB}}")
    words = {
        "flag": ["fit", "--config=es2.yaml", "--data.scenario.compute_hz=20GiB"],
        "file": ["fit", "--config=bad.yaml"],
        "sweep": ["benchmark", "--sweep=data.scenario.compute_hz=20GiB"],
    }[how]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hadrl: error: data.scenario.compute_hz must be a number, in one of Hz, kHz,")
    assert line.endswith("if it has a unit, got '20GiB'")
    assert not Path("checkpoints").exists()


def test_nothing_is_changed_in_place() -> None:
    settings = {"data": {"scenario": {"compute_hz": ["1GHz"]}}, "trainer": {"period_s": "1 h"}}
    assert read_units(settings) == {
        "data": {"scenario": {"compute_hz": [10**9]}},
        "trainer": {"period_s": "1 h"},
    }
    assert settings["data"]["scenario"]["compute_hz"] == ["1GHz"]


# --- encodings of settings files

TEXT = "# Σ 边缘\ndata: {num_envs: 4}\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (TEXT.replace("Σ ", "").encode("gbk"), "another encoding"),
        ("# \u00e9t\u00e9\ndata: {num_envs: 4}\n".encode("latin-1"), "another encoding"),
        (TEXT.encode("utf-16"), "UTF-16"),
        (b"data: {num_envs: 4}\n".decode().encode("utf-16-be"), "UTF-16"),
    ],
)
def test_a_file_in_another_encoding_gets_one_line(
    content: bytes, encoding: str, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_bytes(content)
    command = "fit" if encoding == "UTF-16" and content[:1] != b"\0" else "benchmark"  # the two readers
    assert main([command, "--config", "mine.yaml"]) == 2
    assert capsys.readouterr().err == (
        f"hadrl: error: config must be a text file in UTF-8, got mine.yaml in {encoding}\n"
    )


def test_a_mark_in_front_is_no_part_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(TEXT.encode("utf-8-sig"))
    assert load_config(tmp_path / "mine.yaml") == {"data": {"num_envs": 4}}


@pytest.mark.slow
def test_a_system_in_another_encoding_reads_utf8(in_empty_folder: Path) -> None:
    Path("mine.yaml").write_bytes(TEXT.encode())
    run = [sys.executable, "-X", "utf8=0", "-m", "hadrl_lightning.cli"]
    done = subprocess.run(
        [*run, "fit", "--config=es2.yaml", "--config=mine.yaml", "--print_config"],
        capture_output=True,
        check=False,
        env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert b"num_envs: 4" in done.stdout
