"""The scenario's constants as tensors, made once per scenario, device and number format."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from hadrl_lightning.scenario import Scenario


class Constants(NamedTuple):
    """Constants as tensors: services [K], servers [S], users [U].

    Numbers of services and servers may also differ between B networks: [B, K], [B, S].
    """

    input_bits: Tensor
    storage_bits: Tensor
    cycles: Tensor
    deadlines_s: Tensor
    popularity_cdf: Tensor
    """Where each service's requests end among draws from [0, 1), in double precision on the CPU, [K]."""
    compute_hz: Tensor
    bandwidth_hz: Tensor
    usable_cache_bits: Tensor
    cache_bits: Tensor
    servers_m: Tensor
    cells: Tensor
    """Server around which each user is drawn, long [U]."""
    user_positions_m: Tensor | None
    """Fixed positions [U, 2], or none where users are drawn anew in every slot."""

    def bits_of(self, count: Tensor) -> Tensor:
        """Bits that services fill together, [..., K] -> [...]; no matrix product, which autocast would round."""
        size = self.storage_bits
        if size.ndim > 1:
            size = size.view(len(size), *[1] * (count.ndim - 2), -1)
        return (count * size).sum(dim=-1)


def of_each(values: Tensor, index: Tensor) -> Tensor:
    """The value of each user's service or server, [B, U]; the same for all networks, [N], or of each, [B, N]."""
    return values[index] if values.ndim == 1 else values.gather(1, index)


@lru_cache(maxsize=64)
def constants(scenario: Scenario, device: torch.device, dtype: torch.dtype) -> Constants:
    """The scenario's constants as tensors on `device` with `dtype`."""

    def real(values: object) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.float64).to(dtype)

    def whole(values: object) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.long)

    # Divided by its end, so that it is exactly 1 from the last service with a chance on: no rounding lets a draw
    # reach a service of weight 0 behind it.
    popularity_cdf = torch.tensor(scenario.popularity_vector, dtype=torch.float64).cumsum(0)
    users = scenario.user_positions_m
    return Constants(
        input_bits=real(scenario.input_bits),
        storage_bits=real(scenario.storage_bits),
        cycles=real(scenario.cycles),
        deadlines_s=real(scenario.deadlines_s),
        popularity_cdf=popularity_cdf / popularity_cdf[-1],
        compute_hz=real(scenario.compute_per_server_hz),
        bandwidth_hz=real(scenario.bandwidth_per_server_hz),
        usable_cache_bits=real(scenario.usable_cache_bits),
        cache_bits=real(scenario.cache_per_server_bits),
        servers_m=real(scenario.servers_m),
        cells=whole(scenario.cells),
        user_positions_m=None if users is None else real(users).view(-1, 2),
    )
