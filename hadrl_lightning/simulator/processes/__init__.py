"""What changes by itself: a process is a class here, or anywhere, and a line in `PROCESSES`."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.registries import Registry
from hadrl_lightning.scenario import Scenario
from hadrl_lightning.simulator.processes.channel import CorrelatedChannel
from hadrl_lightning.simulator.processes.device import Device
from hadrl_lightning.simulator.processes.drift import DriftingRequests
from hadrl_lightning.simulator.processes.hops import Hops
from hadrl_lightning.simulator.processes.moving import Handover, MovingUsers
from hadrl_lightning.simulator.processes.of_files import GainsOfFile, MovesOfFile, RequestsOfFile
from hadrl_lightning.simulator.processes.process import (
    Memory,
    Process,
    UsualTasks,
    World,
    check_brought,
    check_past,
    check_shown,
    usual_tasks_of,
)
from hadrl_lightning.simulator.processes.queues import Queues
from hadrl_lightning.simulator.processes.slowdowns import SlowServers
from hadrl_lightning.simulator.processes.usual import (
    CellPositions,
    FixedPositions,
    RayleighFading,
    StationaryRequests,
)
from hadrl_lightning.trace_files import Part
from hadrl_lightning.typed import read_settings

__all__ = [
    "PROCESSES",
    "USUAL",
    "CellPositions",
    "CorrelatedChannel",
    "Device",
    "DriftingRequests",
    "FixedPositions",
    "GainsOfFile",
    "Handover",
    "Hops",
    "Memory",
    "MovesOfFile",
    "MovingUsers",
    "Process",
    "Queues",
    "RayleighFading",
    "RequestsOfFile",
    "SlowServers",
    "StationaryRequests",
    "UsualTasks",
    "World",
    "check_brought",
    "check_past",
    "check_shown",
    "demand_is_known",
    "for_part",
    "processes_of",
    "targets_beyond",
    "usual_tasks_of",
]

USUAL = ("requests", "positions", "fading")
"""What every slot has."""


def _is_process(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Process)


PROCESSES: Registry[type[Process]] = Registry("process", "hadrl_lightning.processes", _is_process)
"""Processes that settings name: `data.scenario.processes: {NAME: {SETTING: VALUE, …}}`."""

PROCESSES.register("stationary_requests")(StationaryRequests)
PROCESSES.register("cell_positions")(CellPositions)
PROCESSES.register("fixed_positions")(FixedPositions)
PROCESSES.register("rayleigh_fading")(RayleighFading)
PROCESSES.register("drifting_requests")(DriftingRequests)
PROCESSES.register("slow_servers")(SlowServers)
PROCESSES.register("moving_users")(MovingUsers)
PROCESSES.register("handover")(Handover)
PROCESSES.register("correlated_channel")(CorrelatedChannel)
PROCESSES.register("device")(Device)
PROCESSES.register("hops")(Hops)
PROCESSES.register("queues")(Queues)
PROCESSES.register("requests_of_file")(RequestsOfFile)
PROCESSES.register("moves_of_file")(MovesOfFile)
PROCESSES.register("gains_of_file")(GainsOfFile)


def process_and_setting(rest: str, value: Any) -> tuple[str, str]:
    """Which process and which setting of it a dotted key means, such as `my_module.MyProcess.speed`.

    Args:
        rest: the key, behind `data.scenario.processes.`.
        value: that it is given.

    Returns:
        The name of the process, and that of the setting, empty where the process as a whole is given.
    """
    whole = "." not in rest
    if not whole and isinstance(value, Mapping | None):  # of the process as a whole, or of a setting
        with suppress(ValueError):
            whole = PROCESSES.find(rest, "processes") is not None
    process, _, setting = (rest, "", "") if whole else rest.rpartition(".")
    return process, setting


def for_part(scenario: Scenario, part: Part) -> Scenario:
    """The scenario whose files are played in this part of their time, where settings do not say in which."""
    processes = dict(scenario.processes)
    for name, settings in scenario.processes.items():
        if PROCESSES.find(name, "processes").has_parts and settings.get("part") is None:
            processes[name] = {**settings, "part": part}
    return scenario if processes == scenario.processes else replace(scenario, processes=processes)


def processes_of(scenario: Scenario, check: bool = True) -> dict[str, Process]:
    """The processes of a scenario by name, in the order in which they draw: the usual ones first.

    Those that follow others come last. The order of the settings decides among the rest.

    Args:
        scenario: that names them.
        check: whether they must fit it; where nothing is played, files that are played need not be there.

    Raises:
        ValueError: there is no process of a name, a setting of it is unknown, of another type or out of range, it does
            not fit the scenario, two of them bring the same entry of the slot, or slots are of different lengths.
    """
    fixed = scenario.user_positions_m is not None
    usual: dict[str, tuple[str, Process]] = {
        "requests": ("stationary_requests", StationaryRequests()),
        "positions": ("fixed_positions", FixedPositions()) if fixed else ("cell_positions", CellPositions()),
        "fading": ("rayleigh_fading", RayleighFading()),
    }
    further: dict[str, Process] = {}
    brought_by: dict[str, str] = {}
    for name in scenario.processes:
        process = _made(name, scenario, check)
        for entry in process.brings:
            if entry in brought_by:
                raise ValueError(
                    f"processes must bring each entry once, got {entry} by {brought_by[entry]} and {name}"
                )
            brought_by[entry] = name
        replaced = [entry for entry in process.brings if entry in USUAL]
        for entry in replaced:
            usual.pop(entry)
        if replaced:
            usual[replaced[0]] = (name, process)
        else:
            further[name] = process
    ordered = [usual[entry] for entry in USUAL if entry in usual]
    ordered += sorted(further.items(), key=lambda one: one[1].order)
    _check_slots(dict(ordered))
    return dict(ordered)


def _check_slots(processes: dict[str, Process]) -> None:
    """Refuse slots of different lengths."""
    said = {name: getattr(one, "slot_s", None) for name, one in processes.items()}
    lengths = {name: length for name, length in said.items() if length is not None}
    for name, length in lengths.items():
        first, other = next(iter(lengths.items()))
        if length != other:
            raise ValueError(
                f"processes must agree on slot_s, got {other:g} of {first} and {length:g} of {name}"
            )


def targets_beyond(scenario: Scenario) -> tuple[str, ...]:
    """What tasks can be offloaded to beyond the servers, in words."""
    return _targets_beyond(scenario) if scenario.processes else ()


@lru_cache(maxsize=64)
def _targets_beyond(scenario: Scenario) -> tuple[str, ...]:
    return sum((one.targets for one in processes_of(scenario, check=False).values()), ())


def demand_is_known(scenario: Scenario) -> bool:
    """Whether requests are drawn by the scenario's popularity, in every slot alike."""
    return any(one.by_popularity for one in processes_of(scenario, check=False).values())


def _made(name: str, scenario: Scenario, check: bool) -> Process:
    process = read_settings(PROCESSES.find(name, "processes"), scenario.processes[name], f"processes.{name}")
    if not check:
        return process
    try:
        for one in (scenario, *(scenario.corners() if scenario.sizes_vary else ())):
            process.check(one)
    except (OSError, ValueError) as error:
        raise HadrlError(f"processes.{name}: {error}") from error
    return process
