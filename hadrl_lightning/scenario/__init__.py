"""What networks are like: the constants of one, ranges from which each draws its own, and what is allowed."""

from hadrl_lightning.scenario.preferences import Preferences
from hadrl_lightning.scenario.ranges import Range
from hadrl_lightning.scenario.scenario import BITS_PER_BYTE, GIB, KIB, MIB, Physics, Scenario

__all__ = ["BITS_PER_BYTE", "GIB", "KIB", "MIB", "Physics", "Preferences", "Range", "Scenario"]
