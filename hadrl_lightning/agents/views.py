"""What an agent is asked to decide on: refused, in one line, where it is no view of the agent's network.

Nothing is decided silently about a number that is none, a service or server that is not there, or another network.
"""

from dataclasses import fields
from functools import lru_cache
from typing import Any, NoReturn, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hadrl_lightning.errors import HadrlError, NonFiniteError
from hadrl_lightning.scenario import Physics, Scenario
from hadrl_lightning.simulator import (
    CachingView,
    EdgeNetwork,
    Field,
    OffloadingView,
    Rules,
    View,
    fields_of,
    rules,
)
from hadrl_lightning.simulator.fields import SERVER, SERVICE, sizes

AnyView = TypeVar("AnyView", bound=View)
UNBOUNDED = ("best_reward",)
"""Buffers that may be infinite: nothing was seen yet."""


def check_network(physics: Physics, network: EdgeNetwork) -> None:
    """Refuse networks of another physics than the agent's.

    Raises:
        HadrlError: another physics.
    """
    if network.physics != physics:
        raise HadrlError(f"network must have the physics of the agent ({physics}), got {network.physics}")


def of_kind(level: type[AnyView], kind: type[AnyView], view: View, structured: bool) -> AnyView:
    """A view of a level with the fields that an agent knows; what is none is refused.

    Args:
        level: `OffloadingView` or `CachingView`.
        kind: the same, or with the fields that the processes of the agent's scenario add.
        view: what is given.
        structured: whether the level's model sees users, servers and services, not a vector.

    Raises:
        HadrlError: something else, a field of the processes is missing, or there is another one that models see.
    """
    if not isinstance(view, level):
        raise HadrlError(f"view must be of {level.__name__}.of(…), got {type(view).__name__}")
    given = {one.name: one for one in fields_of(type(view))}
    known = [one.name for one in fields_of(kind)]
    for name in known:
        if name not in given:
            raise HadrlError(
                f"view must have {name}, as offloading_view_of(agent.scenario).of(…) takes it, "
                f"got {', '.join(given)}"
            )
    further = [one for name, one in given.items() if name not in known]
    seen = [one.name for one in further if (one.in_token if structured else one.in_vector)]
    if seen:
        raise HadrlError(
            f"view must be of the agent's world, which shows no {', '.join(seen)}: train an agent in that of the view"
        )
    if not further:
        return view
    if view.beyond != kind.beyond:
        raise HadrlError(
            f"view must have {kind.beyond} targets beyond the servers, as the agent's world has, got {view.beyond}"
        )
    made: Any = kind
    if getattr(view, "idle_users", False):
        made = _of_users_who_may_be_idle(made)
    known_alone: AnyView = made(**{one.name: getattr(view, one.name) for one in fields(kind)})
    return known_alone


@lru_cache(maxsize=64)
def _of_users_who_may_be_idle(kind: Any) -> Any:
    return type(kind.__name__, (kind,), {"idle_users": True})


def check_offloading_view(view: OffloadingView, physics: Physics) -> None:
    """Refuse what no network shows, of whatever size.

    Args:
        view: of some networks.
        physics: what it may show.

    Raises:
        NonFiniteError: a number is infinite or none.
        HadrlError: no server or service, fields of other shapes or types than each other, a service that is not
            there, a negative capacity, input or number of cycles, a link or a cloud that carries nothing.
    """
    _check_fields("offloading observation", view, rules(physics))
    found = list(view.requests.shape)
    if len(found) != 2:
        raise HadrlError(f"offloading observation: requests must have shape [networks, user], got {found}")


def check_caching_view(view: CachingView, scenario: Scenario, physics: Physics) -> None:
    """Refuse what no network shows, of whatever size.

    Args:
        view: as `EdgeNetwork.caching_view` gives it, with any rows.
        scenario: gives what no view shows.
        physics: what it may show.

    Raises:
        NonFiniteError: a number is infinite or none.
        HadrlError: no server or service, fields of other shapes or types than each other, a negative demand, storage of
            less than a bit, half a user, a link or a cloud that carries nothing, or contents that fill more than there
            is.
    """
    laws = rules(physics)
    _check_fields("caching observation", view, laws)
    wrong = laws.usable_bits(scenario, view) < 0
    if bool(wrong.any()):
        place = tuple(wrong.nonzero()[0].tolist())
        raise HadrlError(
            f"caching observation: remaining cache of server {place[-1]} must be at least what its contents fill below "
            f"0, got {float(view.free_cache_bits[place]) / 1e9:.6g} Gbit"
        )


def check_sizes(what: str, view: View, scenario: Scenario) -> None:
    """Refuse a view of other numbers of servers, users or services than the scenario's: a flat model acts on no other.

    Raises:
        HadrlError: there is another number of them.
    """
    expected = sizes(scenario)
    expected[SERVER] += view.beyond
    for axis, length in view.sizes().items():
        if length != expected[axis]:
            raise HadrlError(
                f"{what} must be of the num_{axis}s of the agent's scenario ({expected[axis]}), "
                f"got {length}: flat models act on no other"
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


def _check_fields(what: str, view: View, physics: Rules) -> None:
    """Refuse a view whose fields don't fit together, or with a value that this physics can't show."""
    try:
        lengths = view.sizes()
    except ValueError as error:
        raise HadrlError(f"{what}: {error}") from error
    for axis in (SERVER, SERVICE):
        if lengths[axis] < 1:
            raise HadrlError(f"{what} must have at least 1 {axis}, got {lengths[axis]}")
    wrong = []
    for field in fields_of(type(view)):
        value = getattr(view, field.name).detach()
        _check_type(what, field, value)
        least, most = field.limits(lengths, field.name in physics.below_zero)
        numbers = value.float()
        right = numbers.isfinite() & (numbers >= least) & (numbers <= most)
        wrong.append(~(right & (numbers == numbers.round()) if field.whole else right))
    if not bool(torch.stack([one.any() for one in wrong]).any()):
        return
    for field, bad in zip(fields_of(type(view)), wrong, strict=True):
        if bool(bad.any()):
            _refuse(
                what,
                field,
                getattr(view, field.name),
                bad,
                field.limits(lengths, field.name in physics.below_zero),
            )


def _check_type(what: str, field: Field, value: Tensor) -> None:
    if field.dtype is None and not value.is_floating_point():
        raise HadrlError(f"{what}: {field.name} must be of a floating point type, got {value.dtype}")
    if field.dtype is not None and value.dtype != field.dtype:
        raise HadrlError(f"{what}: {field.name} must be of type {field.dtype}, got {value.dtype}")


def _refuse(
    what: str, field: Field, value: Tensor, wrong: Bool[Tensor, "..."], limits: tuple[float, float]
) -> NoReturn:
    """Name the first wrong entry, what it may be and what it is."""
    place = tuple(wrong.nonzero()[0].tolist())
    rows = len(place) - len(field.axes)
    index = 0
    for position, length in zip(place[rows:], value.shape[rows:], strict=True):
        index = index * length + position
    least, most = limits
    allowed = "finite" if least == -torch.inf else f"at least {least:g} and finite"
    if most < torch.inf:
        allowed = f"{'a whole number ' if field.whole else ''}from {least:g} to {most:g}"
    found = float(value[place])
    kind = HadrlError if abs(found) < torch.inf else NonFiniteError  # of NaN no comparison holds
    row = f" in network {place[0]}" if rows else ""
    raise kind(f"{what}: {field.text.format(index)} must be {allowed}, got {found:g}{row}")
