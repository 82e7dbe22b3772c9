"""The decisions of episodes as CSV files."""

import csv
from pathlib import Path

from ..simulator import Episode

DECISION_COLUMNS = (
    "episode",
    "decision",
    "slot",
    "user",
    "service",
    "server",
    "bandwidth_share",
    "compute_share",
    "latency_s",
    "hit",
    "on_time",
)
CACHE_COLUMNS = ("episode", "decision", "server", "services", "switching_s")


def write_decisions(folder: str | Path, episode: Episode, first_episode: int = 0) -> None:
    """Write `decisions.csv`, one row a user and slot, and `caches.csv`, one row a server and caching decision.

    Indices are 0-based; `services` lists the cached ones, separated by spaces. Rows are appended where
    `first_episode` is not 0.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mode = "a" if first_episode else "w"
    with (folder / "decisions.csv").open(mode, newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not first_episode:
            writer.writerow(DECISION_COLUMNS)
        writer.writerows(_decision_rows(episode, first_episode))
    with (folder / "caches.csv").open(mode, newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not first_episode:
            writer.writerow(CACHE_COLUMNS)
        writer.writerows(_cache_rows(episode, first_episode))


def _decision_rows(episode: Episode, first_episode: int) -> list[tuple[object, ...]]:
    num_slots, num_episodes, num_users = episode.latency.shape
    slots_per_decision = num_slots // len(episode.cache)
    columns = [
        value.tolist()
        for value in (
            episode.requests,
            episode.server,
            episode.bandwidth_share,
            episode.compute_share,
            episode.latency,
            episode.hit.int(),
            episode.on_time.int(),
        )
    ]
    return [
        (first_episode + b, t // slots_per_decision, t, u, *(_cell(column[t][b][u]) for column in columns))
        for b in range(num_episodes)
        for t in range(num_slots)
        for u in range(num_users)
    ]


def _cell(value: int | float) -> object:
    return value if isinstance(value, int) else f"{value:.6g}"


def _cache_rows(episode: Episode, first_episode: int) -> list[tuple[object, ...]]:
    caches, switching = episode.cache.tolist(), episode.switching.tolist()
    num_decisions, num_episodes, num_servers, _ = episode.cache.shape
    return [
        (
            first_episode + b,
            d,
            s,
            " ".join(str(k) for k, held in enumerate(caches[d][b][s]) if held),
            f"{switching[d][b]:.6g}",
        )
        for b in range(num_episodes)
        for d in range(num_decisions)
        for s in range(num_servers)
    ]
