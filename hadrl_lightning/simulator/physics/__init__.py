"""Which arithmetic the simulator follows: `strict` obeys the constraints, `published` repeats the published code.

Another one is a subclass of `Rules`, in a file here, or anywhere, and a line in `PHYSICS`.
"""

from functools import lru_cache
from typing import Any

from hadrl_lightning.registries import Registry
from hadrl_lightning.scenario import Physics
from hadrl_lightning.simulator.physics.protocol import Limits, Rules
from hadrl_lightning.simulator.physics.published import Published
from hadrl_lightning.simulator.physics.strict import Strict

__all__ = ["PHYSICS", "Limits", "Published", "Rules", "Strict", "rules"]


def _is_physics(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Rules)


PHYSICS: Registry[type[Rules]] = Registry("physics", "hadrl_lightning.physics", _is_physics)
"""What the setting `data.physics` names."""

PHYSICS.register("strict")(Strict)
PHYSICS.register("published")(Published)


@lru_cache(maxsize=64)
def rules(physics: Physics) -> Rules:
    """The rules of a physics: a registered one, that of an entry point, or `module.Class`.

    Raises:
        ValueError: there is none of that name, or it can't be imported.
    """
    return PHYSICS.find(physics, "physics")()
