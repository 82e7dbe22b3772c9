"""Suites of frozen networks, and how policies are spread over them."""

import csv
import hashlib
import json
from pathlib import Path

import pytest

from hadrl_lightning.benchmark import (
    Archive,
    Cell,
    CellResult,
    PlanSettings,
    Record,
    compute,
    make_plan,
    write_report,
)
from hadrl_lightning.benchmark.spread import (
    agents_of,
    place_cells,
    slow_places,
    spreads,
    suite_of,
)
from hadrl_lightning.benchmark.suites import SUITES
from hadrl_lightning.cli import main
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge import LEAST_KNOWN
from hadrl_lightning.plots import draw
from hadrl_lightning.scenario import GIB, Scenario

pytestmark = pytest.mark.unchecked

UNSEEN = SUITES["unseen"]


def record(place: str, policy: str, latency: float, own: float, seed: int = 0, hits: float = 0.5) -> Record:
    """A result in a network whose best caches reach half of all hits, or none where there is no cache."""
    optimum = 0.0 if place == "no-cache" else 0.5
    scores = {"latency": latency, "own_best_known": own, "hit_ratio": hits, "optimal_hit_ratio": optimum}
    fields = UNSEEN.places[place].fields
    held = [[1.0] * fields["num_services"] for _ in range(fields["num_servers"])]
    result = CellResult(
        scores=scores,
        episodes={"latency": [latency], "own_best_known": [own], "hit_ratio": [hits]},
        wall_s=12.0,
        held=held,
    )
    key = f"{place}-{policy}-{latency}"
    return Record(f"unseen/{place}", "", None, policy, policy, seed, key, result)


RECORDS = [
    record("one-user", LEAST_KNOWN, 10.0, 10.0),
    record("one-user", "a.ckpt", 12.0, 11.0),
    record("one-user", "b-{seed}.ckpt", 10.05, 10.0, seed=0, hits=0.4),
    record("one-user", "b-{seed}.ckpt", 10.3, 10.0, seed=1, hits=0.5),
    record("one-user", "none+all_cloud", 50.0, 50.0, hits=0.0),
    record("no-cache", LEAST_KNOWN, 20.0, 20.0, hits=0.0),
    record("no-cache", "a.ckpt", 20.1, 20.0, hits=0.0),
    record("no-cache", "b-{seed}.ckpt", 20.0, 20.0, seed=0, hits=0.0),
    record("no-cache", "b-{seed}.ckpt", 30.0, 20.0, seed=1, hits=0.0),
    record("no-cache", "none+all_cloud", 20.0, 20.0, hits=0.0),
]


def test_the_networks_of_unseen_are_the_same_for_good() -> None:
    numbers = [[place.name, place.fields] for place in UNSEEN.places.values()]
    text = json.dumps(numbers, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "cf4cfc20945710f5"


def test_unseen_has_twelve_networks_by_hand_and_forty_drawn_ones_that_all_build() -> None:
    places = list(UNSEEN.places.values())
    assert [place.name for place in places[12:]] == [f"drawn-{index:02d}" for index in range(40)]
    scenarios = [Scenario.from_dict(place.fields) for place in places]
    assert all(place.why for place in places)
    for one in scenarios[12:]:
        assert 1 <= one.num_servers <= 12
        assert 5 <= one.num_users <= 100
        assert 4 <= one.num_services <= 60
        assert all(0.499 * GIB <= bits / 8 <= 400.5 * GIB for bits in one.cache_per_server_bits)
        assert 0 <= one.zipf_exponent <= 1.6
    assert {one.num_servers for one in scenarios} >= {1, 12}


def test_the_huge_service_fits_the_largest_cache_alone_and_is_the_most_popular() -> None:
    one = Scenario.from_dict(UNSEEN.places["one-huge-service"].fields)
    huge = max(one.storage_bits)
    assert [huge <= usable for usable in one.usable_cache_bits] == [False, False, True]
    assert one.popularity_vector[one.storage_bits.index(huge)] == max(one.popularity_vector)


def test_every_network_is_a_scenario_of_the_plan_with_the_numbers_of_the_suite() -> None:
    plan = make_plan(
        PlanSettings(
            suite="unseen", places=("drawn-03", "one-spot"), policies=("none+all_cloud",), seeds=(0,)
        )
    )
    found = {
        entry.scenario: entry.cell.settings for entry in plan.entries if entry.policy == "none+all_cloud"
    }
    assert list(found) == ["unseen/one-spot", "unseen/drawn-03"]
    given = Scenario.from_dict(UNSEEN.places["drawn-03"].fields)
    assert Scenario(**found["unseen/drawn-03"]["scenario"]) == given
    assert found["unseen/one-spot"]["test"]["episodes"] == UNSEEN.episodes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "seen"], "suite must be among unseen, got 'seen'"),
        (["--suite", "unseen", "--places", "nowhere"], "got 'nowhere'"),
        (["--places", "one-user"], "places must come with a suite, got one-user without"),
        (["--suite", "unseen", "--scenarios", "es2.yaml"], "suite must stand without --scenarios"),
        (["--suite", "unseen", "--sweep", "data.num_envs=1,2"], "suite must stand without --sweep"),
        (["--suite", "unseen", "--quick"], "suite must stand without --quick"),
        (
            ["--suite", "unseen", "--data.scenario.num_users", "3"],
            "data.scenario must be left to the suite unseen, got num_users",
        ),
    ],
)
def test_mistakes_about_suites_get_one_line_and_status_2(
    words: list[str], message: str, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "--policies", "none+all_cloud", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(in_empty_folder.iterdir())


def test_a_spread_is_over_networks_and_seeds_and_of_every_seed() -> None:
    found = {(one.policy, one.seed, one.measure): one for one in spreads(RECORDS)}
    assert found["a.ckpt", None, "least"].values == pytest.approx([1.2, 1.005])
    both = found["b-{seed}.ckpt", None, "least"]
    assert both.values == pytest.approx([1.005, 1.03, 1.0, 1.5])
    assert both.row == pytest.approx(
        {
            "mean": 1.13375,
            "first_quartile": 1.00375,
            "median": 1.0175,
            "third_quartile": 1.1475,
            "worst": 1.5,
            "within_1_percent": 0.5,
            "within_2_percent": 0.5,
            "within_5_percent": 0.75,
        }
    )
    assert found["b-{seed}.ckpt", 1, "least"].values == pytest.approx([1.03, 1.5])
    assert (LEAST_KNOWN, None, "least") not in found
    hits = found["b-{seed}.ckpt", None, "hits"]
    assert hits.values == pytest.approx([0.8, 1.0])  # where nothing can be held there is no share
    assert hits.row["worst"] == pytest.approx(0.8)
    assert hits.row["within_5_percent"] == 0.5
    assert found["a.ckpt", None, "decided_hits"].values == [1.0]  # the cloud is 5 × slower in one-user alone


def test_a_loss_is_split_into_that_of_the_caches_and_that_of_the_fast_level() -> None:
    own = agents_of(RECORDS)["a.ckpt"]
    assert [visit.place.name for visit in own] == ["one-user", "no-cache"]
    (loss,) = own[0].losses
    assert (loss.least, loss.caches, loss.own) == pytest.approx((1.2, 1.1, 12 / 11))
    heads, rows = place_cells(own)
    assert dict(zip(heads, rows[0], strict=True)) == {
        "network": "one-user",
        "S": "3",
        "U": "1",
        "K": "10",
        "÷ least known": "1.200",
        "by caches": "1.100",
        "by the fast level": "1.091",
        "hits ÷ optimum": "1.000",
        "what is special": UNSEEN.places["one-user"].why,
    }
    assert rows[1][-2] == "–"
    heads, rows = place_cells(agents_of(RECORDS)["b-{seed}.ckpt"])
    assert [row[4:6] for row in rows] == [["1.250", "1.500"], ["1.018", "1.030"]]


def test_only_results_of_one_suite_are_spread() -> None:
    assert suite_of(RECORDS) == "unseen"
    assert suite_of([*RECORDS, RECORDS[0]._replace(scenario="es2")]) == ""
    assert suite_of([]) == ""
    assert slow_places(RECORDS[:3], 20) == [("unseen/one-user", 36.0)]


def test_a_result_says_what_was_held_and_how_long_all_of_it_took() -> None:
    fields = {"num_users": 2, "decisions_per_episode": 2, "slots_per_decision": 1, "cache_bytes": 40 * GIB}
    test = {"episodes": 2, "parallel": 2, "seed": 0}
    settings = {"scenario": fields, "physics": "strict", "test": test}
    full, none = (
        compute(Cell(policy=f"{caching}+home_equal", settings=settings, seed=None))
        for caching in ("popularity", "none")
    )
    assert none.held == [[0.0] * 10] * 2
    assert full.held == [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]] * 2  # 31.25 of 32 GiB
    assert full.wall_s > full.evaluation_s > 0


@pytest.mark.slow
def test_a_tiny_run_writes_tables_and_figures_and_its_report_is_made_again(
    in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark", "--suite", "unseen", "--places", "no-cache", "one-user", "--output", "out"]
    words += ["--policies", "popularity+home_equal", "--episodes", "1"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "unseen/one-user, popularity+home_equal: hits" in shown
    assert "unseen, ÷ least known, over 2 networks" in shown
    with Path("out/distribution.csv").open(newline="") as file:
        rows = {(row["policy"], row["measure"]): row for row in csv.DictReader(file)}
    assert float(rows["popularity+home_equal", "least"]["worst"]) > 1
    assert rows["popularity+home_equal", "hits"]["values"] == "1"
    assert sorted(file.name for file in Path("out/figures").iterdir()) == [
        "distribution-unseen.pdf",
        "distribution-unseen.png",
    ]
    first = Path("out/places.json").read_bytes()
    assert main([*words, "--report_only", "--no_figures"]) == 0
    assert Path("out/places.json").read_bytes() == first
    held = Archive(Path("out")).records()[0].result.held
    assert [len(held), len(held[0])] == [3, 10]


def test_the_worst_networks_of_every_agent_are_drawn(tmp_path: Path) -> None:
    write_report([one for one in RECORDS if one.policy != "a.ckpt"], tmp_path)
    names = [file.name for file in draw(tmp_path, worst=1) if file.suffix == ".png"]
    assert names == ["distribution-unseen.png", "worst-unseen-b.png"]
    (tmp_path / "places.json").write_text("{}")
    with pytest.raises(HadrlError, match=r"places\.json must be written by hadrl benchmark --suite"):
        draw(tmp_path)
