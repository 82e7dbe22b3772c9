"""How a policy looks: the same colour, marker and dashes in every figure; a hue stands for a kind of policy."""

import zlib
from collections.abc import Callable
from typing import Any

OURS = "#0072B2"
YARDSTICK = "latency_optimal+best_known"
"""The least latency known: black, and dashed where it is a line."""

KINDS: dict[str, Callable[[str], bool]] = {
    "HADRL": lambda name: name == "hadrl" or name.endswith(".ckpt"),
    "ablation": lambda name: name.startswith("hadrl-") and name != "hadrl-published",
    "learner": lambda name: "+" not in name and name != "lower-bound",
    "knows the physics": lambda name: (
        name.endswith(("+best_known", "+genetic", "_sqrt", "+hindsight")) or name == "lower-bound"
    ),
    "heuristic": lambda name: True,
}
"""Kinds of policies in the order in which they are tried, and whether a name belongs to it."""

COLOURS: dict[str, dict[str, str]] = {
    "HADRL": {"hadrl": OURS},
    "ablation": {
        "hadrl-no-epistemic": "#5E4FA2",
        "hadrl-no-law": "#3690C0",
        "hadrl-one-member": "#56B4E9",
        "hadrl-no-refinement": "#02818A",
        "hadrl-horizon-5": "#9E9AC8",
        "hadrl-crowd-caching": "#7BCCC4",
        "hadrl-critic-caching": "#08519C",
        "hadrl-critic-no-actor": "#DDA0DD",
        "hadrl-actor-caching": "#B15FC9",
        "hadrl-no-planning": "#3F007D",
    },
    "learner": {
        "twin-ddpg": "#D55E00",
        "flat-ddpg": "#E69F00",
        "ppo": "#8C2D04",
        "sac": "#CC79A7",
        "td3": "#99004C",
        "hadrl-published": "#8C6D31",
    },
    "knows the physics": {
        YARDSTICK: "#000000",
        "hit_optimal+best_known": "#009E73",
        "hit_optimal+least_loaded_sqrt": "#66C2A4",
        "density+least_loaded_sqrt": "#A1D99B",
        "density+genetic": "#41AB5D",
        "lower-bound": "#525252",
    },
    "heuristic": {
        "random+random": "#BDBDBD",
        "popularity+home_equal": "#969696",
        "hit_optimal+least_loaded_equal": "#737373",
        "none+all_cloud": "#BDBDBD",
        "none+least_loaded_equal": "#969696",
        "random+least_loaded_equal": "#737373",
        "popularity+least_loaded_equal": "#BDBDBD",
        "density+least_loaded_equal": "#969696",
        "lru+least_loaded_equal": "#737373",
        "lfu+least_loaded_equal": "#BDBDBD",
    },
}
"""Colours of those that are known; any other one has a colour of its kind, by its name."""
MARKERS = "os^DvPX<>p*h"


def family(policy: str) -> str:
    """The kind of a policy, a key of `KINDS`."""
    return next(name for name, belongs in KINDS.items() if belongs(policy))


def colour(policy: str) -> str:
    """The colour of a policy."""
    known = COLOURS[family(policy)]
    return known.get(policy) or list(known.values())[zlib.crc32(policy.encode()) % len(known)]


def look(policy: str) -> dict[str, Any]:
    """Colour, marker, dashes and order of the line of a policy: ours is above all others, and wider."""
    kind = family(policy)
    names = list(COLOURS[kind])
    number = names.index(policy) if policy in names else len(names) + zlib.crc32(policy.encode())
    return {
        "color": colour(policy),
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": (0, (4, 2)) if policy == YARDSTICK else "--" if kind == "ablation" else "-",
        "linewidth": 2.0 if kind == "HADRL" else 1.2,
        "zorder": 10 if kind == "HADRL" else 3,
    }
