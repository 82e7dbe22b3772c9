"""Which arithmetic the simulator follows: `strict` obeys the constraints, `published` repeats the published code."""

from hadrl_lightning.scenario import Physics
from hadrl_lightning.simulator.physics.protocol import Limits, Rules
from hadrl_lightning.simulator.physics.published import Published
from hadrl_lightning.simulator.physics.strict import Strict

__all__ = ["RULES", "Limits", "Published", "Rules", "Strict", "rules"]

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
