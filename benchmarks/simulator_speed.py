"""How fast is the simulator? Slots per second with many networks in parallel, and the ratio to a scalar loop.

    python benchmarks/simulator_speed.py

A slot counts once a network: decoding an offloading action, serving all users, drawing the next requests and
positions; a caching decision every few slots is part of it. Actions are drawn beforehand. The scalar loop is the twin
of tests/helpers/twin.py, plain Python for one network, which needs its draws handed in (drawn beforehand as well).
"""

import argparse
import importlib.util
import os
import platform
import random
import statistics
import time
from pathlib import Path
from types import ModuleType

import torch

from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import EdgeNetwork, Use, decode_caching, decode_offloading, make_generator


def main() -> None:
    """Measure and print."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    scenario = Scenario.from_config(arguments.scenario)
    print(f"machine    {processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}")
    print(f"versions   Python {platform.python_version()}, torch {torch.__version__}")
    print(
        f"setting    {arguments.scenario}, {arguments.num_envs} networks, {arguments.threads} threads, "
        f"device {arguments.device}, {arguments.slots} slots, median of {arguments.repeats} repeats"
    )
    rates: dict[str, float] = {}
    for physics in ("strict", "published"):
        measured = [network_rate(scenario, physics, arguments) for _ in range(arguments.repeats)]
        rates[physics] = report(f"simulator, {physics}", measured)
    name = Path(arguments.scenario).stem.upper()
    twin = load_twin()
    if name not in twin.PUBLISHED:
        print(f"no scalar twin of {name}")
        return
    for physics, make in (("strict", twin.StrictTwin), ("published", twin.PublishedTwin)):
        measured = [twin_rate(make(name), arguments.twin_slots) for _ in range(arguments.repeats)]
        scalar = report(f"scalar twin, {physics}", measured)
        print(f"{'ratio, ' + physics:24}{rates[physics] / scalar:14,.0f} times the scalar twin")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--scenario", default="es2.yaml", help="config that holds the scenario (default: es2.yaml)"
    )
    parser.add_argument(
        "--num-envs", type=positive, default=4096, help="networks in parallel (default: 4096)"
    )
    parser.add_argument("--slots", type=positive, default=50, help="slots of a repeat (default: 50)")
    parser.add_argument(
        "--twin-slots", type=positive, default=200, help="slots of the scalar loop (default: 200)"
    )
    parser.add_argument(
        "--repeats", type=positive, default=5, help="repeats to take the median of (default: 5)"
    )
    parser.add_argument(
        "--threads", type=positive, default=os.cpu_count() or 1, help="threads (default: all cores)"
    )
    parser.add_argument("--device", default="cpu", help="where the networks live (default: cpu)")
    return parser.parse_args()


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def network_rate(scenario: Scenario, physics: Physics, arguments: argparse.Namespace) -> float:
    """Slots per second of all networks together, after one frame to warm up."""
    device = torch.device(arguments.device)
    generator = make_generator(0, Use.ENVIRONMENTS)
    network = EdgeNetwork(scenario, physics, arguments.num_envs, device, generator)
    batch = arguments.num_envs

    def actions(size: int) -> list[torch.Tensor]:
        return [(torch.rand(batch, size, generator=generator) * 2 - 1).to(device) for _ in range(4)]

    slow, fast = actions(scenario.caching_action_size), actions(scenario.offloading_action_size)

    def play(slots: int) -> None:
        for slot in range(slots):
            if network.episode_over:
                network.reset()
            if network.frame_over:
                network.begin_frame(decode_caching(scenario, slow[slot % 4], network.cache, physics))
            network.step(decode_offloading(scenario, fast[slot % 4], physics))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    play(scenario.slots_per_decision)
    start = time.perf_counter()
    play(arguments.slots)
    return batch * arguments.slots / (time.perf_counter() - start)


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


def report(what: str, rates: list[float]) -> float:
    """Print the median and the range of the rates; return the median."""
    median = statistics.median(rates)
    print(f"{what:24}{median:14,.0f} slots/s ({min(rates):,.0f} to {max(rates):,.0f})")
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
