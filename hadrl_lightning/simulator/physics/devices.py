"""Users' own devices and the cloud's own cell as targets behind the servers, and tasks that are split."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.simulator.decisions import Allocation, sum_per_server
from hadrl_lightning.simulator.physics.protocol import MIN_SHARE, passed_on
from hadrl_lightning.simulator.state import Service


def served_with_devices(
    serve: Callable[..., Service],
    table: Constants,
    cache: Bool[Tensor, "batch server service"],
    requests: Int[Tensor, "batch user"],
    positions: Float[Tensor, "batch user 2"],
    fading: Float[Tensor, "batch user"],
    allocation: Allocation,
    transmit_power_w: Tensor,
) -> Service:
    """Serve a slot in which tasks may stay on the users' devices, or go to the cloud past the servers.

    A part φ of a task (`Constants.offloaded_share`) is offloaded with φ of its input and cycles, and the device works
    on the rest meanwhile: the latency is the longer of both. On the device the whole task takes cycles / device_hz, and
    each cycle there takes κ f² of the energy. The cloud's own cell is a band that its users share, by the link that
    they have to their homes: input / (share * bandwidth * spectral efficiency), and from there on as any miss.

    Args:
        serve: of tasks that go to servers, with the arguments of `Rules.serve`.
        table: with `device_hz` and what goes with it.
        cache: as of `Rules.serve`, as what follows.
        requests: see there.
        positions: see there.
        fading: see there.
        allocation: targets from 0 to S + 1; the shares of who stays on the device are of nothing.
        transmit_power_w: of users.
    """
    assert table.device_hz is not None
    assert table.device_j_per_cycle is not None
    assert table.offloaded_share is not None
    assert table.cloud_bandwidth_hz is not None
    num_servers = cache.shape[1]
    idle = table.idle(requests)
    target, bandwidth_share, compute_share = passed_on(allocation, idle, num_servers + 2)
    stays, direct = target == num_servers, target == num_servers + 1
    on_server = target < num_servers
    bits, cycles = table.bits_asked(requests), table.cycles_asked(requests)
    away_bits, away_cycles = table.offloaded_share * bits, table.offloaded_share * cycles

    shares = (share.masked_fill(~on_server, 0.0) for share in (bandwidth_share, compute_share))
    of_servers = Allocation(target.clamp(max=num_servers - 1), *shares)
    split = table._replace(task_bits=away_bits, task_cycles=away_cycles)
    service = serve(split, cache, requests, positions, fading, of_servers)

    rate = bandwidth_share.clamp(min=MIN_SHARE) * table.cloud_bandwidth_hz * service.spectral_efficiency
    sending = away_bits / rate
    cloud = sending + split.cloud_seconds(away_bits, away_cycles)
    kept = torch.where(stays, cycles, cycles - away_cycles)
    on_device = kept / table.device_hz
    away = torch.where(direct, cloud, service.latency)
    latency = torch.where(stays, on_device, torch.maximum(away, on_device))
    if idle is not None:
        latency = latency.masked_fill(idle, 0.0)
    energy = torch.where(direct, sending * transmit_power_w, service.energy).masked_fill(stays, 0.0)
    beyond = sum_per_server(bandwidth_share.masked_fill(stays, 0.0), target, num_servers + 2)[:, num_servers:]
    return service._replace(
        latency=latency,
        hit=service.hit & on_server,
        on_time=latency <= table.deadlines_asked(requests),
        energy=energy + kept * table.device_j_per_cycle,
        bandwidth_load=torch.cat((service.bandwidth_load, beyond), dim=1),
        compute_load=torch.cat((service.compute_load, torch.zeros_like(beyond)), dim=1),
    )
