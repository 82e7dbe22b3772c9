"""Which arithmetic the simulator follows: `strict` obeys the constraints, `published` repeats the published code."""

from functools import lru_cache

import torch
from jaxtyping import Int64
from torch import Tensor

from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator.physics.protocol import Limits, Rules
from hadrl_lightning.simulator.physics.published import Published
from hadrl_lightning.simulator.physics.strict import Strict

__all__ = ["RULES", "Limits", "Published", "Rules", "Strict", "homes", "rules"]

RULES: dict[str, Rules] = {one.name: one for one in (Strict(), Published())}
"""Every physics by its name."""


def rules(physics: Physics) -> Rules:
    """The rules of a physics.

    Raises:
        ValueError: there is none of that name.
    """
    if physics not in RULES:
        raise ValueError(f"physics must be {' or '.join(RULES)}, got {physics!r}")
    return RULES[physics]


@lru_cache(maxsize=64)
def homes(scenario: Scenario, physics: Physics, device: torch.device) -> Int64[Tensor, " user"]:
    """The server whose radio each user uses."""
    return torch.tensor(rules(physics).homes(scenario), device=device, dtype=torch.long)
