"""From a view to tokens: the numbers of every user and of every server, by the fields that the view declares."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.simulator import Field, Rows, Seen, View, fields_of
from hadrl_lightning.simulator.fields import SERVER, SERVICE, USER


@dataclass(eq=False)
class Numbers(Rows):
    """What a structured model sees, each number in the scale that vectors have."""

    user: Float[Tensor, "*rows user of_user"]
    """Of every user, in the order of the fields; what it asks for is among them."""

    server: Float[Tensor, "*rows server of_server"]
    """Of every server."""

    cache: Bool[Tensor, "*rows server service"]
    """Services that each server holds."""


class TokenFields(NamedTuple):
    """Which fields of a view are numbers of a user, and which of a server: a new one of either becomes part of tokens.

    A token is of a user at a server: the numbers of both, and whether that server holds what the user asks for.
    """

    declared: tuple[Field, ...]
    """All of the view."""
    user: tuple[Field, ...]
    server: tuple[Field, ...]
    request: int
    """Which of the numbers of a user is the service that it asks for."""
    cache: Field

    @classmethod
    def of(cls, view: type[View]) -> "TokenFields":
        """The fields of a kind of view.

        Raises:
            ValueError: it has a field that no token can hold, or not one request and one cache.
        """
        by_axes: dict[tuple[str, ...], list[Field]] = {(USER,): [], (SERVER,): [], (SERVER, SERVICE): []}
        for field in fields_of(view):
            if field.axes not in by_axes:
                raise ValueError(
                    f"{field.name} of {view.__name__} must be of users, of servers or the cache to be part of tokens, "
                    f"got one of {' and '.join(field.axes)}"
                )
            by_axes[field.axes].append(field)
        user, server, caches = by_axes.values()
        requests = [column for column, field in enumerate(user) if field.of == SERVICE]
        if len(requests) != 1 or len(caches) != 1:
            raise ValueError(
                f"{view.__name__} must have one service for every user and one cache for every server, "
                f"got {len(requests)} and {len(caches)}"
            )
        return cls(fields_of(view), tuple(user), tuple(server), requests[0], caches[0])

    @property
    def token_size(self) -> int:
        """Numbers of a token."""
        return len(self.user) + len(self.server) + 1

    def read(self, seen: Seen) -> Numbers:
        """The numbers of a view.

        Raises:
            ValueError: it is of another kind.
        """
        if not isinstance(seen, View) or fields_of(type(seen)) != self.declared:
            names = (
                [field.name for field in fields_of(type(seen))] if isinstance(seen, View) else ["a vector"]
            )
            wanted = ", ".join(field.name for field in self.declared)
            raise ValueError(f"a structured model sees a view of {wanted}, got {', '.join(names)}")

        def numbers(fields: tuple[Field, ...]) -> Tensor:
            columns = [field.scaled(getattr(seen, field.name), seen.dtype) for field in fields]
            return torch.stack(columns, dim=-1)

        return Numbers(numbers(self.user), numbers(self.server), getattr(seen, self.cache.name))

    def holds(self, numbers: Numbers) -> Float[Tensor, "*rows user server"]:
        """1 where the server holds the service that the user asks for, else 0."""
        service = self._service(numbers)
        index = service.unsqueeze(-1).expand(*service.shape, numbers.cache.shape[-2])
        return numbers.cache.transpose(-1, -2).gather(-2, index).to(numbers.user.dtype)

    def holds_at(self, numbers: Numbers, target: Int[Tensor, "*rows user"]) -> Float[Tensor, "*rows user"]:
        """The same at one server for each user."""
        index = target * numbers.cache.shape[-1] + self._service(numbers)
        return numbers.cache.flatten(-2).gather(-1, index).to(numbers.user.dtype)

    def _service(self, numbers: Numbers) -> Int[Tensor, "*rows user"]:
        """What every user asks for."""
        asked = self.user[self.request].unscaled(numbers.user[..., self.request])
        return asked.clamp(0, numbers.cache.shape[-1] - 1)
