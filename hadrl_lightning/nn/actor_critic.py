"""Flat actor and critic of the slow level, as published: hidden 256 and 128, LeakyReLU(0.01)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

HIDDEN_SIZES = (256, 128)
NEGATIVE_SLOPE = 0.01


def multilayer_perceptron(sizes: Sequence[int], generator: torch.Generator | None = None) -> nn.Sequential:
    """Linear layers of the given sizes, input first, with LeakyReLU(0.01) between them.

    Weights and biases ~ uniform(−1/√inputs, 1/√inputs), PyTorch's default for linear layers.

    Args:
        sizes: at least an input and an output size.
        generator: source of the initial parameters; None: the global one, which else stays untouched.

    Raises:
        ValueError: a size below 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least two, each at least 1, got {tuple(sizes)}")
    layers: list[nn.Module] = []
    for num_inputs, num_outputs in pairwise(sizes):
        linear = skip_init(nn.Linear, num_inputs, num_outputs)
        bound = num_inputs**-0.5
        for parameter in linear.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        layers += [linear, nn.LeakyReLU(NEGATIVE_SLOPE)]
    return nn.Sequential(*layers[:-1])


class Actor(nn.Module):
    """observation → 256 → 128 → action in [−1, 1] by tanh. Observations enter without normalisation."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int] = HIDDEN_SIZES,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.layers = multilayer_perceptron((observation_size, *hidden_sizes, action_size), generator)

    def forward(self, observation: Float[Tensor, "*rows observation"]) -> Float[Tensor, "*rows action"]:
        """The action for each row."""
        return torch.tanh(self.layers(observation))


class Critic(nn.Module):
    """[observation, action] → 256 → 128 → value. Observations enter without normalisation."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int] = HIDDEN_SIZES,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.layers = multilayer_perceptron((observation_size + action_size, *hidden_sizes, 1), generator)

    def forward(
        self, observation: Float[Tensor, "*rows observation"], action: Float[Tensor, "*rows action"]
    ) -> Float[Tensor, "*rows"]:
        """The value of each row's action at its observation."""
        return self.layers(torch.cat((observation, action), dim=-1)).squeeze(-1)
