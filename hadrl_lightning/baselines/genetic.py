"""A genetic algorithm over the joint offloading action."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.baselines.problem import shown_links
from hadrl_lightning.play import task_cost, total_latency
from hadrl_lightning.simulator import Allocation, EdgeNetwork, decode_offloading, serve
from hadrl_lightning.simulator.constants import Constants
from hadrl_lightning.typed import typed


@typed
@dataclass(frozen=True, kw_only=True)
class GeneticSettings:
    """Budget and rates of the genetic algorithm; the search costs population * generations servings a slot.

    Raises:
        ValueError: a field is out of its range.
    """

    population: int = 64
    """Individuals (at least 2)."""
    generations: int = 40
    """Generations (at least 1)."""
    elites: int = 4
    """Best individuals that survive unchanged (at least 1, less than the population)."""
    tournament: int = 3
    """Individuals among which the best becomes a parent (at least 1)."""
    mutation_rate: float = 0.05
    """Probability that a user's target or a share is changed, in [0, 1]."""
    mutation_std: float = 0.3
    """Standard deviation of the change of a share on the scale [-1, 1] (above 0)."""

    def __post_init__(self) -> None:
        for name, least in (("population", 2), ("generations", 1), ("elites", 1), ("tournament", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.elites >= self.population:
            raise ValueError(f"elites must be less than population = {self.population}, got {self.elites}")
        if not 0 <= self.mutation_rate <= 1:
            raise ValueError(f"mutation_rate must be from 0 to 1, got {self.mutation_rate}")
        if not self.mutation_std > 0:
            raise ValueError(f"mutation_std must be greater than 0, got {self.mutation_std}")


class GeneticSearch:
    """Offloading policy: evolves actions in [-1, 1]^(3 U) against the simulator, all networks at once.

    Fitness is the summed latency that `serve` gives at the `expected_fading`, which is the latency expected of the
    action: it knows the physics and all constants, as far as views show what holds (`EdgeNetwork.shown`), not the
    fading to come. Genes are a user's target, bandwidth and compute coordinate; tournament selection, uniform crossover
    user by user, mutation that draws a target anew and moves a share by a Gaussian, elitism.

    Args:
        generator: source of all draws, on the CPU.
        settings: budget and rates.
    """

    def __init__(self, generator: torch.Generator, settings: GeneticSettings | None = None) -> None:
        self.generator = generator
        self.settings = settings or GeneticSettings()

    def __call__(self, network: EdgeNetwork) -> Allocation:
        """The best individual's allocation, [B, U]."""
        settings = self.settings
        table, fading = shown_links(network)
        shape = (network.num_envs, settings.population, 3, network.scenario.num_users)
        genes = self._uniform(network, shape)
        latency = self._cost(network, genes, table, fading)
        for _ in range(settings.generations):
            elite = _select(genes, latency.topk(settings.elites, dim=1, largest=False).indices)
            children = self._offspring(network, genes, latency, settings.population - settings.elites)
            genes = torch.cat([elite, children], dim=1)
            latency = self._cost(network, genes, table, fading)
        best = _select(genes, latency.argmin(dim=1, keepdim=True)).flatten(1)
        return decode_offloading(network.scenario, best, network.physics)

    def _offspring(self, network: EdgeNetwork, genes: Tensor, latency: Tensor, count: int) -> Tensor:
        settings = self.settings
        mother = _select(genes, self._parents(network, latency, count))
        father = _select(genes, self._parents(network, latency, count))
        from_mother = self._uniform(network, (*mother.shape[:2], 1, mother.shape[3])) > 0
        child = torch.where(from_mother, mother, father)
        fresh = self._uniform(network, tuple(child.shape))
        noise = torch.randn(child.shape, generator=self.generator).to(child)
        moved = (child + settings.mutation_std * noise).clamp(-1, 1)
        moved[:, :, 0] = fresh[:, :, 0]
        chance = (self._uniform(network, tuple(child.shape)) + 1) / 2
        return torch.where(chance < settings.mutation_rate, moved, child)

    def _parents(self, network: EdgeNetwork, latency: Tensor, count: int) -> Tensor:
        size = (latency.shape[0], count, self.settings.tournament)
        drawn = torch.randint(latency.shape[1], size, generator=self.generator).to(network.device)
        winner = latency.gather(1, drawn.flatten(1)).view(size).argmin(dim=2, keepdim=True)
        return drawn.gather(2, winner).squeeze(2)

    def _cost(
        self,
        network: EdgeNetwork,
        genes: Float[Tensor, "batch individual 3 user"],
        table: Constants,
        fading: Float[Tensor, "batch user"],
    ) -> Float[Tensor, "batch individual"]:
        each = genes.shape[1]
        allocation = decode_offloading(network.scenario, genes.flatten(0, 1).flatten(1), network.physics)
        service = serve(
            network.scenario,
            network.cache.repeat_interleave(each, dim=0),
            network.requests.repeat_interleave(each, dim=0),
            network.positions.repeat_interleave(each, dim=0),
            fading.repeat_interleave(each, dim=0),
            allocation,
            network.physics,
            table.to(network.device, network.dtype).repeated(each),
        )
        return total_latency(task_cost(network.scenario.preferences, service)).view(-1, each)

    def _uniform(self, network: EdgeNetwork, shape: tuple[int, ...]) -> Tensor:
        return (torch.rand(shape, generator=self.generator) * 2 - 1).to(network.device, network.dtype)


def _select(genes: Tensor, index: Tensor) -> Tensor:
    """Individuals `index` [B, n] of each network's population."""
    return genes.gather(1, index[:, :, None, None].expand(-1, -1, *genes.shape[2:]))
