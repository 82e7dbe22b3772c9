"""What a benchmark computes: scenarios and sweep values × policies × seeds, as cells."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from hadrl_lightning.agents import HADRL
from hadrl_lightning.baselines import carried_over
from hadrl_lightning.baselines.learners import LearnerSettings
from hadrl_lightning.benchmark.cells import Cell
from hadrl_lightning.benchmark.players import SEED, adapt_of, agent_contents, check_files, is_trained
from hadrl_lightning.benchmark.policies import (
    LEARNERS,
    LOWER_BOUND,
    PUBLISHED_SIZES,
    default_policies,
    label_of,
    needs_sb3_contrib,
    needs_stable_baselines3,
    pair_of,
)
from hadrl_lightning.benchmark.suites import Suite, find_suite
from hadrl_lightning.benchmark.training import (
    TRAINER_SETTINGS,
    Settings,
    build,
    merged,
    named,
    num_slots,
    own_modules,
    resolved,
    setting_groups,
    validated_slots,
    with_slots,
)
from hadrl_lightning.config_files import BASE, Groups, load_config, parse_setting, said
from hadrl_lightning.errors import HadrlError, require
from hadrl_lightning.judge import LEAST_KNOWN
from hadrl_lightning.network_files import played_files
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.scenario.preferences import USUAL
from hadrl_lightning.simulator import OffloadingView, check_seed, fields_of, offloading_view_of
from hadrl_lightning.simulator.processes import process_and_setting, processes_of
from hadrl_lightning.units import read_prefix

_VALUE = re.compile(r"\[[^\]]*\]|[^,]+")
"""A value among several: a list, or anything without a comma."""
ANY = "any.yaml"
"""Settings of a training over networks of every kind."""
OF_PROCESSES = "data.scenario.processes."
"""Before the name of a process."""
LEARNING = ("num_envs", "reward")
"""Settings that Stable-Baselines3's algorithms share with the other learners."""


class Sweep(NamedTuple):
    """One setting at several values, all else as it is."""

    key: str
    """Dotted name, such as `data.scenario.num_users`."""
    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What is asked for.

    Raises:
        HadrlError: a field is out of its range.
    """

    scenarios: tuple[str, ...] = ("es2.yaml",)
    """Settings files, a scenario each."""
    suite: str | None = None
    """Name of a suite, whose networks are the scenarios in place of those."""
    places: tuple[str, ...] = ()
    """Names of some of its networks; all if empty."""
    overlays: tuple[str | Settings, ...] = ()
    """Settings files merged over each of them, or settings themselves."""
    overrides: Settings = field(default_factory=dict)
    """Settings merged over those."""
    sweeps: tuple[Sweep, ...] = ()
    """Each sweep is by itself; the scenarios as they are are then left out."""
    policies: tuple[str, ...] = ()
    """Names of policies; all, or those of the suite, if empty. The yardstick is always among them."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of training and of policies that draw. The test episodes are the same for all."""
    slots: int | None = None
    """Slots that each learner trains on; by default what HADRL's settings amount to."""
    episodes: int | None = None
    """Test episodes; by default what the suite or the settings say."""
    published_size: str = "small"
    """Size of `hadrl-published`."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise HadrlError("seeds must be one or more numbers, got none")
        for seed in self.seeds:
            check_seed("seeds", seed)
        if self.published_size not in PUBLISHED_SIZES:
            allowed = ", ".join(PUBLISHED_SIZES)
            raise HadrlError(f"published_size must be one of {allowed}, got {self.published_size!r}")
        for name in ("slots", "episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise HadrlError(f"{name} must be at least 1, got {value}")
        if not self.scenarios:
            raise HadrlError("scenarios must name at least one settings file, got none")
        if self.suite is not None:
            find_suite(self.suite).chosen(self.places)
            if self.sweeps:
                raise HadrlError(f"sweeps must be none with the suite {self.suite}, got {self.sweeps[0].key}")
        elif self.places:
            raise HadrlError(f"places must come with a suite, got {', '.join(self.places)} without")


class Entry(NamedTuple):
    """A cell's place in the tables."""

    scenario: str
    """Names of the settings files, such as `es2-tight`, or a network of a suite, `unseen/one-user`."""
    sweep_key: str
    """Empty without a sweep."""
    sweep_value: Any
    policy: str
    label: str
    """What a table calls the policy."""
    seed: int
    cell: Cell


class Plan(NamedTuple):
    """All entries. Entries of several seeds share a cell where the policy does not draw."""

    settings: PlanSettings
    entries: list[Entry]

    @property
    def cells(self) -> list[Cell]:
        """The different cells, cheap ones first."""
        unique = {entry.cell.key: entry.cell for entry in self.entries}
        return sorted(unique.values(), key=lambda cell: cell.policy in LEARNERS)


def make_plan(settings: PlanSettings) -> Plan:
    """Turn what is asked for into cells; everything that can be checked without computing is checked here.

    Raises:
        HadrlError: an unknown policy or setting, a value that is not allowed, or an extra that is missing.
    """
    policies = list(dict.fromkeys(policies_of(settings)))
    for name in policies:
        pair = pair_of(name)
        if pair is not None:
            _ = pair.factories  # which can be imported
        if is_trained(name):
            check_files(name, settings.seeds)
    _check_given(settings, policies)
    require("benchmark", optional_modules(policies))
    if LEAST_KNOWN not in policies:
        policies.append(LEAST_KNOWN)
    settings = replace(settings, episodes=_episodes(settings))
    adapts_if_told = "adapt" in _told(settings).get("model", {})
    by_file = {name: adapt_of(name, settings.seeds[0]) for name in policies if is_trained(name)}
    entries: dict[tuple[Any, ...], Entry] = {}  # what is asked for twice is computed and counted once
    for name, key, value, full in _places(settings):
        for policy in policies:
            contents = cell_settings(policy, full, settings)
            label = label_of(policy, settings.published_size)
            adapt = full["model"]["adapt"]
            if is_trained(policy):
                if adapts_if_told or key == "model.adapt" or adapt != "off":
                    contents["adapt"] = adapt
                else:
                    adapt = by_file[policy]
            if (is_trained(policy) or policy == "hadrl") and adapt != "off":
                label += ", adapting"
            for seed in settings.seeds:
                if is_trained(policy):
                    contents = {**contents, "agent": agent_contents(policy, seed)}
                cell = Cell(policy=policy, settings=contents, seed=seed if draws(policy) else None)
                entry = Entry(name, key, value, policy, label, seed, cell)
                entries[name, key, repr(value), policy, seed] = entry
    return Plan(settings, list(entries.values()))


def _check_given(settings: PlanSettings, policies: Sequence[str]) -> None:
    """Refuse settings that nothing here would follow, from flags and sweeps; files are meant for other commands too.

    Raises:
        HadrlError: there is one.
    """
    files = [policy for policy in policies if is_trained(policy)]
    told = said(settings.overrides, setting_groups())
    given = [(group, name) for group, names in told.items() for name in names or ()]
    for key, _ in settings.sweeps:
        nested(key, None)
        group, name, *_ = key.split(".")
        given.append((group, name))
    for group, name in given:
        if group == "trainer" and name not in TRAINER_SETTINGS:
            raise HadrlError(
                f"settings of the trainer must be among {', '.join(TRAINER_SETTINGS)} in a benchmark, got {name}"
            )
        if (group, name) == ("data", "seed"):
            raise HadrlError("data.seed must be left to --seeds, which say it of every training")
        of_training = group in ("model", "planning") and name != "adapt"
        if of_training and files and not any(policy in LEARNERS for policy in policies):
            raise HadrlError(f"{group}.{name} must come with a policy that is trained here, got {files[0]}")


def policies_of(settings: PlanSettings) -> Sequence[str]:
    """The policies that are asked for: those named, else those of the suite, else all."""
    if settings.policies:
        return settings.policies
    return default_policies() if settings.suite is None else find_suite(settings.suite).policies


def _places(settings: PlanSettings) -> Iterator[tuple[str, str, Any, Settings]]:
    """Every scenario, or every value of a sweep: its place in the tables, and its settings in full."""
    groups = setting_groups()
    overrides = said(settings.overrides, groups)
    overlays = _read_overlays(settings, groups)
    if settings.suite is not None:
        common = merged(load_config(BASE, groups), *overlays, overrides)
        yield from _places_of_suite(find_suite(settings.suite), settings.places, common)
        return
    met: dict[str, tuple[str, Settings]] = {}
    for scenario in settings.scenarios:
        base = merged(*(load_config(file, groups) for file in (BASE, scenario)), *overlays, overrides)
        name = place_label(scenario, settings.overlays)
        other, before = met.setdefault(name, (scenario, base))
        if before != base:
            raise HadrlError(f"scenarios must be files of different names, got {other} and {scenario}")
        variants = [(key, value) for key, values in settings.sweeps for value in values] or [("", None)]
        for key, value in variants:
            yield name, key, value, _checked(merged(base, said(nested(key, value), groups)) if key else base)


def _read_overlays(settings: PlanSettings, groups: Groups) -> list[Settings]:
    return [
        said(one, groups) if isinstance(one, Mapping) else load_config(one, groups)
        for one in settings.overlays
    ]


def _episodes(settings: PlanSettings) -> int | None:
    """Test episodes in place of `data.test_episodes`: those asked for, or of a suite its own where nobody says them."""
    if settings.suite is None or settings.episodes is not None:
        return settings.episodes
    return None if "test_episodes" in _told(settings).get("data", {}) else find_suite(settings.suite).episodes


def _told(settings: PlanSettings) -> Settings:
    """What files over the scenarios and flags say."""
    groups = setting_groups()
    return merged(*_read_overlays(settings, groups), said(settings.overrides, groups))


def _places_of_suite(
    suite: Suite, names: Sequence[str], common: Settings
) -> Iterator[tuple[str, str, Any, Settings]]:
    changed = common.get("data", {}).get("scenario")
    if changed:
        raise HadrlError(f"data.scenario must be left to the suite {suite.name}, got {', '.join(changed)}")
    places = suite.chosen(names)
    full = _checked(merged(common, {"data": {"scenario": dict(places[0].fields)}}))
    for place in places:  # they differ by their scenarios alone
        scenario = asdict(Scenario.from_dict(place.fields))
        yield suite.label(place.name), "", None, {**full, "data": {**full["data"], "scenario": scenario}}


def _checked(settings: Settings) -> Settings:
    """The settings in full.

    Raises:
        HadrlError: an unknown setting, or a value that is not allowed.
    """
    build(settings)
    return resolved(settings)


def scenario_labels(settings: PlanSettings) -> list[str]:
    """What tables call the scenarios that are asked for."""
    if settings.suite is None:
        return [place_label(name, settings.overlays) for name in settings.scenarios]
    suite = find_suite(settings.suite)
    return [suite.label(place.name) for place in suite.chosen(settings.places)]


def place_label(scenario: str, overlays: Sequence[str | Settings]) -> str:
    """What tables call a scenario: the names of its settings files, such as `es2-tight`."""
    files = [scenario, *(one for one in overlays if not isinstance(one, Mapping))]
    return "-".join(dict.fromkeys(Path(file).stem for file in files))


def optional_modules(policies: Sequence[str]) -> list[str]:
    """What of the extra `baselines` a benchmark of these policies needs: SciPy for the best caches."""
    learners = {"stable_baselines3": needs_stable_baselines3, "sb3_contrib": needs_sb3_contrib}
    return ["scipy.optimize", *(name for name, needs in learners.items() if any(map(needs, policies)))]


def draws(policy: str) -> bool:
    """Whether the result of the policy depends on the seed."""
    if is_trained(policy):
        return SEED in policy
    pair = pair_of(policy)
    return policy != LOWER_BOUND if pair is None else pair.draws


def cell_settings(policy: str, base: Settings, plan: PlanSettings) -> Settings:
    """All that a policy and its judgement depend on but the seed, out of the (resolved) settings of a scenario.

    Learners get the same budget of slots and are validated after the same slots on the same episodes. Of what is a
    user's own, such as a policy or a process, the text of its module counts too, and of files that are played when they
    were written.

    Raises:
        HadrlError: it is a bound of a world of which none is known.
    """
    if policy == LOWER_BOUND:
        carried_over(processes_of(Scenario.from_dict(base["data"]["scenario"])))
    contents = _contents(policy, base, plan)
    pair = None if policy in LEARNERS else pair_of(policy)
    parts = named(contents.get("config", {"data": base["data"]}))
    modules = own_modules([*parts, *(pair.factories.values() if pair is not None else ())])
    told = {
        "modules": modules,
        "world": own_modules(named({"data": base["data"]})),
        "files": played_files(base["data"]["scenario"]["processes"]),
    }
    return {**contents, **{name: value for name, value in told.items() if value}}


def _contents(policy: str, base: Settings, plan: PlanSettings) -> Settings:
    data = base["data"]
    contents: Settings = {
        "scenario": _without_usual(data["scenario"]),
        "physics": data["physics"],
        "test": {
            "episodes": plan.episodes or data["test_episodes"],
            "parallel": data["parallel_episodes"],
            "seed": data["test_seed"],
        },
    }
    if policy not in LEARNERS:
        return contents
    contents["kind"] = LEARNERS[policy].kind
    learner = LEARNERS[policy]
    if learner.kind == "ppo-set":
        _refuse_further_fields(policy, data)
        return {**contents, "training": _training_over_any(learner.learner, plan.slots)}
    slots = plan.slots or num_slots(base)
    scenario = Scenario.from_dict(data["scenario"])
    if learner.kind == "hadrl":
        config = with_slots(hadrl_settings(policy, base, plan.published_size), slots)
        if not HADRL.transfers(config["model"]):
            scenario.require_fixed_sizes(policy)
        return {**contents, "slots": num_slots(config), "config": config}
    scenario.require_fixed_sizes(policy)
    contents["validation"] = {
        "episodes": data["validation_episodes"],
        "parallel": data["parallel_episodes"],
        "seed": data["validation_seed"],
        "slots": _validated_slots(base, slots),
    }
    if scenario.preferences.switching_s:
        contents["fetching"] = "paid for in every slot"  # once it was in the first one of a frame alone
    if learner.kind == "no-planning":
        # The look ahead learns nothing without the fast level.
        other = {"model": {"slow_level": "set"}} if base["model"]["slow_level"] == "lookahead" else {}
        contents["config"] = merged(base, other)
    common = asdict(LearnerSettings(num_envs=data["num_envs"]))
    if learner.kind == "sb3":
        common = {name: common[name] for name in LEARNING}
    return {**contents, "slots": slots, "learner": merged(common, learner.learner)}


def _refuse_further_fields(policy: str, data: Settings) -> None:
    """Refuse a world of which views show what an actor over sets was not made for.

    Raises:
        HadrlError: it is one.
    """
    scenario = Scenario.from_dict(data["scenario"])
    view, known = offloading_view_of(scenario), {field.name for field in fields_of(OffloadingView)}
    more = [field.name for field in fields_of(view) if field.name not in known]
    if view.beyond:
        more.append("targets beyond the servers")
    if more:
        raise HadrlError(f"policy {policy} must be left out where views show {', '.join(more)}")


def _training_over_any(learner: Settings, slots: int | None) -> Settings:
    """A training that has nothing to do with the scenario in which the learner is judged."""
    groups = setting_groups()
    settings = resolved(merged(load_config(BASE, groups), load_config(ANY, groups)))
    data = settings["data"]
    return {
        "scenario": _without_usual(data["scenario"]),
        "num_envs": data["num_envs"],
        "slots": slots or num_slots(settings),
        "learner": learner,
    }


def _without_usual(scenario: Settings) -> Settings:
    """Without processes and preferences where they are the usual ones: cells of before there were any stay the same."""
    usual = {"processes": {}, "preferences": asdict(USUAL)}
    return {name: value for name, value in scenario.items() if name not in usual or value != usual[name]}


def _validated_slots(base: Settings, slots: int) -> list[int]:
    """After how many slots a learner is validated: when HADRL is with this budget, and at the end."""
    try:
        earlier = validated_slots(with_slots(base, slots))
    except HadrlError:  # a budget that is too small for HADRL
        earlier = []
    return [*(one for one in earlier if one < slots), slots]


def hadrl_settings(policy: str, base: Settings, published_size: str) -> Settings:
    """(Resolved) settings of a variant of HADRL: those of the scenario, then what makes the variant.

    Unless it runs at full size, the published algorithm collects on as many networks, and learns and is validated as
    often as the others;
    its updates of the caching agent for each decision stay the published ones.
    """
    learner = LEARNERS[policy]
    variant = merged(*(load_config(name) for name in learner.overlays), learner.settings)
    if policy == "hadrl-published":
        variant = merged(variant, PUBLISHED_SIZES[published_size])
        if published_size != "full":
            rhythm = {name: base["planning"][name] for name in ("seed_decisions", "decisions_per_epoch")}
            num_envs = base["data"]["num_envs"]
            each = variant["data"]["caching_updates_per_epoch"] / variant["planning"]["decisions_per_epoch"]
            updates = round(each * rhythm["decisions_per_epoch"] * num_envs)
            data = {"num_envs": num_envs, "caching_updates_per_epoch": updates}
            validation = {"check_val_every_n_epoch": base["trainer"]["check_val_every_n_epoch"]}
            variant = merged(variant, {"data": data, "planning": rhythm, "trainer": validation})
    elif base["planning"]["planner"] is None:
        variant.pop("planning", None)  # it collects with the planner that it is judged with
    return merged(base, variant)


def nested(key: str, value: Any) -> Settings:
    """`{"a": {"b": value}}` for the key `a.b`.

    An exponent of Zipf's law implies that the popularity follows it; a number of servers, evenly spaced thresholds.

    Raises:
        HadrlError: the key does not belong to data, model, planning or trainer.
    """
    words = _words(key, value)
    if words[0] not in ("data", "model", "planning", "trainer") or len(words) < 2 or not all(words):
        raise HadrlError(f"settings must begin with data., model., planning. or trainer., got {key!r}")
    for word in reversed(words):
        value = {word: value}
    if key == "data.scenario.zipf_exponent":
        value["data"]["scenario"]["popularity"] = "zipf"
    if key == "data.scenario.num_servers":
        value["data"]["scenario"]["offload_thresholds"] = None
    return value


def _words(key: str, value: Any) -> list[str]:
    """The names of groups and setting in a dotted key; that of one's own process has dots in it."""
    rest = key.removeprefix(OF_PROCESSES)
    if rest in (key, ""):
        return key.split(".")
    process, setting = process_and_setting(rest, value)
    return [*OF_PROCESSES.rstrip(".").split("."), process, *([setting] if setting else [])]


def parse_sweep(text: str) -> Sweep:
    """A sweep from `KEY=a,b,c`; the values may have units of the kind that the key says, such as GiB, or k, M, G.

    Raises:
        HadrlError: it has another form.
    """
    key, equals, values = text.partition("=")
    parsed = tuple(parse_value(key, value) for value in _VALUE.findall(values) if value.strip())
    if not equals or not parsed:
        raise HadrlError(f"sweep must have the form KEY=VALUE,VALUE,…, got {text!r}")
    nested(key, None)
    return Sweep(key, tuple(tuple(value) if isinstance(value, list) else value for value in parsed))


def parse_value(key: str, text: str) -> Any:
    """The value of the setting `key`: a number (with a unit or a prefix), true, false, null, a list, or the text."""
    value = parse_setting(key, text.strip())
    return read_prefix(value) if isinstance(value, str) else value
