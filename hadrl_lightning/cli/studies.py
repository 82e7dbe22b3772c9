"""`hadrl benchmark` and `hadrl plot`: all policies on the same episodes, and the figures made of it."""

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hadrl_lightning.cli.mistakes import LineParser
from hadrl_lightning.errors import HadrlError, HadrlWarning, require
from hadrl_lightning.files import replacing

QUICK_POLICIES = (
    "hadrl",
    "twin-ddpg",
    "random+random",
    "popularity+home_equal",
    "density+least_loaded_equal",
    "density+least_loaded_sqrt",
)
"""Policies of `--quick`; the yardstick comes with them."""
QUICK: dict[str, Any] = {
    "seeds": [0],
    "overlays": [
        "tight.yaml",
        "quick.yaml",
        {"data": {"scenario": {"decisions_per_episode": 5}, "test_episodes": 5}},
    ],
}
"""Other defaults of `--quick`, over the scenarios and beneath `--config` and flags: few episodes, half as long."""
CODE_OF_FAILURE = 1
SLOW_S = 20
"""Networks of a suite that took longer are named at the end."""


def run(words: Sequence[str]) -> int:
    """Carry out `benchmark …` or `plot …` and return the exit status.

    Raises:
        HadrlError: a mistake of the user.
    """
    if words[0] == "plot":
        return _plot(plot_parser().parse_args(list(words[1:])))
    options, others = benchmark_parser().parse_known_args(list(words[1:]))
    overrides = settings_of(others, "benchmark")
    return _benchmark(options, overrides, words)


def plot_parser() -> LineParser:
    """Of `hadrl plot`."""
    parser = LineParser(
        prog="hadrl plot",
        allow_abbrev=False,
        description="Redraw the figures of a benchmark folder, or draw the learning curves of a run "
        "(a folder with metrics.csv), as PDF and PNG. Needs the extra hadrl-lightning[plots].",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="what hadrl benchmark or hadrl fit wrote")
    parser.add_argument("--output", type=Path, help="where the figures go (default: DIR/figures)")
    parser.add_argument(
        "--worst",
        type=int,
        default=4,
        metavar="N",
        help="of a suite: networks that are drawn, those where an agent loses most (default: %(default)s)",
    )
    return parser


def _plot(options: argparse.Namespace) -> int:
    from hadrl_lightning.plots import draw

    if options.worst < 1:
        raise HadrlError(f"worst must be at least 1, got {options.worst}")
    for file in draw(options.folder, options.output, options.worst):
        print(os.path.relpath(file))
    return 0


def benchmark_parser() -> LineParser:
    """Of `hadrl benchmark`; settings may stand beside its arguments."""
    from hadrl_lightning.benchmark.policies import LEARNERS, LOWER_BOUND, PUBLISHED_SIZES
    from hadrl_lightning.benchmark.suites import SUITES

    parser = LineParser(
        prog="hadrl benchmark",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Policies x scenarios x seeds on the same requests, positions and fading: a table, CSV files and\n"
        "figures. It goes on where it was interrupted: finished cells lie in OUTPUT/cells and are used again.",
        epilog="policies:\n"
        f"  learners: {', '.join(LEARNERS)}\n"
        f"  bound: {LOWER_BOUND}\n"
        "  heuristics: CACHING+OFFLOADING, such as lru+least_loaded_equal (see docs/benchmark.md)\n\n"
        "Any setting of the scenario or of HADRL can follow, such as --data.scenario.num_users 60.\n\n"
        "examples:\n"
        "  hadrl benchmark --quick\n"
        "  hadrl benchmark --scenarios es2.yaml es5.yaml --config tight.yaml\n"
        "  hadrl benchmark --suite unseen --workers 2\n"
        "  hadrl benchmark --sweep data.scenario.cache_bytes=20GiB,40GiB,80GiB,200GiB --workers 4",
    )
    add = parser.add_argument
    add("--scenarios", nargs="+", metavar="NAME", help="settings files, a scenario each (default: es2.yaml)")
    add("--suite", metavar="NAME", help=f"a list of networks in their place: {', '.join(SUITES)}")
    add("--places", nargs="+", default=[], metavar="NAME", help="some networks of the suite (default: all)")
    add("-c", "--config", action="append", metavar="NAME", help="settings merged over each; give several")
    add("--policies", nargs="+", metavar="POLICY", help="default: all, or those of the suite")
    add(
        "--seeds",
        nargs="+",
        type=int,
        help="of training and of policies that draw (default: 0 1 2 3 4; of a suite 0)",
    )
    add("--slots", type=int, help="slots each learner trains on (default: those of the settings)")
    add("--episodes", type=int, help="test episodes (default: data.test_episodes, or those of the suite)")
    add("--sweep", action="append", default=[], metavar="KEY=a,b,c", help="one setting at several values")
    add(
        "--published_size",
        default="small",
        metavar="SIZE",
        help=f"of hadrl-published: {', '.join(PUBLISHED_SIZES)}",
    )
    add("--output", type=Path, default=Path("checkpoints/benchmark"), help="default: %(default)s")
    add(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="what computes the cells: processes here, or Ray (needs hadrl-lightning[ray]) (default: %(default)s)",
    )
    add("--workers", type=int, help="cells computed at once, a thread each (default: 1; with ray: all CPUs)")
    add(
        "--ray_address",
        metavar="ADDRESS",
        help="of a running Ray cluster, or auto (default: Ray starts here)",
    )
    add("--refresh", action="store_true", help="compute again what is computed already")
    add("--report_only", action="store_true", help="tables and figures of what is computed already")
    add("--no_figures", action="store_true", help="leave the figures to hadrl plot")
    add("--quick", action="store_true", help="a few policies, small settings: within a minute")
    return parser


def _benchmark(options: argparse.Namespace, overrides: dict[str, Any], words: Sequence[str]) -> int:
    from hadrl_lightning.benchmark import Archive, PlanSettings, make_plan, records_of, run_cells
    from hadrl_lightning.benchmark.plan import parse_sweep, policies_of

    _check_engine(options)
    _check_suite(options)
    default = QUICK if options.quick else {}
    settings = PlanSettings(
        scenarios=tuple(options.scenarios or ["es2.yaml"]),
        suite=options.suite,
        places=tuple(options.places),
        overlays=(*default.get("overlays", ()), *(options.config or ())),
        overrides=overrides,
        sweeps=tuple(parse_sweep(text) for text in options.sweep),
        policies=tuple(options.policies or (QUICK_POLICIES if options.quick else [])),
        seeds=tuple(
            dict.fromkeys(options.seeds or default.get("seeds", [0] if options.suite else [0, 1, 2, 3, 4]))
        ),
        slots=options.slots,
        episodes=options.episodes,
        published_size=options.published_size,
    )
    _require_extras(options, policies_of(settings))
    if options.report_only:
        _report(_archived(options, settings), options)
        return 0
    plan = make_plan(settings)
    _write_command(options.output, words)
    archive = Archive(options.output)
    archive.note(plan)
    progress = Progress(len(plan.cells), _place_names(plan))
    outcomes = run_cells(
        plan.cells,
        options.output,
        options.workers,
        progress,
        options.refresh,
        options.engine,
        options.ray_address,
    )
    archive.finish(outcomes)
    failed = [outcome for outcome in outcomes.values() if outcome.result is None]
    _report(records_of(plan, outcomes), options, progress.remark)
    for outcome in failed:
        where = os.path.relpath(outcome.cell.file(options.output).with_suffix(".failed.txt"))
        print(f"failed: {outcome.cell.policy}: {outcome.error} ({where})", file=sys.stderr)
    return CODE_OF_FAILURE if failed else 0


def _archived(options: argparse.Namespace, settings: Any) -> list[Any]:
    """The results that the folder holds: all of them, or those that the options name."""
    from hadrl_lightning.benchmark import Archive, chosen
    from hadrl_lightning.benchmark.plan import scenario_labels
    from hadrl_lightning.judge import LEAST_KNOWN

    archive = Archive(options.output)
    archive.collect()
    named = options.suite or options.scenarios or options.config or options.quick
    records = chosen(
        archive.records(),
        scenarios=scenario_labels(settings) if named else [],
        sweep_keys=[sweep.key for sweep in settings.sweeps],
        policies=[*options.policies, LEAST_KNOWN] if options.policies else [],
        seeds=options.seeds or [],
    )
    if not records:
        raise HadrlError(
            f"report_only needs results of what is asked for in {options.output}, got "
            f"{len(archive.records())} others"
        )
    return records


def _report(records: list[Any], options: argparse.Namespace, remark: str = "") -> None:
    """Tables, CSV files and figures."""
    from hadrl_lightning.benchmark import groups, result_table, write_report
    from hadrl_lightning.benchmark.records import early_bests
    from hadrl_lightning.benchmark.spread import slow_places, suite_of
    from hadrl_lightning.console import show

    write_report(records, options.output)
    show(*result_table(records))
    for text in early_bests(groups(records)):
        warnings.warn(text, HadrlWarning, stacklevel=2)
    slow = [f"{name} {seconds:.0f} s" for name, seconds in slow_places(records, SLOW_S)]
    if suite_of(records) and slow:
        print(f"More than {SLOW_S} s: {', '.join(slow)}")
    print(f"Outputs: {os.path.relpath(options.output)}{remark}")
    if records and not options.no_figures:
        from hadrl_lightning.plots import draw

        draw(options.output)


def _check_engine(options: argparse.Namespace) -> None:
    if options.workers is not None and options.workers < 1:
        raise HadrlError(f"workers must be at least 1, got {options.workers}")
    if options.ray_address is not None and options.engine != "ray":
        raise HadrlError(f"ray_address must come with --engine ray, got --engine {options.engine}")


def _check_suite(options: argparse.Namespace) -> None:
    others = [name for name in ("scenarios", "sweep", "quick") if getattr(options, name)]
    if options.suite is not None and others:
        raise HadrlError(f"suite must stand without --{others[0]}, got --suite {options.suite}")


def _place_names(plan: Any) -> dict[str, str]:
    """By the keys of cells what their scenarios are called; none where there is one scenario alone."""
    found = {entry.cell.key: entry.scenario for entry in plan.entries}
    return found if len(set(found.values())) > 1 else {}


def _require_extras(options: argparse.Namespace, policies: Sequence[str]) -> None:
    """Name all packages that are missing before hours of work, not one after the other."""
    from hadrl_lightning.benchmark.plan import optional_modules
    from hadrl_lightning.benchmark.runner import set_environment

    modules = [] if options.report_only else optional_modules(policies)
    if options.engine == "ray" and not options.report_only:
        set_environment()
        modules.append("ray")
    if not options.no_figures:
        modules.append("matplotlib")
    require("benchmark", modules)


class Progress:
    """A line for every cell that is done, and one for all that were computed before."""

    def __init__(self, total: int, places: Mapping[str, str] | None = None) -> None:
        self.total = total
        self.places = places or {}
        """By the keys of cells what their scenarios are called, where there are several."""
        self.done = 0
        self.reused = 0
        self.stale = 0

    def __call__(self, outcome: Any) -> None:
        """Say what became of a cell."""
        from hadrl_lightning.benchmark.compute import versions

        self.done += 1
        cell, result = outcome.cell, outcome.result
        seed = "" if cell.seed is None else f", seed {cell.seed}"
        where = f"{self.places[cell.key]}, " if cell.key in self.places else ""
        text = f"[{self.done}/{self.total}] {where}{cell.policy}{seed}: "
        if outcome.reused:
            self.reused += 1
            self.stale += result.versions != versions()
        if self.reused and (not outcome.reused or self.done == self.total):  # those come first
            print(f"[{self.reused}/{self.total}] computed before", flush=True)
            self.reused = 0
        if outcome.reused:
            return
        if result is None:
            print(text + f"failed: {outcome.error}", flush=True)
            return
        hits = f"hits {result.scores['hit_ratio']:.3f}, " if "hit_ratio" in result.scores else ""
        reached = f"{result.figure} {result.cost:.2f}" + (" s" if result.figure == "latency" else "")
        print(text + hits + f"{reached} ({result.wall_s:.0f} s)", flush=True)

    @property
    def remark(self) -> str:
        """What should be known of cells that were used again."""
        if not self.stale:
            return ""
        return f" ({self.stale} cells were computed earlier by other versions; --refresh computes all again)"


def settings_of(words: Sequence[str], command: str) -> dict[str, Any]:
    """Settings out of `--KEY VALUE` and `--KEY=VALUE`.

    Raises:
        HadrlError: there is something else.
    """
    from hadrl_lightning.benchmark.plan import nested, parse_value
    from hadrl_lightning.benchmark.training import merged

    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not key.startswith("--") or "." not in key:
            raise HadrlError(f"unknown argument {key}; hadrl {command} --help shows what there is")
        if not equals:
            if not rest:
                raise HadrlError(f"{key} needs a value")
            value = rest.pop(0)
        found = merged(found, nested(key[2:], parse_value(key[2:], value)))
    return found


def _write_command(folder: Path, words: Sequence[str]) -> None:
    """Note how the results came about: one line for every command, the newest last."""
    file = folder / "command.txt"
    line = shlex.join(["hadrl", *words])
    earlier = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    with replacing(file) as temporary:
        lines = [*(one for one in earlier if one != line), line]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
