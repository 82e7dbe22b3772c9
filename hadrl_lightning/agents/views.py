"""What an agent is asked to decide on: refused, in one line, where it is no view of the agent's network.

Nothing is decided silently about a number that is none, a service or server that is not there, or another network.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hadrl_lightning.errors import HadrlError, NonFiniteError, shown
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import (
    CachingView,
    EdgeNetwork,
    OffloadingView,
    View,
    fields_of,
    from_vector,
    rules,
)
from hadrl_lightning.simulator.constants import constants
from hadrl_lightning.simulator.fields import sizes
from hadrl_lightning.simulator.physics import RULES

SIZES = ("num_servers", "num_users", "num_services")
CAPACITY_TOLERANCE = 1e-3
"""Relative: by how much an observed cache may differ from the one of the agent's scenario."""
UNBOUNDED = ("best_reward",)
"""Buffers that may be infinite: nothing was seen yet."""


class _Block(NamedTuple):
    """Some numbers of an observation that mean the same."""

    name: str
    """With {} for the index within the block."""
    size: int
    least: float = 0.0
    most: float = torch.finfo(torch.float32).max
    whole: bool = False

    def allowed(self) -> str:
        """What a number may be, in words."""
        if self.whole:
            return f"a whole number from {self.least:.0f} to {self.most:.0f}"
        return "finite" if self.least < 0 else "at least 0 and finite"


def check_network(scenario: Scenario, physics: Physics, network: EdgeNetwork) -> None:
    """Refuse networks of another physics than the agent's, or of other sizes than those of its scenario.

    Raises:
        HadrlError: another physics, another number of servers, users or services, or services of other sizes.
    """
    if network.physics != physics:
        raise HadrlError(f"network must have the physics of the agent ({physics}), got {network.physics}")
    other = network.scenario
    if other == scenario:
        return
    for name in SIZES:
        if getattr(other, name) != getattr(scenario, name):
            raise _wrong_network(name, getattr(scenario, name), getattr(other, name))
    if other.storage_bits != scenario.storage_bits:
        raise _wrong_network("storage_bits", scenario.storage_bits, other.storage_bits)


def as_observation(observation: Any) -> Float[Tensor, "..."]:
    """Numbers in whatever form and format in single precision, as agents compute.

    Raises:
        HadrlError: they are none, or complex.
    """
    try:
        found = torch.as_tensor(observation)
    except (TypeError, ValueError, RuntimeError) as error:
        raise HadrlError(
            f"offloading observation must be of real numbers, got {shown(observation)}"
        ) from error
    if found.is_complex():
        raise HadrlError(f"offloading observation must be of real numbers, got {found.dtype}")
    return found.float()


def check_offloading_view(observation: Tensor, scenario: Scenario, physics: Physics) -> None:
    """Refuse what is no offloading observation of the scenario, `[networks, observation]`.

    Raises:
        NonFiniteError: a number is infinite or none.
        HadrlError: another number of users, a service that is not there, a cache bit other than 0 and 1, a negative
            capacity, input or number of cycles.
    """
    check_size(observation, scenario)
    _check_blocks("offloading observation", observation, _blocks(OffloadingView, scenario, physics))


def check_size(observation: Tensor, scenario: Scenario) -> None:
    """Refuse an offloading observation of another number of users.

    Raises:
        HadrlError: it is of another size.
    """
    size = scenario.offloading_observation_size
    found = list(observation.shape)
    if observation.ndim == 2 and found[1] == size:
        return
    users, rest = divmod(found[-1] - (size - 3 * scenario.num_users) if found else -1, 3)
    of = f"of {users} users" if len(found) == 2 and users >= 0 and not rest else f"of shape {found}"
    raise HadrlError(
        f"offloading observation must have shape [networks, {size}], {scenario.num_users} users, got one {of}"
    )


def check_caching_view(observation: Tensor, scenario: Scenario, physics: Physics | None = None) -> None:
    """Refuse what is no caching observation of the scenario, `[..., observation]`.

    Args:
        observation: as `EdgeNetwork.caching_observation` gives it.
        scenario: the agent's.
        physics: how the remaining cache is to be read; None: either way.

    Raises:
        NonFiniteError: a number is infinite or none.
        HadrlError: a cache bit other than 0 and 1, a negative demand, or caches of another size than the scenario's:
            the decision would overfill them, or leave them empty.
    """
    possible = list(RULES.values()) if physics is None else [rules(physics)]
    _check_blocks("caching observation", observation, _blocks(CachingView, scenario, physics))
    view = from_vector(CachingView, observation.detach().double(), scenario)
    table = constants(scenario, observation.device, torch.float64)
    left, usable = view.free_cache_bits, table.usable_cache_bits
    expected = [(one.fillable_bits(table, view.cache), one.of_cache(table)) for one in possible]
    wrong = torch.stack([(left - bits).abs() > CAPACITY_TOLERANCE * whole for bits, whole in expected]).all(
        dim=0
    )
    if bool(wrong.any()):
        place = tuple(wrong.nonzero()[0].tolist())
        server = place[-1]
        raise HadrlError(
            f"remaining cache of server {server} must be that of the agent's scenario "
            f"({float(usable[server]) / 1e9:.6g} Gbit may be filled), got {float(left[place]) / 1e9:.6g} Gbit: "
            "for_scenario takes an agent to other caches"
        )


def check_weights(module: nn.Module, name: str) -> None:
    """Refuse to act with a weight or a statistic that is infinite or not a number.

    Raises:
        NonFiniteError: there is one; it is named.
    """
    tensors = [
        (part, value.detach())
        for part, value in (*module.named_parameters(), *module.named_buffers())
        if value.is_floating_point() and value.numel() and part.rpartition(".")[2] not in UNBOUNDED
    ]
    if not tensors or bool(torch.stack([value.sum().double() for _, value in tensors]).isfinite().all()):
        return
    for part, value in tensors:
        bad = value[~value.isfinite()]
        if len(bad):
            raise NonFiniteError(f"weight {name}.{part} must be finite, got {float(bad[0])}")


def check_plan(action: Float[Tensor, "networks action"], free_energy: Float[Tensor, " networks"]) -> None:
    """Refuse a plan that holds a number that is none, or that no candidate was good for.

    Raises:
        NonFiniteError: it, or the free energy that it was chosen by, is not finite in some network.
    """
    finite = (action.sum(dim=1) + free_energy).isfinite()
    if not bool(finite.all()):
        network = int((~finite).nonzero()[0])
        numbers = torch.cat((action[network], free_energy[network, None]))
        bad = float(numbers[~numbers.isfinite()][0])
        raise NonFiniteError(f"offloading plan must be finite, got {bad:g} in network {network}")


@lru_cache(maxsize=64)
def _blocks(view: type[View], scenario: Scenario, physics: Physics | None) -> tuple[_Block, ...]:
    """The numbers of an observation in their order; None allows what any physics does."""
    possible = list(RULES.values()) if physics is None else [rules(physics)]
    below_zero = frozenset().union(*(one.below_zero for one in possible))
    blocks = []
    for field in fields_of(view):
        least, most = float(field.first), torch.finfo(torch.float32).max
        if field.name in below_zero:
            least = -most
        if field.dtype == torch.bool:
            most = 1.0
        if field.of is not None:
            most = field.first + sizes(scenario)[field.of] - 1.0
        blocks.append(_Block(field.text, field.size(scenario), least, most, field.whole))
    return tuple(blocks)


@lru_cache(maxsize=64)
def _bounds(blocks: tuple[_Block, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Least, largest and whether whole, for every number."""
    rows = [(block.least, block.most, float(block.whole)) for block in blocks for _ in range(block.size)]
    least, most, whole = torch.tensor(rows, dtype=torch.float32, device=device).view(-1, 3).unbind(1)
    return least, most, whole.bool()


def _check_blocks(
    what: str, observation: Float[Tensor, "*rows observation"], blocks: tuple[_Block, ...]
) -> None:
    least, most, whole = _bounds(blocks, observation.device)
    value = observation.detach().float()
    wrong: Bool[Tensor, "*rows observation"] = ~((value >= least) & (value <= most)) | (
        whole & (value != value.round())
    )
    if not bool(wrong.any()):
        return
    place = tuple(wrong.nonzero()[0].tolist())
    index, found = place[-1], float(value[place])
    for block in blocks:
        if index < block.size:
            break
        index -= block.size
    kind = HadrlError if abs(found) < torch.inf else NonFiniteError  # of NaN no comparison holds
    row = f" in network {place[0]}" if len(place) > 1 else ""
    raise kind(f"{what}: {block.name.format(index)} must be {block.allowed()}, got {found:g}{row}")


def _wrong_network(name: str, expected: object, found: object) -> HadrlError:
    return HadrlError(
        f"network must have the {name} of the agent's scenario ({expected}), got {found}: "
        "for_scenario takes an agent there"
    )
