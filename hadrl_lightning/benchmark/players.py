"""What plays test episodes: policies, learners that are validated while they train, trained agents as policies,
`es2.ckpt`, or `agents/es2-{seed}.ckpt` for one of every seed, and policies of a user's own, `my_module.MyPolicy`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hadrl_lightning.agent_files import SUFFIX, find_agent, read_agent, stored_file
from hadrl_lightning.agents import HADRL
from hadrl_lightning.agents.adapting import Adapt
from hadrl_lightning.baselines import (
    CACHING_POLICIES,
    OFFLOADING_POLICIES,
    CachingFactory,
    OffloadingFactory,
)
from hadrl_lightning.data import EpisodeStream
from hadrl_lightning.errors import HadrlError
from hadrl_lightning.judge import KeepBest, Scoreboard, Validation, validated
from hadrl_lightning.play import CachingPolicy, Episode, OffloadingPolicy, Policies, run_episode
from hadrl_lightning.registries import Registry
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import Allocation, EdgeNetwork, Use, make_generator, num_targets
from hadrl_lightning.simulator.service import check_allocation

Player = Callable[[EdgeNetwork], Episode]
"""Plays an episode of networks; `HADRL.play` is one."""


def player(policies: Policies) -> Player:
    """Plays by a policy for each level."""
    return lambda network: run_episode(network, *policies)


def play(stream: EpisodeStream, play_one: Player) -> list[Episode]:
    """The episodes of a stream, played by the same policies, batch by batch."""
    with torch.no_grad():
        return [play_one(network) for network in stream]


class Judge:
    """Validates a learner on the same episodes again and again, and keeps the best weights it has seen.

    Every learner is judged by the rule and on the episodes that `hadrl fit` goes by: the weights of the least
    validation latency are the ones that are tested.

    Args:
        stream: the validation episodes.
        due: slots of training after which they are played.
    """

    def __init__(self, stream: EpisodeStream, due: Sequence[int]) -> None:
        self.validations: list[Validation] = []
        """Those made so far."""
        self._stream = stream
        self._due = sorted(due)
        self._keep = KeepBest()

    @property
    def best(self) -> Any:
        """Snapshot at the best validation; None without one."""
        return self._keep.kept

    def is_due(self, slots: int) -> bool:
        """Whether a validation is due after `slots` slots of training; it counts as made then."""
        reached = [one for one in self._due if one <= slots + 0.5]
        self._due = self._due[len(reached) :]
        return bool(reached)

    def __call__(self, slots: int, policies: Policies, snapshot: Callable[[], Any]) -> None:
        """Validate after `slots` slots of training, and keep a copy of `snapshot()` if it is the best so far."""
        board = Scoreboard("", self._stream.scenario.preferences)
        for episode in play(self._stream, player(policies)):
            board.add(episode)
        self.validations.append(validated(board, self._stream.scenario, float(slots)))
        self._keep(self.validations[-1], snapshot)


# Trained agents -------------------------------------------------------------------------------------------------------

SEED = "{seed}"
"""What stands for the seed in the name of a file."""


def is_trained(policy: str) -> bool:
    """Whether the policy is the file of a trained agent."""
    return policy.endswith(SUFFIX)


def label_of_trained(policy: str) -> str:
    """What a table calls the agent: its file without folder and seed."""
    name = Path(policy).name.removesuffix(SUFFIX)
    return f"HADRL, {name.replace(SEED, '').rstrip('-_. ')}{SUFFIX}"


def agent_contents(policy: str, seed: int) -> dict[str, Any]:
    """What determines the agent of a cell: its file, and a hash of what is in it.

    Raises:
        HadrlError: there is no such file.
    """
    file = find_agent(policy.replace(SEED, str(seed)))
    return {"file": str(file), "sha256": hashlib.sha256(stored_file(file).read_bytes()).hexdigest()}


def adapt_of(policy: str, seed: int) -> str:
    """What goes on learning in the agent of a file as it plays, by the file."""
    contents = read_agent(find_agent(policy.replace(SEED, str(seed))))
    return str(contents["hyper_parameters"].get("adapt", "off"))


def check_files(policy: str, seeds: Sequence[int]) -> None:
    """Read the files of an agent, of all seeds, before hours are spent on others.

    Raises:
        HadrlError: there is no such file, or it is damaged or of another version.
    """
    for name in dict.fromkeys(policy.replace(SEED, str(seed)) for seed in seeds):
        read_agent(find_agent(name, "policies"), "policies")


def trained_player(
    agent: dict[str, Any], scenario: Scenario, physics: Physics, adapt: Adapt | None = None
) -> Player:
    """Plays by the agent of a file; the scenario may have other sizes than it was trained on if its models are sets.

    Args:
        agent: see `agent_contents`.
        scenario: to play in.
        physics: of the networks.
        adapt: what goes on learning as it plays; by default what the file says.

    Raises:
        HadrlError: it was trained under other physics, or does not fit the scenario.
    """
    settings: dict[str, Any] = {} if adapt is None else {"adapt": adapt}
    trained = HADRL.load_from_checkpoint(agent["file"], **settings)
    if trained.physics != physics:
        raise HadrlError(
            f"physics must be that of the agent, {trained.physics}, got {physics}: {agent['file']}"
        )
    return trained.for_scenario(scenario).play


# Policies by name, and of a user's own --------------------------------------------------------------------------------

PairFactory = Callable[[Scenario, torch.Generator], Any]
"""Makes a policy of both levels: a pair `(caching, offloading)`, or an object with these two as attributes."""
CACHING: Registry[CachingFactory] = Registry("policy of caching", "hadrl_lightning.caching_policies")
OFFLOADING: Registry[OffloadingFactory] = Registry(
    "policy of offloading", "hadrl_lightning.offloading_policies"
)
PAIRS: Registry[PairFactory] = Registry("policy of both levels", "hadrl_lightning.policies")
"""What others bring, by entry points, or by module paths."""


def caching_factory(name: str) -> CachingFactory:
    """What makes the caching policy of a name, of `CACHING_POLICIES`, of an entry point, or a module path.

    Raises:
        HadrlError: there is none, in one line.
    """
    return CACHING_POLICIES[name] if name in CACHING_POLICIES else _found(CACHING, name)


def offloading_factory(name: str) -> OffloadingFactory:
    """The same of an offloading policy, of `OFFLOADING_POLICIES` and so on.

    Raises:
        HadrlError: there is none, in one line.
    """
    return OFFLOADING_POLICIES[name] if name in OFFLOADING_POLICIES else _found(OFFLOADING, name)


def pair_factory(name: str) -> PairFactory:
    """What makes both policies, of an entry point, or a module path.

    Raises:
        HadrlError: there is none, in one line.
    """
    return _found(PAIRS, name)


def is_caching(name: str) -> bool:
    """Whether a name can be that of a caching policy."""
    return name in CACHING_POLICIES or "." in name or name in CACHING.names()


def is_offloading(name: str) -> bool:
    """Whether a name can be that of an offloading policy."""
    return name in OFFLOADING_POLICIES or "." in name or name in OFFLOADING.names()


def is_own_pair(name: str) -> bool:
    """Whether a name without a `+` is that of a policy of both levels which a user brings."""
    return "+" not in name and not is_trained(name) and ("." in name or name in PAIRS.names())


def draws_of(seed: int) -> tuple[torch.Generator, torch.Generator]:
    """Generators of a caching and an offloading policy, on the CPU."""
    return make_generator(seed, Use.BASELINE_CACHING), make_generator(seed, Use.BASELINE_OFFLOADING)


def pair_player(caching: str, offloading: str, scenario: Scenario, seed: int) -> Player:
    """Plays by two policies of these names; mistakes of a user's own get one line with its name.

    Raises:
        HadrlError: a policy can't be made.
    """
    policies = pair_policies(caching, offloading, scenario, seed)
    if caching in CACHING_POLICIES and offloading in OFFLOADING_POLICIES:
        return player(policies)
    return _own_player(*policies, caching, offloading)


def pair_policies(caching: str, offloading: str, scenario: Scenario, seed: int) -> Policies:
    """The policies of these names; what a user's own decide is checked.

    Raises:
        HadrlError: a policy can't be made.
    """
    slow_draws, fast_draws = draws_of(seed)
    with blaming(caching):
        slow = _policy(caching_factory(caching)(scenario, slow_draws))
    with blaming(offloading):
        fast = _policy(offloading_factory(offloading)(scenario, fast_draws))
    return (
        slow if caching in CACHING_POLICIES else _checked_caching(caching, slow),
        fast if offloading in OFFLOADING_POLICIES else _checked_offloading(offloading, fast),
    )


def own_player(name: str, scenario: Scenario, seed: int) -> Player:
    """Plays by a policy of both levels that a user brings; its mistakes get one line with its name.

    Raises:
        HadrlError: it can't be made, or is none.
    """
    return _own_player(*own_policies(name, scenario, seed), name)


def own_policies(name: str, scenario: Scenario, seed: int) -> Policies:
    """Both levels of such a policy; what they decide is checked.

    Raises:
        HadrlError: it can't be made, or is none.
    """
    with blaming(name):
        made = pair_factory(name)(scenario, draws_of(seed)[0])
        parts = made if isinstance(made, tuple | list) else _attributes(made)
        if len(parts) != 2 or not all(map(callable, parts)):
            raise HadrlError(
                f"must give a pair (caching, offloading) of policies, called with (scenario, generator), "
                f"got {made!r:.100}; an offloading policy alone is named CACHING+{name}"
            )
        slow, fast = parts
    return _checked_caching(name, slow), _checked_offloading(name, fast)


def _own_player(slow: CachingPolicy, fast: OffloadingPolicy, *names: str) -> Player:
    def play_one(network: EdgeNetwork) -> Episode:
        with blaming("+".join(names)):
            return run_episode(network, slow, fast)

    return play_one


def _attributes(made: Any) -> tuple[Any, ...]:
    return getattr(made, "caching", None), getattr(made, "offloading", None)


def _policy(made: Any) -> Any:
    if not callable(made):
        raise HadrlError(f"must give a policy, a function of the networks, got {made!r:.100}")
    return made


def _checked_caching(name: str, policy: CachingPolicy) -> CachingPolicy:
    def decide(network: EdgeNetwork) -> torch.Tensor:
        with blaming(name), _unchanged(network):
            cache: Any = policy(network)
            if not isinstance(cache, torch.Tensor):
                raise HadrlError(f"cache must be a tensor, got {type(cache).__name__}")
            if cache.shape != network.cache.shape or cache.dtype != torch.bool:
                shapes = f"{list(network.cache.shape)}, got {cache.dtype} of shape {list(cache.shape)}"
                raise HadrlError(f"cache must be bool of shape {shapes}")
        return cache

    return decide


def _checked_offloading(name: str, policy: OffloadingPolicy) -> OffloadingPolicy:
    def decide(network: EdgeNetwork) -> Allocation:
        with blaming(name), _unchanged(network):
            decision: Any = policy(network)
            parts = decision if isinstance(decision, Allocation) else ()
            if not parts or not all(isinstance(part, torch.Tensor) for part in parts):
                raise HadrlError(f"decision must be an Allocation of tensors, got {decision!r:.100}")
            targets = num_targets(network.scenario, network.physics)
            check_allocation(decision, list(network.requests.shape), targets)
        return decision

    return decide


@contextmanager
def _unchanged(network: EdgeNetwork) -> Iterator[None]:
    """Refuse a policy that changes the networks it decides for: what it then reaches is not theirs.

    It is looked at in the first frame of an episode, since that takes about as long as a quick policy.

    Raises:
        HadrlError: it did.
    """
    if network.decision > 1:
        yield
        return
    before = network.state_dict()
    yield
    after = network.state_dict()
    if (before["slot"], before["decision"]) != (after["slot"], after["decision"]):
        raise HadrlError("must not play the networks that it decides for")
    parts = ("state", "processes", "generator")
    changed = _first_change(*({part: one[part] for part in parts} for one in (before, after)))
    if changed:
        raise HadrlError(f"must not change the networks that it decides for, but {changed} is another")


def _first_change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The name of the first tensor that is another one; nothing where none is."""
    for name, value in before.items():
        if isinstance(value, dict):
            found = _first_change(value, after[name])
            if found:
                return found
        elif not torch.equal(value.nan_to_num(), after[name].nan_to_num()):
            return str(name)
    return ""


def _found(registry: Registry[Any], name: str) -> Any:
    try:
        return registry.find(name, "policies")
    except ValueError as error:
        raise HadrlError(str(error)) from error


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Turn whatever a user's policy raises, an exit too, or is refused for, into one line that names it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, HadrlError) and str(error).startswith("policy "):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise HadrlError(f"policy {name}: {kind}{' '.join(str(error).split())}") from error
