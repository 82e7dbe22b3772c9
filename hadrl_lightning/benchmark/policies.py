"""The policies of a benchmark by name, and how each learner differs from HADRL as configured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hadrl_lightning.baselines import CACHING_POLICIES, OFFLOADING_POLICIES
from hadrl_lightning.benchmark.players import (
    Player,
    caching_factory,
    is_caching,
    is_offloading,
    is_own_pair,
    is_trained,
    label_of_trained,
    offloading_factory,
    own_player,
    pair_factory,
    pair_player,
)
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge import LEAST_KNOWN
from hadrl_lightning.scenario import Scenario

Kind = Literal["hadrl", "twin-ddpg", "flat-ddpg", "no-planning", "sb3", "ppo-set"]
"""How a learner is trained: by a Trainer, by the loops of `baselines.learners`, or by Stable-Baselines3; `ppo-set` not
in the scenario that it is judged in, but over the networks of `any.yaml`."""

Settings = dict[str, Any]

LOWER_BOUND = "lower-bound"
FIXED = {*CACHING_POLICIES, *OFFLOADING_POLICIES} - {"random", "random_full", "two_choices", "genetic"}
"""Heuristics of ours that draw nothing and so are the same for every seed."""

LATENCY_OPTIMAL = "latency-optimal caches"

CACHING_LABELS = {
    "none": "no caches",
    "random": "random caches",
    "random_full": "random full caches",
    "popularity": "popularity",
    "density": "density",
    "lru": "LRU",
    "lfu": "LFU",
    "gdsf": "GDSF",
    "sieve": "SIEVE",
    "hit_optimal": "hit-optimal caches",
    "latency_optimal": LATENCY_OPTIMAL,
}
OFFLOADING_LABELS = {
    "all_cloud": "all cloud",
    "random": "random",
    "home_equal": "home, equal",
    "home_sqrt": "home, sqrt",
    "local_only": "local only",
    "least_loaded_equal": "least loaded, equal",
    "least_loaded_sqrt": "least loaded, sqrt",
    "shortest_queue": "shortest queue",
    "two_choices": "two choices",
    "drift_plus_penalty": "drift plus penalty",
    "genetic": "genetic",
    "best_known": "best known",
    "hindsight": "hindsight",
    "clairvoyant": "clairvoyant",
}


@dataclass(frozen=True)
class PairPolicy:
    """A heuristic for each level."""

    caching: str
    offloading: str

    @property
    def draws(self) -> bool:
        """Whether it depends on the seed."""
        return not {self.caching, self.offloading} <= FIXED

    @property
    def factories(self) -> dict[str, Any]:
        """What makes the two policies, by name.

        Raises:
            HadrlError: there is no such policy.
        """
        return {
            self.caching: caching_factory(self.caching),
            self.offloading: offloading_factory(self.offloading),
        }

    def player(self, scenario: Scenario, seed: int) -> Player:
        """Plays by the two."""
        return pair_player(self.caching, self.offloading, scenario, seed)


@dataclass(frozen=True)
class OwnPolicy:
    """A policy of both levels that a user brings, by an entry point or as `my_module.MyPolicy`."""

    name: str

    @property
    def draws(self) -> bool:
        """It may."""
        return True

    @property
    def factories(self) -> dict[str, Any]:
        """What makes it, by its name.

        Raises:
            HadrlError: there is no such policy.
        """
        return {self.name: pair_factory(self.name)}

    def player(self, scenario: Scenario, seed: int) -> Player:
        """Plays by it."""
        return own_player(self.name, scenario, seed)


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A policy that is trained."""

    label: str
    kind: Kind
    overlays: tuple[str, ...] = ()
    """Shipped settings files that are merged over the scenario's."""
    settings: Settings = field(default_factory=dict)
    """Settings merged over those."""
    learner: Settings = field(default_factory=dict)
    """Settings of `LearnerSettings`, or of the Stable-Baselines3 algorithm, and its name as `algorithm`."""


def _planner(**values: Any) -> Settings:
    """The same planner settings where the agent is judged and where it collects."""
    return {"model": {"planner": values}, "planning": {"planner": values}}


LEARNERS: dict[str, Learner] = {
    "hadrl": Learner(label="HADRL", kind="hadrl"),
    "hadrl-no-epistemic": Learner(
        label="HADRL, no epistemic term",
        kind="hadrl",
        settings={"planning": {"planner": {"use_exploration": False, "share_steps": 1}}},
    ),
    "hadrl-no-law": Learner(
        label="HADRL, no sharing law",
        kind="hadrl",
        settings={"model": {"set_world_model": {"encoder": "deep_sets"}, "slow_level": "set"}},
    ),
    "hadrl-one-member": Learner(
        label="HADRL, one member",
        kind="hadrl",
        settings={
            "model": {
                "world_model": {"ensemble_size": 1},
                "set_world_model": {"ensemble_size": 1},
                "planner": {"planning_members": None},
            },
            "planning": {"planner": {"planning_members": None}},
        },
    ),
    "hadrl-no-refinement": Learner(
        label="HADRL, CEM alone", kind="hadrl", settings=_planner(share_steps=0, target_sweeps=0)
    ),
    "hadrl-horizon-5": Learner(
        label="HADRL, CEM alone, horizon 5",
        kind="hadrl",
        settings=_planner(  # plans of one slot alone are refined, or made by sums
            share_steps=0, target_sweeps=0, plan_horizon=5, strategy="information"
        ),
    ),
    "hadrl-slot-alone": Learner(
        label="HADRL, no look past the slot",
        kind="hadrl",
        settings={"model": {"set_world_model": {"discount": 0.0}}},
    ),
    "hadrl-crowd-caching": Learner(
        label="HADRL, caches without the look at drawn slots",
        kind="hadrl",
        settings={"model": {"lookahead": {"num_finalists": 0}}},
    ),
    "hadrl-critic-caching": Learner(
        label="HADRL, caches by a critic (DDPG)", kind="hadrl", settings={"model": {"slow_level": "set"}}
    ),
    "hadrl-critic-no-actor": Learner(
        label="HADRL, caches by a critic without an actor",
        kind="hadrl",
        settings={"model": {"slow_level": "set", "set_ddpg": {"use_actor": False}}},
    ),
    "hadrl-actor-caching": Learner(
        label="HADRL, caches by the actor alone",
        kind="hadrl",
        settings={
            "model": {
                "slow_level": "set",
                "set_ddpg": {"num_proposals": 1, "num_starts": 1, "explore_rounds": 1},
            }
        },
    ),
    "hadrl-no-planning": Learner(label="HADRL, no planning (reactive)", kind="no-planning"),
    "hadrl-published": Learner(
        label="HADRL as published",
        kind="hadrl",
        overlays=("published.yaml",),
        settings={
            "data": {"physics": "strict"},
            "model": {"planner": {"informed_candidates": 0, "share_steps": 0, "target_sweeps": 0}},
        },
    ),
    # from here on the best settings of benchmarks/tune_rivals.py --trials 7 --slots 4600: docs/results/rivals.md
    "twin-ddpg": Learner(
        label="twin DDPG",
        kind="twin-ddpg",
        learner={
            "actor_learning_rate": 1.31e-5,
            "critic_learning_rate": 4.9e-4,
            "discount": 0.9,
            "noise_start": 0.931,
        },
    ),
    "flat-ddpg": Learner(
        label="flat DDPG",
        kind="flat-ddpg",
        learner={
            "actor_learning_rate": 2.67e-6,
            "critic_learning_rate": 1.95e-4,
            "discount": 0.5,
            "target_rate": 0.02,
            "batch_size": 256,
            "random_share": 0.25,
            "noise_start": 0.255,
        },
    ),
    "ppo": Learner(
        label="PPO (SB3)",
        kind="sb3",
        learner={
            "algorithm": "PPO",
            "learning_rate": 3e-4,
            "gamma": 0.99,
            "n_steps": 64,
            "batch_size": 64,
            "n_epochs": 10,
            "reward_scaling": "returns",
        },
    ),
    "ppo-recurrent": Learner(
        label="recurrent PPO (sb3-contrib)",
        kind="sb3",
        learner={  # those of PPO, whose layers are 64 wide too
            "algorithm": "RecurrentPPO",
            "learning_rate": 3e-4,
            "gamma": 0.99,
            "n_steps": 64,
            "batch_size": 64,
            "n_epochs": 10,
            "reward_scaling": "returns",
            "policy_kwargs": {"lstm_hidden_size": 64},
        },
    ),
    "sac": Learner(
        label="SAC (SB3)",
        kind="sb3",
        learner={
            "algorithm": "SAC",
            "learning_rate": 2.08e-3,
            "gamma": 0.0,
            "batch_size": 64,
            "learning_starts": 1600,
            "updates_per_transition": 1.0,
            "reward_scaling": "rewards",
        },
    ),
    "td3": Learner(
        label="TD3 (SB3)",
        kind="sb3",
        learner={
            "algorithm": "TD3",
            "learning_rate": 7.07e-5,
            "gamma": 0.5,
            "batch_size": 128,
            "learning_starts": 1600,
            "updates_per_transition": 0.5,
            "noise": 0.1,
            "reward_scaling": "returns",
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    "ppo-set": Learner(
        label=f"{LATENCY_OPTIMAL} + PPO with a set encoder (SB3)",
        kind="ppo-set",
        learner={
            "learning_rate": 3e-3,
            "gamma": 0.0,  # what is decided of a slot changes nothing of the next
            "n_steps": 32,
            "batch_size": 64,
            "n_epochs": 8,
            "clip_range": 0.1,
        },
    ),
}
"""Learners by name."""

PUBLISHED_SIZES: dict[str, Settings] = {
    "tiny": {
        "model": {
            "world_model": {"ensemble_size": 3, "hidden_size": 32},
            "planner": {"plan_horizon": 2, "n_candidates": 32, "top_candidates": 4, "optimisation_iters": 2},
        },
        "data": {"passes_per_epoch": 5},
    },
    "small": {
        "model": {
            "world_model": {"ensemble_size": 3, "hidden_size": 128},
            "planner": {
                "plan_horizon": 5,
                "n_candidates": 100,
                "top_candidates": 10,
                "optimisation_iters": 5,
            },
        },
        "data": {"passes_per_epoch": 30},
    },
    "medium": {
        "model": {
            "world_model": {"ensemble_size": 5, "hidden_size": 200},
            "planner": {
                "plan_horizon": 10,
                "n_candidates": 350,
                "top_candidates": 35,
                "optimisation_iters": 7,
            },
        },
    },
    "full": {},
}
"""What of the published sizes is shrunk so that `hadrl-published` ends; `full` is the published table."""

DEFAULT_PAIRS = (
    "random+random",
    "none+all_cloud",
    "popularity+home_equal",
    "none+least_loaded_equal",
    "random+least_loaded_equal",
    "popularity+least_loaded_equal",
    "density+least_loaded_equal",
    "lru+least_loaded_equal",
    "lfu+least_loaded_equal",
    "density+least_loaded_sqrt",
    "density+genetic",
    "hit_optimal+best_known",
    LEAST_KNOWN,
)


def default_policies() -> list[str]:
    """All of them, in the order of tables: learners of ours, other learners, heuristics, the bound."""
    trained_here = [name for name, learner in LEARNERS.items() if learner.kind != "ppo-set"]
    return [*trained_here, *DEFAULT_PAIRS, LOWER_BOUND]


def pair_of(name: str) -> PairPolicy | OwnPolicy | None:
    """The policies that a name `caching+offloading`, or a user's own, stands for; None for a learner, a trained agent
    and the bound.

    Raises:
        HadrlError: there is no such policy.
    """
    if name in LEARNERS or name == LOWER_BOUND or is_trained(name):
        return None
    caching, plus, offloading = name.partition("+")
    if is_own_pair(name):
        return OwnPolicy(name)
    if plus and is_caching(caching) and is_offloading(offloading):
        return PairPolicy(caching, offloading)
    pairs = (
        f"CACHING+OFFLOADING of {{{', '.join(CACHING_POLICIES)}}} and {{{', '.join(OFFLOADING_POLICIES)}}}"
    )
    raise HadrlError(
        f"policies must be among {', '.join(LEARNERS)}, {LOWER_BOUND}, or {pairs}, or the file of a trained agent, "
        f"FILE.ckpt, or your own, my_module.MyPolicy, got {name!r}"
    )


def needs_stable_baselines3(name: str) -> bool:
    """Whether the policy is one of Stable-Baselines3's."""
    return name in LEARNERS and LEARNERS[name].kind in ("sb3", "ppo-set")


def needs_sb3_contrib(name: str) -> bool:
    """Whether the policy is one of sb3-contrib's."""
    return name in LEARNERS and LEARNERS[name].learner.get("algorithm") == "RecurrentPPO"


def label_of(name: str, published_size: str = "small") -> str:
    """What a table or a figure calls the policy; the size of `hadrl-published` is part of it."""
    if name == "hadrl-published":
        return LEARNERS[name].label + (f", {published_size} size" if published_size != "full" else "")
    if name in LEARNERS:
        return LEARNERS[name].label
    if is_trained(name):
        return label_of_trained(name)
    pair = pair_of(name)
    if pair is None:
        return f"lower bound ({LATENCY_OPTIMAL})"
    if name == LEAST_KNOWN:
        return "least known (latency-optimal caches)"
    if isinstance(pair, OwnPolicy):
        return name
    if pair == PairPolicy("random", "random"):
        return "random, both levels"
    caching = CACHING_LABELS.get(pair.caching, pair.caching)
    return f"{caching} + {OFFLOADING_LABELS.get(pair.offloading, pair.offloading)}"


def label_with(label: str, scores: Mapping[str, float]) -> str:
    """The label of a policy once its scores are known: least latency found by local search is not called optimal."""
    if scores.get("exact_caches", 1.0):
        return label
    return label.replace(LATENCY_OPTIMAL, "caches of least latency found (local search)")


def rank(policy: str) -> tuple[int, int]:
    """By which policies are ordered: agents of files, learners in the order of `LEARNERS`, the others, the bound."""
    if policy in LEARNERS:
        return 1, list(LEARNERS).index(policy)
    return (3 if policy == LOWER_BOUND else 0 if is_trained(policy) else 2), 0
