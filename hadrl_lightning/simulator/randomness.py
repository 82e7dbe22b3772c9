"""Generators for everything that is drawn: each use has its own, so that none disturbs another."""

import numpy as np
import torch


def make_generator(device: torch.device | str, *key: int) -> torch.Generator:
    """A generator on `device` seeded from non-negative whole numbers, such as (seed, use, rank).

    Different keys give independent streams (numpy's `SeedSequence`).

    Raises:
        ValueError: a negative number in the key.
    """
    if any(number < 0 for number in key):
        raise ValueError(f"seed must be at least 0, got {min(key)}")
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    generator = torch.Generator(device)
    generator.manual_seed(int(state) >> 1)
    return generator
