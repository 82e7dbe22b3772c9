"""From a view to tokens: the numbers of every user and of every server, by the fields that the view declares."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.simulator import Field, OffloadingView, Rows, Seen, View, fields_of
from hadrl_lightning.simulator.fields import SERVER, SERVICE, USER


@dataclass(eq=False)
class Numbers(Rows):
    """What a structured model sees, each number in the scale that vectors have."""

    user: Float[Tensor, "*rows user of_user"]
    """Of every user, in the order of the fields, and behind them of its network."""

    server: Float[Tensor, "*rows server of_server"]
    """Of every server."""

    pair: Float[Tensor, "*rows user server of_pair"] | None
    """Of every user at every server; None where nothing is known of the two together."""

    request: Int[Tensor, "*rows user"]
    """The service that each user asks for."""

    cache: Bool[Tensor, "*rows server service"]
    """Services that each server holds."""

    asks: Bool[Tensor, "*rows user"] | None = None
    """Who has a task; None where everybody always has one."""


class TokenFields(NamedTuple):
    """Which fields of a view are numbers of a user, and which of a server: a new one of either becomes part of tokens.

    A token is of a user at a server: the numbers of both, of their network and of the two together, and whether that
    server holds what the user asks for. Which service that is says nothing by itself: there is no number of it that
    means the same in another network.
    """

    declared: tuple[Field, ...]
    """All of the view."""
    user: tuple[Field, ...]
    """Of a user, and behind them of a network."""
    server: tuple[Field, ...]
    pair: tuple[Field, ...]
    """Of a user at a server."""
    request: Field
    cache: Field

    @classmethod
    def of(cls, view: type[View]) -> "TokenFields":
        """The fields of a kind of view.

        Raises:
            ValueError: it has a field that no token can hold, or not one request and one cache.
        """
        by_axes: dict[tuple[str, ...], list[Field]] = {
            (USER,): [],
            (): [],
            (SERVER,): [],
            (USER, SERVER): [],
            (SERVER, SERVICE): [],
        }
        for field in fields_of(view):
            if field.axes not in by_axes:
                raise ValueError(
                    f"{field.name} of {view.__name__} must be of users, of servers, of both, of the network or the "
                    f"cache to be part of tokens, got one of {' and '.join(field.axes)}"
                )
            if field.in_token:
                by_axes[field.axes].append(field)
        user, network, server, pair, caches = by_axes.values()
        requests = [field for field in user if field.of == SERVICE]
        if len(requests) != 1 or len(caches) != 1:
            raise ValueError(
                f"{view.__name__} must have one service for every user and one cache for every server, "
                f"got {len(requests)} and {len(caches)}"
            )
        known = [field for field in user if field.of is None]
        return cls(fields_of(view), (*known, *network), tuple(server), tuple(pair), requests[0], caches[0])

    @property
    def token_size(self) -> int:
        """Numbers of a token."""
        return len(self.user) + len(self.server) + len(self.pair) + 1

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

        request = getattr(seen, self.request.name)

        def numbers(fields: tuple[Field, ...], like: Tensor) -> Tensor:
            columns = [field.scaled(getattr(seen, field.name), seen.dtype) for field in fields]
            return torch.stack(
                [one if one.ndim == like.ndim else one.unsqueeze(-1).expand_as(like) for one in columns], -1
            )

        cache = getattr(seen, self.cache.name)
        server = getattr(seen, self.server[0].name) if self.server else request
        pair = numbers(self.pair, getattr(seen, self.pair[0].name)) if self.pair else None
        asks = seen.asking if isinstance(seen, OffloadingView) else None
        return Numbers(numbers(self.user, request), numbers(self.server, server), pair, request, cache, asks)

    def holds(self, numbers: Numbers) -> Float[Tensor, "*rows user server"]:
        """1 where the server holds the service that the user asks for, else 0."""
        service = numbers.request
        index = service.unsqueeze(-1).expand(*service.shape, numbers.cache.shape[-2])
        return numbers.cache.transpose(-1, -2).gather(-2, index).to(numbers.user.dtype)

    def holds_at(self, numbers: Numbers, target: Int[Tensor, "*rows user"]) -> Float[Tensor, "*rows user"]:
        """The same at one server for each user."""
        index = target * numbers.cache.shape[-1] + numbers.request
        return numbers.cache.flatten(-2).gather(-1, index).to(numbers.user.dtype)
