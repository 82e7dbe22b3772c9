"""How fast is the simulator, and how fast is the best known decision? Slots per second, and seconds of a city.

    python benchmarks/simulator_speed.py [--threads 2] [--networks 4096 16] [--cities 125x816x10 125x816x87]

A slot counts once a network: decoding an offloading action, serving all users, drawing the next requests and
positions; a caching decision every few slots is part of it. Actions are drawn beforehand. Beside it, in turn with it
(so that a busy machine slows both), the draws of the same slots alone: the Mersenne Twister makes one number after the
other, on one core, so no simulator with these episodes is faster. A ratio is the median of those of the repeats, with
the least and the largest.

A city is drawn with full random caches: CPU seconds of one thread for the best known decision of a slot together with
its certified bound, and how far above the bound it is at most. The scalar loop is the twin of tests/helpers/twin.py,
plain Python for one network, which needs its draws handed in (drawn beforehand as well).
"""

import argparse
import importlib.util
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from hadrl_lightning.baselines import best_known_and_bound
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import (
    EdgeNetwork,
    Use,
    decode_caching,
    decode_offloading,
    fill_caches,
    make_generator,
)

FEW_AT_ONCE = 50_000
"""So many network slots are played in a repeat at least: few networks play more slots."""


def main() -> None:
    """Measure and print."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    scenario = Scenario.from_config(arguments.scenario)
    print(f"machine    {processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}")
    print(f"versions   Python {platform.python_version()}, torch {torch.__version__}")
    print(
        f"setting    {arguments.scenario}, {arguments.threads} threads, device {arguments.device}, "
        f"median of {arguments.repeats} repeats (least to largest)"
    )
    rates: dict[str, float] = {}
    for networks in arguments.networks:
        for physics in ("strict", "published"):
            rate = network_rows(scenario, physics, networks, arguments)
            rates.setdefault(physics, rate)  # of the first number of networks
    twin_rows(Path(arguments.scenario).stem.upper(), rates, arguments)
    torch.set_num_threads(1)
    for sizes in arguments.cities:
        city_row(*map(int, sizes.split("x")), arguments.repeats)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--scenario", default="es2.yaml", help="config that holds the scenario (default: es2.yaml)")
    add("--networks", type=positive, nargs="+", default=[4096, 16], help="in parallel (default: 4096 16)")
    add("--slots", type=positive, default=50, help="slots of a repeat at least (default: 50)")
    add("--twin-slots", type=positive, default=200, help="slots of the scalar loop (default: 200)")
    add("--repeats", type=positive, default=7, help="repeats to take the median of (default: 7)")
    add("--threads", type=positive, default=os.cpu_count() or 1, help="threads (default: all cores)")
    add("--device", default="cpu", help="where the networks live (default: cpu)")
    add("--cities", nargs="*", default=["125x816x10", "125x816x87"], help="servers x users x services")
    return parser.parse_args()


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def network_rows(scenario: Scenario, physics: Physics, networks: int, arguments: argparse.Namespace) -> float:
    """Print slots per second of so many networks and the ratio to their draws; return the former's median."""
    slots = max(arguments.slots, FEW_AT_ONCE // networks)
    play = player(scenario, physics, networks, torch.device(arguments.device))
    draw = drawer(scenario, networks)
    play(scenario.slots_per_decision)
    draw(1)
    played, drawn = [], []
    for _ in range(arguments.repeats):
        played.append(seconds(play, slots))
        drawn.append(seconds(draw, slots))
    what = f"{networks} networks, {physics}"
    rate = report(what, "slots/s", [networks * slots / one for one in played])
    report(f"{what}, its draws alone", "slots/s", [networks * slots / one for one in drawn])
    ratios = [one / other for one, other in zip(played, drawn, strict=True)]
    report(f"{what} ÷ its draws", "times", ratios, ".2f")
    return rate


def seconds(play: Callable[[int], None], slots: int) -> float:
    """What so many slots take."""
    start = time.perf_counter()
    play(slots)
    return time.perf_counter() - start


def player(scenario: Scenario, physics: Physics, batch: int, device: torch.device) -> Callable[[int], None]:
    """What plays a number of slots."""
    generator = make_generator(0, Use.ENVIRONMENTS)
    network = EdgeNetwork(scenario, physics, batch, device, generator)

    def actions(size: int) -> list[torch.Tensor]:
        return [(torch.rand(batch, size, generator=generator) * 2 - 1).to(device) for _ in range(4)]

    slow, fast = actions(scenario.caching_action_size), actions(scenario.offloading_action_size)

    def play(slots: int) -> None:
        for slot in range(slots):
            if network.episode_over:
                network.reset()
            if network.frame_over:
                cache = decode_caching(scenario, slow[slot % 4], network.cache, physics, network.exact)
                network.begin_frame(cache)
            network.step(decode_offloading(scenario, fast[slot % 4], physics))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return play


def drawer(scenario: Scenario, batch: int) -> Callable[[int], None]:
    """What draws for a number of slots as the simulator does: requests, positions, fading, and nothing of them."""
    generator, shape = make_generator(0, Use.ENVIRONMENTS), (batch, scenario.num_users)

    def draw(slots: int) -> None:
        for _ in range(slots):
            torch.rand(shape, generator=generator, dtype=torch.float64)
            torch.randint(-100, 100, (*shape, 2), generator=generator, dtype=torch.int32)
            torch.rand(shape, generator=generator, dtype=torch.float64)

    return draw


def city_row(servers: int, users: int, services: int, repeats: int) -> None:
    """Print what the best known decision of a slot of a city takes, its bound included, and its gap."""
    scenario = Scenario(
        num_servers=servers, num_users=users, num_services=services, popularity="zipf", compute_hz=20e9
    )
    network = EdgeNetwork(scenario, generator=make_generator(5, Use.TEST_NETWORKS))
    taken, gaps = [], []
    for repeat in range(repeats):
        draws = torch.rand(1, servers, services, generator=torch.Generator().manual_seed(repeat))
        network.reset()
        cache = fill_caches(scenario, draws)
        start = time.process_time()
        found = best_known_and_bound(
            scenario, cache, network.requests, network.positions, table=network.exact
        )
        taken.append(time.process_time() - start)
        gaps.append(100 * float(found.gap))
    what = f"best known and bound, {servers}x{users}x{services}"
    report(what, "CPU s a slot", taken, ".3f")
    report(f"{what}, gap", "% above the bound", gaps, ".4f")


def twin_rows(name: str, rates: dict[str, float], arguments: argparse.Namespace) -> None:
    """Print how fast the scalar loop is, and how many times as fast the simulator."""
    twin = load_twin()
    if name not in twin.PUBLISHED:
        print(f"no scalar twin of {name}")
        return
    for physics, make in (("strict", twin.StrictTwin), ("published", twin.PublishedTwin)):
        measured = [twin_rate(make(name), arguments.twin_slots) for _ in range(arguments.repeats)]
        scalar = report(f"scalar twin, {physics}", "slots/s", measured)
        what = f"{arguments.networks[0]} networks ÷ scalar twin, {physics}"
        report(what, "times", [rates[physics] / scalar])


def twin_rate(twin, slots: int) -> float:  # type: ignore[no-untyped-def]
    """Slots per second of the scalar loop."""
    rng = random.Random(0)

    def action(size: int) -> list[float]:
        return [rng.uniform(-1, 1) for _ in range(size)]

    users = range(twin.users)
    draws = [
        (
            action(3 * twin.users),
            [rng.randint(1, 10) for _ in users],
            [(100.0 + rng.randrange(-100, 100), float(rng.randrange(-100, 100))) for _ in users],
            [rng.weibullvariate(2**0.5, 2) for _ in users],  # Rayleigh(1)
        )
        for _ in range(slots)
    ]
    slow = action(10 * twin.servers)
    start = time.perf_counter()
    for slot, draw in enumerate(draws):
        if slot % 50 == 0:
            twin.start()
        if slot % 5 == 0:
            twin.begin_frame(slow)
        twin.serve(*draw)
    return slots / (time.perf_counter() - start)


def report(what: str, unit: str, values: list[float], shown: str = ",.0f") -> float:
    """Print the median and the range of what was measured; return the median."""
    median = statistics.median(values)
    spread = f" ({min(values):{shown}} to {max(values):{shown}})" if len(values) > 1 else ""
    print(f"{what:44}{median:>14{shown}} {unit}{spread}", flush=True)
    return median


def processor() -> str:
    """The processor's name, as well as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def load_twin() -> ModuleType:
    """The module tests/helpers/twin.py of this repository."""
    path = Path(__file__).resolve().parent.parent / "tests" / "helpers" / "twin.py"
    spec = importlib.util.spec_from_file_location("twin", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
