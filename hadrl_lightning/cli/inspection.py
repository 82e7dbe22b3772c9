"""`hadrl inspect FILE`, what an agent's file says of itself, and `hadrl show`, an episode as a picture that moves."""

import argparse
import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hadrl_lightning.agent_files import RECORD, find_agent, is_shipped, read_agent, settings_of_shipped
from hadrl_lightning.agents.seen import NUMBERS, range_shown
from hadrl_lightning.cli import runs
from hadrl_lightning.cli.checkpoints import settings_in
from hadrl_lightning.cli.mistakes import LineParser
from hadrl_lightning.cli.resuming import runs_root
from hadrl_lightning.config_files import (
    class_parser,
    construct,
    groups_of,
    load_config,
    merged,
    said,
    shipped_configs,
)
from hadrl_lightning.errors import HadrlError, OutputError, require
from hadrl_lightning.play import Frame, Policies, by_policy
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.scenario.ranges import RANGED
from hadrl_lightning.simulator import EdgeNetwork, Use, check_seed

FORMATS = ("gif", "html", "mp4")
HEURISTICS = "popularity+best_known"
"""Who plays where no agent is named."""
WIDTH = 80
LABEL = 12
"""Characters of the first column."""


def run(words: Sequence[str]) -> int:
    """Carry out `inspect …` or `show …` and return the exit status.

    Raises:
        HadrlError: a mistake of the user, or a file that is not what was written.
    """
    if words[0] == "show":
        return _show(*show_parser().parse_known_args(list(words[1:])))
    path = find_agent(inspect_parser().parse_args(list(words[1:])).file, "FILE")
    print("\n".join(description(os.path.relpath(path), read_agent(path, "FILE"))))
    return 0


def inspect_parser() -> LineParser:
    """Of `hadrl inspect`."""
    parser = LineParser(
        prog="hadrl inspect",
        allow_abbrev=False,
        description="Show what the file of an agent, or a checkpoint of a training, was made by: version, date,\n"
        "scenario, models, data, scores, the ranges that training saw, and its digest, which is checked.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="a path, or a shipped agent such as es2.ckpt")
    return parser


def description(name: str, contents: Mapping[str, Any]) -> Iterable[str]:
    """Lines of at most 80 characters on the contents of a file."""
    record, settings = contents[RECORD], contents["hyper_parameters"]
    to_go_on = "optimizer_states" in contents
    yield from _row("file", [name])
    yield from _row("holds", ["a training, to go on from" if to_go_on else "weights alone"])
    yield from _row("made by", [f"hadrl-lightning {record['version']}, {record['made']}"])
    yield from _row("trained", (f"{value} {unit}" for unit, value in record["training"].items()))
    yield from _row("scores", (f"{key} {value:.4g}" for key, value in record["scores"].items()))
    yield from _row("models", _models(contents["state_dict"], settings))
    yield from _row("physics", [settings["physics"]])
    yield from _row("scenario", _scenario(Scenario.from_dict(settings["scenario"])))
    yield from _row("data", (f"{key} {value}" for key, value in record["data"].items()))
    yield from _row("digest", [record["digests"]["agent"]])
    yield "seen in training:"
    weights = contents["state_dict"]
    ends = zip(NUMBERS, weights["seen.least"].tolist(), weights["seen.most"].tolist())
    for number, least, most in ends:
        if least <= most:
            yield f"  {number:<40} {range_shown(number, (least, most))}"


def _row(label: str, items: Iterable[str]) -> list[str]:
    text = ", ".join(items) or "not known"
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{label:<{LABEL}}", subsequent_indent=" " * LABEL, break_on_hyphens=False
    )


def _models(weights: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterable[str]:
    yield f"fast level {settings['fast_level']}"
    yield f"slow level {settings['slow_level']}"
    yield f"{sum(math.prod(value.shape) for value in weights.values()):,} numbers"


def _scenario(scenario: Scenario) -> Iterable[str]:
    """The shipped scenario that it is; else sizes, and what differs from the defaults."""
    named = (name for name in shipped_configs() if _is(scenario, name))
    yield from [next(named, "of its own")]
    default, sizes = Scenario().to_dict(), ("num_servers", "num_users", "num_services")
    for name, value in scenario.to_dict().items():
        if name in sizes or value != default[name]:
            yield f"{name} {_value(name, value)}"


def _value(name: str, value: Any) -> str:
    """A setting of a scenario; a range as its ends."""
    if name in RANGED and isinstance(value, Mapping):
        further = [word for word in ("log", "alike") if value[word]]
        return " ".join([f"{value['low']:.10g} to {value['high']:.10g}", *further])
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _is(scenario: Scenario, name: str) -> bool:
    try:
        return Scenario.from_config(name) == scenario
    except ValueError:  # no scenario in it
        return False


# An episode ----------------------------------------------------------------------------------------------------------


def show_parser() -> LineParser:
    """Of `hadrl show`; settings of the data may stand beside its arguments."""
    parser = LineParser(
        prog="hadrl show",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Play one episode and show it: episode.gif, and episode.html, a page with a slider and all\n"
        "numbers of every slot. Needs the extra hadrl-lightning[plots].",
        epilog="Any setting of the data can follow, such as --data.scenario.num_users 60.\n\n"
        "examples:\n"
        "  hadrl show --config es3.yaml --config mobile.yaml\n"
        "  hadrl show --ckpt_path best\n"
        "  hadrl show --config es3.yaml --config queues.yaml --policies density+least_loaded_sqrt --format html",
    )
    add = parser.add_argument
    add(
        "-c",
        "--config",
        action="append",
        default=[],
        metavar="NAME",
        help="a settings file; give several, later ones win",
    )
    add(
        "--ckpt_path",
        metavar="PATH",
        help="who plays: an agent, or last or best; without --config in its own settings",
    )
    add("--policies", metavar="NAME", help=f"who plays: CACHING+OFFLOADING (default: {HEURISTICS})")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="where the files go (default: a folder show-NAME beside the agent)",
    )
    add(
        "--format",
        nargs="+",
        default=["gif", "html"],
        metavar="KIND",
        help=f"of {', '.join(FORMATS)} (default: gif html)",
    )
    add("--slots", type=int, metavar="N", help="slots that are shown (default: the episode)")
    add("--seed", type=int, metavar="N", help="of the episode (default: data.test_seed)")
    return parser


def _show(options: argparse.Namespace, others: Sequence[str]) -> int:
    from hadrl_lightning import viewer
    from hadrl_lightning.baselines import CACHING_POLICIES, OFFLOADING_POLICIES
    from hadrl_lightning.benchmark.players import blaming

    _check(options)
    require("show", ["matplotlib"])
    if "mp4" in options.format:
        viewer.require_ffmpeg()
    root = runs_root(options.config)
    name = runs.run_name(options.config)
    file = None
    if options.ckpt_path is not None:
        file = runs.find_checkpoint(options.ckpt_path, root, name if options.config else None)
    contents = None if file is None else read_agent(file)
    network = _network(options, _data(options.config, _overrides(others), file, contents))
    slots = network.declared.slots_per_episode
    if not 1 <= (options.slots or slots) <= slots:
        raise HadrlError(f"slots must be from 1 to {slots}, those of an episode, got {options.slots}")
    policies = _pair(options.policies or HEURISTICS, network) if file is None else _agent(file, network)
    player = options.policies or HEURISTICS if file is None else runs.name_of(file)
    folder = runs.results_folder(file, root / name) if file is not None else root / name
    output = options.output or folder / f"show-{Path(player).stem}"
    _check_output(output)
    of_ours = {*CACHING_POLICIES, *OFFLOADING_POLICIES}
    own = file is None and not of_ours.issuperset(player.split("+"))
    with blaming(player) if own else nullcontext():  # for what is infeasible
        scenes = _scenes(network, policies, options.slots or slots)
    title = f"{Path(player).name} in {name}" if options.config else Path(player).name
    writers = {"gif": viewer.write_gif, "html": viewer.write_replay, "mp4": viewer.write_mp4}
    for kind in dict.fromkeys(options.format):
        writers[kind](output / f"episode.{kind}", scenes, title)
        print(os.path.relpath(output / f"episode.{kind}"))
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse what can't be, before anything is read."""
    for kind in options.format:
        if kind not in FORMATS:
            raise HadrlError(f"format must be among {', '.join(FORMATS)}, got {kind!r}")
    if options.slots is not None and options.slots < 1:
        raise HadrlError(f"slots must be at least 1, got {options.slots}")
    if options.seed is not None:
        check_seed("seed", options.seed)
    if options.policies is not None and options.ckpt_path is not None:
        raise HadrlError(
            f"policies must stand without --ckpt_path, got {options.policies} and {options.ckpt_path}"
        )


def _check_output(folder: Path) -> None:
    """Refuse a folder that can't be written to, before anything is played."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(one))
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise OutputError(
            f"output must be a folder that can be written to, got {str(folder)!r}: {there} is none"
        )


def _overrides(words: Sequence[str]) -> dict[str, Any]:
    """Settings of the data that stand beside the arguments."""
    from hadrl_lightning.cli.studies import settings_of

    found = settings_of(words, "show")
    wrong = [key for key in found if key != "data"]
    if wrong:
        raise HadrlError(f"settings must be of data, such as --data.scenario.num_users, got --{wrong[0]}")
    return found


def _data(
    configs: Sequence[str],
    overrides: Mapping[str, Any],
    file: Path | None,
    contents: Mapping[str, Any] | None,
) -> Any:
    """The data module of the settings; without files that of the agent's own.

    Raises:
        HadrlError: an unknown setting, or a value that is not allowed.
    """
    from hadrl_lightning.data import TransitionDataModule

    parser = class_parser(TransitionDataModule, "data", {})
    groups, own = groups_of(parser), {}
    files = list(configs)
    if not files and file is not None and is_shipped(file):
        files = [settings_of_shipped(file)]
    elif not files and contents is not None:
        found = {name.partition("."): value for name, value in settings_in(contents).items()}
        own = {"data": {name[2]: value for name, value in found.items() if name[0] == "data"}}
    read = [load_config(one, groups) for one in files]
    settings = merged(own, *read, said(overrides, groups)).get("data", {})
    return construct(TransitionDataModule, parser, {"data": settings}, {})


def _network(options: argparse.Namespace, data: Any) -> EdgeNetwork:
    from hadrl_lightning.data import EpisodeStream

    seed = data.test_seed if options.seed is None else options.seed
    return EpisodeStream(data.scenario, data.physics, 1, 1, seed, Use.TEST_NETWORKS).networks(0)


def _pair(name: str, network: EdgeNetwork) -> Policies:
    """The heuristics of a name, or a user's own.

    Raises:
        HadrlError: there are none.
    """
    from hadrl_lightning.baselines import CACHING_POLICIES, OFFLOADING_POLICIES
    from hadrl_lightning.benchmark.players import (
        is_caching,
        is_offloading,
        is_own_pair,
        own_policies,
        pair_policies,
    )

    if is_own_pair(name):
        return own_policies(name, network.declared, 0)
    caching, _, offloading = name.partition("+")
    if not (is_caching(caching) and is_offloading(offloading)):
        raise HadrlError(
            f"policies must be CACHING+OFFLOADING of {{{', '.join(CACHING_POLICIES)}}} and "
            f"{{{', '.join(OFFLOADING_POLICIES)}}}, or module.name of your own, got {name!r}; "
            "--ckpt_path names an agent"
        )
    return pair_policies(caching, offloading, network.declared, 0)


def _agent(file: Path, network: EdgeNetwork) -> Policies:
    """The policies of an agent.

    Raises:
        HadrlError: it is one of another world, physics or size.
    """
    from hadrl_lightning.agents import HADRL

    agent = HADRL.from_checkpoint(file)
    if agent.physics != network.physics:
        raise HadrlError(f"physics must be that of the agent, {agent.physics}, got {network.physics}: {file}")
    return agent.for_scenario(network.declared).policies()


def _scenes(network: EdgeNetwork, policies: Policies, num_slots: int) -> list[Any]:
    """The first slots of an episode."""
    import torch

    from hadrl_lightning.viewer import Scene, Watcher

    caching, offloading = policies
    watcher, scenes = Watcher(network), list[Scene]()
    network.reset()
    with torch.no_grad():
        while len(scenes) < num_slots:
            for played in Frame(network, by_policy(caching)).slots(by_policy(offloading)):
                scenes.append(watcher.served(played))
                if len(scenes) == num_slots:
                    break
    return scenes
