"""What docs/model.md says is what the code does."""

import doctest
import math
import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hadrl_lightning import Scenario, decode_offloading
from hadrl_lightning.benchmark.training import resolved
from hadrl_lightning.config_files import load_config
from hadrl_lightning.simulator import EdgeNetwork


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/model.md").read_text(encoding="utf-8")


def test_the_examples_of_the_page_run(root: Path) -> None:
    found = doctest.testfile(str(root / "docs/model.md"), module_relative=False, encoding="utf-8")
    assert found.attempted > 5
    assert found.failed == 0


def test_the_figures_by_hand_are_those_of_the_equations(page: str) -> None:
    bits, cycles = 8 * 700 * 1024, 450 * 8 * 700 * 1024 / 10
    snr = 10 ** ((20 + 114 - (128.1 + 37.6 * math.log10(0.1))) / 10)
    efficiency = math.log2(1 + snr)
    sending = bits / 200e6 / efficiency
    hit, miss = sending + cycles / 60e9, sending + bits / (4 * 1024**2) + cycles / 4e9 + 0.1
    for figure in (
        f"= {snr:.0f}$",
        rf"\eta = {efficiency:.2f}$ bit/s/Hz",
        f"{bits / 1e6:.2f} Mbit",
        f"t = {sending * 1e3:.2f}$ ms",
        f"{cycles / 1e6:.0f} million cycles {cycles / 60e9 * 1e3:.2f} ms",
        f"60 GHz: {hit * 1e3:.2f} ms",
        f"{sending * 1e3:.2f} ms + {bits / 4 / 1024**2:.3f} s + {cycles / 4e9:.4f} s + 0.1 s = {miss:.3f} s",
        f"{0.1 * sending * 1e3:.3f} mJ",
    ):
        assert figure in page, figure


def test_every_setting_that_the_page_names_is_one(page: str) -> None:
    names = {field.name for field in fields(Scenario)}
    for name in set(re.findall(r"`(\w+_m)`", page)):
        assert name in names
    planning = resolved(load_config("es2.yaml"))["planning"]
    assert planning["latency_weight"] == 0.15
    assert planning["caching_reward"] == "hits_and_latency"
    scenario = Scenario()
    assert (scenario.decisions_per_episode, scenario.slots_per_decision) == (10, 5)


def test_requests_positions_and_fading_are_drawn_anew_in_every_slot() -> None:
    network = EdgeNetwork(Scenario(), num_envs=1, generator=torch.Generator().manual_seed(0))
    network.begin_frame(torch.ones(1, 2, 10, dtype=torch.bool))
    seen = []
    for _ in range(3):
        requests, positions = network.requests, network.positions
        service = network.step(decode_offloading(network.scenario, torch.zeros(1, 90)))
        seen.append((requests, positions, service.spectral_efficiency))
    for first, second in pairwise(seen):
        for before, after in zip(first, second):
            assert not torch.equal(before, after)


def test_the_server_that_serves_makes_no_link_better(page: str) -> None:
    network = EdgeNetwork(Scenario(), num_envs=1, generator=torch.Generator().manual_seed(0))
    network.begin_frame(torch.ones(1, 2, 10, dtype=torch.bool))
    state = network.state_dict()
    latencies, links = [], []
    for target in (-0.5, 0.5):
        network.load_state_dict(state)
        action = torch.zeros(1, 90)
        action[:, :30] = target
        service = network.step(decode_offloading(network.scenario, action))
        latencies.append(service.latency)
        links.append(service.spectral_efficiency)
    assert torch.equal(*links)
    assert torch.equal(*latencies)  # all on one server or all on the other: the same, however far it is


def test_no_observation_tells_where_a_user_is() -> None:
    observations = []
    for seed in (0, 1):
        network = EdgeNetwork(
            Scenario(num_services=1, popularity="zipf"), generator=torch.Generator().manual_seed(seed)
        )
        network.begin_frame(torch.ones(1, 2, 1, dtype=torch.bool))
        network.step(decode_offloading(network.scenario, torch.zeros(1, 90)))
        observations.append(
            (network.positions, network.offloading_observation(), network.caching_observation())
        )
    (here, *first), (there, *second) = observations
    assert not torch.equal(here, there)
    assert all(torch.equal(*pair) for pair in zip(first, second))
