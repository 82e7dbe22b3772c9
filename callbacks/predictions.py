"""The decisions of episodes as CSV files, with what their scores are made of."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from torch import Tensor

from hadrl_lightning.files import replacing, writing
from hadrl_lightning.play import Episode
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import EdgeNetwork, rules

DECISIONS = {
    "episode": "the episode, from 0 on",
    "decision": "the caching decision that holds, from 0 on in every episode",
    "slot": "the slot, from 0 on in every episode",
    "user": "the user, from 0 on",
    "service": "the service asked for, from 0 on",
    "input_bits": "of the task, bit",
    "cycles": "CPU cycles of the task",
    "home": "the server whose radio the user uses, from 0 on",
    "x_m": "where the user is, m",
    "y_m": "where the user is, m",
    "spectral_efficiency": "of the link to the home server in this slot, fading included, bit/s/Hz",
    "server": "the server that the task was offloaded to, from 0 on; with devices S is the user's own, S + 1 the cloud",
    "bandwidth_share": "share of the bandwidth of `server`",
    "compute_share": "share of the compute of `server`",
    "bandwidth_hz": "the bandwidth that this share is, and its part of what users without a task leave, Hz",
    "compute_hz": "the compute that this share is, Hz; nan where there is none, as of the bandwidth",
    "latency_s": "from the request to the result, s",
    "deadline_s": "of the task, s",
    "hit": "1 where `server` held the service, 0 where the task went on to the cloud",
    "on_time": "1 where the latency was within the deadline, else 0",
    "dropped": "1 where the task was dropped, else 0",
    "handover": "1 where the user's home is another one than in the slot before, else 0",
    "device_energy_j": "what of the energy was for computing on the user's device, J",
}
"""Columns of decisions.csv but the last, one row a task, of a user in a slot, and what they mean."""
ENERGY = {
    "energy_j": ("what the user's radio, and the device where it computes, spent, J", "transmit power in W"),
    "energy_dbm_s": ("the energy of the published code, which is none: dBm·s", "transmit power in dBm"),
}
"""The last column, by the name that the physics has for it: what it means, and what it is the product of."""
CACHES = {
    "episode": "the episode, from 0 on",
    "decision": "the caching decision, from 0 on in every episode",
    "server": "the server, from 0 on",
    "services": "the services that it holds until the next decision, from 0 on, separated by spaces",
}
"""Columns of caches.csv, one row a server and caching decision."""
SWITCHING = {
    "episode": "the episode, from 0 on",
    "decision": "the caching decision, from 0 on in every episode",
    "switching_s": "time to fetch all that the servers did not hold before, summed over servers, s",
}
"""Columns of switching.csv, one row a caching decision."""
EXPLANATION, SCENARIO = "columns.md", "scenario.yaml"
NAMES = ("decisions.csv", "caches.csv", "switching.csv")
UNFINISHED = ".unfinished"
"""Folder beside the files of `hadrl predict` in which they are until all episodes are there."""
FORMULAS = """
Every score of tasks, energy and switching follows from these files and the scenario in `scenario.yaml`; handovers of
users who have no task in that slot, and the slots that it takes to recover from changes, do not. With `bits` =
`input_bits` of the task:

- a hit: `latency_s` = bits / (`bandwidth_hz` × `spectral_efficiency`) + cycles / `compute_hz`;
- else: `latency_s` = bits / (`bandwidth_hz` × `spectral_efficiency`) + bits / `cloud_rate_bit_per_s`
  + cycles / `cloud_compute_hz` + `cloud_delay_s`;
- `{energy}` = {power} × bits / (`bandwidth_hz` × `spectral_efficiency`);
- `switching_s` = storage of the services that are new to a server / `backhaul_bytes_per_s`, summed over servers; all
  caches are empty before the first decision of an episode.

A share below 10⁻⁹ counts as 10⁻⁹. Users without a task in a slot have no row in it. Processes that the scenario names
add to latencies: handovers, paths between servers, work that waits, devices, what a dropped task counts as. Their
equations are in docs/worlds.md of the package.
`hadrl_lightning.Scenario.from_config("scenario.yaml")` has the constants: `input_bits`, `cycles`, `storage_bits`, …
"""


def write_decisions(
    folder: str | Path, episode: Episode, network: EdgeNetwork, first_episode: int = 0
) -> list[Path]:
    """Write the decisions of B episodes, and what they led to, as files in `folder`, and return these.

    `decisions.csv` has a row a user and slot with a task, `caches.csv` a row a server and caching decision,
    `switching.csv` a row a caching decision; columns.md explains the columns, scenario.yaml has the constants, and
    where networks differ scenario-0.yaml those of episode 0, and so on. Indices are 0-based. Rows are appended where
    `first_episode` is not 0.

    Args:
        folder: of the files.
        episode: that was played.
        network: on which it was played, with the constants that it had then.
        first_episode: number of the first of the B episodes.

    Raises:
        OutputError: the folder can't be written to, or the disk is full.
    """
    folder = Path(folder)
    files = tables(network.physics)
    rows = (rows_of(episode, first_episode) for rows_of in (_decision_rows, _cache_rows, _switching_rows))
    for (name, columns), some in zip(files.items(), rows, strict=True):
        _write(folder / name, list(columns), some, new=not first_episode)
    if not first_episode:
        with replacing(folder / EXPLANATION) as file:
            file.write_text(_explanation(network.physics), encoding="utf-8")
        _write_scenario(folder / SCENARIO, network.declared, network.physics)
    if network.declared.ranges:
        for number, scenario in enumerate(network.scenarios, first_episode):
            _write_scenario(folder / f"scenario-{number}.yaml", scenario, network.physics)
    return _written(folder)


def finish_decisions(unfinished: Path, folder: Path) -> list[Path]:
    """Put the files of `write_decisions` into the folder where they are looked for, and return those of any run.

    Raises:
        OutputError: they can't be put there.
    """
    with writing(folder):
        files = sorted(unfinished.iterdir())
        for file in files:
            file.replace(folder / file.name)
        unfinished.rmdir()
    return _written(folder)


def _written(folder: Path) -> list[Path]:
    return [folder / name for name in (*NAMES, EXPLANATION, SCENARIO)]


def _write_scenario(path: Path, scenario: Scenario, physics: Physics) -> None:
    settings = {"data": {"scenario": _lists(scenario.to_dict()), "physics": physics}}
    with replacing(path) as file:
        file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def _write(path: Path, columns: Sequence[str], rows: Iterator[Sequence[object]], new: bool) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if new else "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(columns)
            writer.writerows(rows)


def tables(physics: Physics) -> dict[str, dict[str, str]]:
    """The files, their columns, and what these mean."""
    decisions = {**DECISIONS, rules(physics).energy_column: _energy(physics)[0]}
    return dict(zip(NAMES, (decisions, CACHES, SWITCHING), strict=True))


def _energy(physics: Physics) -> tuple[str, str]:
    """What the energy of a physics means, and what it is the product of."""
    laws = rules(physics)
    of_its_own = (f"the energy of the physics, {laws.energy_unit}", "the power of the physics")
    return ENERGY.get(laws.energy_column, of_its_own)


def _explanation(physics: Physics) -> str:
    text = "# What the columns are\n"
    for name, columns in tables(physics).items():
        text += f"\n## {name}\n\n| column | |\n|---|---|\n"
        text += "".join(f"| `{column}` | {meaning} |\n" for column, meaning in columns.items())
    formulas = FORMULAS.format(energy=rules(physics).energy_column, power=_energy(physics)[1])
    return text + "\n## How the scores are made\n" + formulas


def _decision_rows(episode: Episode, first_episode: int) -> Iterator[Sequence[object]]:
    num_slots, num_episodes, num_users = episode.latency.shape
    columns = [
        _cells(value)
        for value in (
            episode.requests,
            episode.input_bits,
            episode.cycles,
            episode.home,
            episode.positions[..., 0],
            episode.positions[..., 1],
            episode.spectral_efficiency,
            episode.server,
            episode.bandwidth_share,
            episode.compute_share,
            episode.bandwidth_hz,
            episode.compute_hz,
            episode.latency,
            episode.deadline_s,
            episode.hit.int(),
            episode.on_time.int(),
            episode.dropped.int(),
            episode.handover.int(),
            episode.device_energy,
            episode.energy,
        )
    ]
    slots_per_decision, asked = num_slots // len(episode.cache), episode.asked.tolist()
    for b in range(num_episodes):
        for t in range(num_slots):
            head = (first_episode + b, t // slots_per_decision, t)
            for u in range(num_users):
                if asked[t][b][u]:
                    yield (*head, u, *(column[t][b][u] for column in columns))


def _cache_rows(episode: Episode, first_episode: int) -> Iterator[Sequence[object]]:
    num_decisions, num_episodes, num_servers, _ = episode.cache.shape
    caches = episode.cache.tolist()
    for b in range(num_episodes):
        for d in range(num_decisions):
            for s in range(num_servers):
                held = " ".join(str(k) for k, cached in enumerate(caches[d][b][s]) if cached)
                yield (first_episode + b, d, s, held)


def _switching_rows(episode: Episode, first_episode: int) -> Iterator[Sequence[object]]:
    switching = _cells(episode.switching)
    num_decisions, num_episodes = episode.switching.shape
    for b in range(num_episodes):
        for d in range(num_decisions):
            yield (first_episode + b, d, switching[d][b])


def _cells(values: Tensor) -> list:
    """Nested lists of whole numbers, or of texts from which single precision comes back as it was."""
    return [_cell(one) for one in values.tolist()]


def _cell(value: list | int | float) -> list | str | int:
    if isinstance(value, list):
        return [_cell(one) for one in value]
    return value if isinstance(value, int) else f"{value:.9g}"


def _lists(value: object) -> object:
    """Plain YAML: lists for tuples, at any depth."""
    if isinstance(value, dict):
        return {key: _lists(one) for key, one in value.items()}
    return [_lists(one) for one in value] if isinstance(value, tuple) else value
