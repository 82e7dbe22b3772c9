"""Multilayer perceptrons: the published actor and critic, an ensemble of probabilistic models evaluated in one batched
product, and the reward model.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, relu, silu
from torch.nn.utils import skip_init

from hadrl_lightning.distributed.collectives import Share
from hadrl_lightning.distributed.members import MemberWise

HIDDEN_SIZES = (256, 128)
NEGATIVE_SLOPE = 0.01
"""Of the flat actor and critic of the slow level, as published: two hidden layers with LeakyReLU(0.01)."""

Members = Int[Tensor, " member"] | None
"""Indices of the members to evaluate, in this order; None: all."""

LOG_VAR_RANGE = (-5.0, -1.0)
"""Published bounds of the log-variance of the normalised change."""
REWARD_LOG_VAR_RANGE = (-10.0, 10.0)
"""Wide enough for normalised rewards and for raw ones; the middle, 0, is where an untrained model starts."""


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


def bounded(value: Float[Tensor, "*shape"], low: float, high: float) -> Float[Tensor, "*shape"]:
    """Maps any number into (low, high) by a sigmoid, in at least float32."""
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    return ((high - low) * torch.sigmoid(value)).add_(low)


def gaussian_nll(
    mean: Float[Tensor, "*#shape"], log_var: Float[Tensor, "*#shape"], target: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """½ (log σ² + (target − mean)²/σ²) element by element, without the constant ½ ln 2π."""
    return 0.5 * (log_var + (target - mean).square() * (-log_var).exp())


class EnsembleLinear(MemberWise):
    """One linear layer per member, weights `[member, in, out]`, applied by one batched product.

    Where ranks share the members, those held here are all there is; only draws are made for all.

    Args:
        num_members: models in the ensemble.
        in_features: numbers in.
        out_features: numbers out.
        generator: source of the initial weights; None: PyTorch's global one, as for `nn.Linear`.
    """

    def __init__(
        self, num_members: int, in_features: int, out_features: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.held = Share.whole(num_members)
        self.weight = nn.Parameter(torch.empty(num_members, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(num_members, 1, out_features))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the weights of each member by Glorot's uniform rule; biases become 0."""
        in_features, out_features = self.weight.shape[1:]
        limit = (6 / (in_features + out_features)) ** 0.5
        device = self.weight.device if generator is None else generator.device
        shape = (self.held.total, in_features, out_features)
        drawn = torch.empty(shape, dtype=self.weight.dtype, device=device)
        self.weight.copy_(drawn.uniform_(-limit, limit, generator=generator)[self.held.items])
        self.bias.zero_()

    def select(self, members: Members) -> tuple[Float[Tensor, "m in out"], Float[Tensor, "m 1 out"]]:  # noqa: F821 (a shape)
        """Weights and biases of the members."""
        if members is None:
            return self.weight, self.bias
        return self.weight[members], self.bias[members]

    def forward(
        self, value: Float[Tensor, "m rows in"], members: Members = None
    ) -> Float[Tensor, "m rows out"]:
        """`value[i]` through the member `members[i]`."""
        weight, bias = self.select(members)
        return torch.baddbmm(bias, value, weight)


class DynamicsEnsemble(nn.Module):
    """[observation, action] → hidden ×3, SiLU → mean and log-variance of the normalised change, for each member.

    Everything in and out is normalised. The first layer keeps the products of its two inputs apart, so that rows that
    share an observation (all candidates of a network at their first step), and members that share an action, are
    multiplied once.

    Args:
        num_members: models in the ensemble.
        observation_size: numbers in an observation.
        action_size: numbers in an action.
        hidden_size: width of the three hidden layers.
        log_var_range: bounds of the log-variance.
        generator: source of the initial weights; None: PyTorch's global one.
    """

    def __init__(
        self,
        num_members: int,
        observation_size: int,
        action_size: int,
        hidden_size: int = 400,
        log_var_range: tuple[float, float] = LOG_VAR_RANGE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.observation_size = observation_size
        self.log_var_range = log_var_range
        self.first = EnsembleLinear(num_members, observation_size + action_size, hidden_size, generator)
        self.hidden = nn.ModuleList(
            EnsembleLinear(num_members, hidden_size, hidden_size, generator) for _ in range(2)
        )
        self.head = EnsembleLinear(num_members, hidden_size, 2 * observation_size, generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew, optimiser state aside."""
        for layer in (self.first, *self.hidden, self.head):
            layer.reset_parameters(generator)

    def forward(
        self,
        observation: Float[Tensor, "_ _ observation"],
        action: Float[Tensor, "_ rows action"],
        members: Members = None,
    ) -> tuple[Float[Tensor, "m rows observation"], Float[Tensor, "m rows observation"]]:
        """Mean and log-variance of the normalised change.

        Args:
            observation: normalised, `[m or 1, rows / n, observation]`; with n above 1, each serves n rows in turn.
            action: normalised, `[m or 1, rows, action]`.
            members: the m members to evaluate; None: all.
        """
        weight, bias = self.first.select(members)
        of_observation, of_action = weight.split([self.observation_size, action.shape[-1]], dim=1)
        value = torch.baddbmm(bias, observation.expand(len(weight), -1, -1), of_observation)
        rows_each = action.shape[1] // max(observation.shape[1], 1)
        if rows_each > 1 and observation.shape[1] > 1:
            value = value.repeat_interleave(rows_each, dim=1)
        value = torch.baddbmm(value, action.expand(len(weight), -1, -1), of_action)
        in_place = not torch.is_grad_enabled()
        value = silu(value, inplace=in_place)
        for layer in self.hidden:
            value = silu(layer(value, members), inplace=in_place)
        mean, raw_log_var = self.head(value, members).chunk(2, dim=-1)
        return mean.to(torch.promote_types(mean.dtype, torch.float32)), bounded(
            raw_log_var, *self.log_var_range
        )


class RewardModel(nn.Module):
    """[observation, action] → hidden ×2, ReLU → mean and log-variance of the reward.

    The first layer keeps the products of its two inputs apart, so that an action that members share is multiplied once.

    Args:
        observation_size: numbers in an observation.
        action_size: numbers in an action.
        hidden_size: width of the two hidden layers.
        log_var_range: bounds of the log-variance.
        generator: source of the initial weights; None: PyTorch's global one.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_size: int = 400,
        log_var_range: tuple[float, float] = REWARD_LOG_VAR_RANGE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.log_var_range = log_var_range
        sizes = (observation_size + action_size, hidden_size, hidden_size, 2)
        self.layers = nn.ModuleList(
            skip_init(nn.Linear, size_in, size_out) for size_in, size_out in pairwise(sizes)
        )
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws weights and biases ~ uniform(−1/√inputs, 1/√inputs), PyTorch's default."""
        for layer in self.layers:
            limit = cast(nn.Linear, layer).in_features ** -0.5
            for parameter in layer.parameters():
                device = parameter.device if generator is None else generator.device
                drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                parameter.copy_(drawn.uniform_(-limit, limit, generator=generator))

    def forward(
        self, observation: Float[Tensor, "*rows observation"], action: Float[Tensor, "*#rows action"]
    ) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"]]:
        """Mean and log-variance of the reward of each row."""
        first, *hidden, _ = (cast(nn.Linear, layer) for layer in self.layers)
        of_observation, of_action = first.weight.split([observation.shape[-1], action.shape[-1]], dim=1)
        value = linear(observation, of_observation, first.bias).add_(linear(action, of_action))
        value = relu(value, inplace=True)
        for layer in hidden:
            value = relu(layer(value), inplace=True)
        mean, raw_log_var = self.layers[-1](value).unbind(dim=-1)
        return mean.to(torch.promote_types(mean.dtype, torch.float32)), bounded(
            raw_log_var, *self.log_var_range
        )
