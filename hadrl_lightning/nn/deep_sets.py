"""The same outcome as `SharedResources` without its law: a plain model over sets of users who share servers."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from hadrl_lightning.nn.perceptrons import EnsembleLinear, Members, bounded
from hadrl_lightning.nn.set_encoder import INITIAL_LOG_VAR, LOG_VAR_RANGE

TYPICAL_USERS = 10
"""Sums over the users of a server are divided by this, so that they are about as large as what they are added to."""


class DeepSets(nn.Module):
    """Each user's log latency (a Gaussian) from its token, its action and sums of what the others at its server say.

    Deep sets (Zaheer et al. 2017, arXiv 1703.06114): every user makes a message of its token and action, the messages
    of a server's users are summed, and a model of own description, own message and sum gives mean and log-variance.
    It knows that users are exchangeable, that servers are, and who shares a server; how they share is all for it to
    learn. `SharedResources` has that built in, so the two tell what the law is worth. Same inputs, same outputs, any
    number of users and servers.

    Args:
        num_members: models in the ensemble.
        token_size: numbers of a token.
        hidden_size: width of the hidden layers, two for the description and two for the outcome.
        message_size: numbers in a message, and width of its hidden layer.
        generator: source of the initial weights; None: PyTorch's global one.
    """

    def __init__(
        self,
        num_members: int,
        token_size: int,
        hidden_size: int = 32,
        message_size: int = 16,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.token = nn.ModuleList(
            [
                EnsembleLinear(num_members, token_size, hidden_size, generator),
                EnsembleLinear(num_members, hidden_size, hidden_size, generator),
            ]
        )
        self.message_token = EnsembleLinear(num_members, token_size, message_size, generator)
        self.message_action = EnsembleLinear(num_members, 2, message_size, generator)
        self.message = EnsembleLinear(num_members, message_size, message_size, generator)
        self.outcome = nn.ModuleList(
            [
                EnsembleLinear(num_members, hidden_size + 2 * message_size, hidden_size, generator),
                EnsembleLinear(num_members, hidden_size, hidden_size, generator),
            ]
        )
        self.head = EnsembleLinear(num_members, hidden_size, 2, generator)
        self._start_wide()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew."""
        messages = (self.message_token, self.message_action, self.message)
        for layer in (*self.token, *messages, *self.outcome, self.head):
            layer.reset_parameters(generator)
        self._start_wide()

    @torch.no_grad()
    def _start_wide(self) -> None:
        self.head.bias[..., 1].fill_(INITIAL_LOG_VAR)

    def describe(
        self, token: Float[Tensor, "m_or_1 tokens number"], members: Members = None
    ) -> Float[Tensor, "m tokens description"]:
        """What does not depend on the shares asked for: own description, and the messages' first layer."""
        num_members = len(self.head.weight) if members is None else len(members)
        token = token.expand(num_members, -1, -1)
        value = token
        for layer in self.token:
            value = silu(layer(value, members))
        return torch.cat((value, self.message_token(token, members)), dim=-1)

    def combine(
        self,
        description: Float[Tensor, "m tokens description"],
        share: Float[Tensor, "m_or_1 tokens 2"],
        target: Int[Tensor, "m_or_1 rows user"],
        num_servers: int,
        members: Members = None,
        asks: Bool[Tensor, "m_or_1 rows user"] | None = None,
    ) -> tuple[Float[Tensor, "m rows user"], Float[Tensor, "m rows user"]]:
        """Mean and log-variance of each user's log latency; arguments as of `SharedResources.combine`."""
        num_members, num_tokens, size = description.shape
        own, first = description.split([self.hidden_size, size - self.hidden_size], dim=-1)
        action = self.message_action(share.expand(num_members, -1, -1), members)
        message = silu(self.message(silu(first + action), members))

        by_user = message.view(num_members, *target.shape[1:], -1)
        if asks is not None:
            by_user = by_user * asks.unsqueeze(-1)
        index = target.unsqueeze(-1).expand_as(by_user)
        pooled = by_user.new_zeros(*by_user.shape[:2], num_servers, by_user.shape[-1])
        pooled = pooled.scatter_add(2, index, by_user).gather(2, index) / TYPICAL_USERS

        value = torch.cat((own, message, pooled.view(num_members, num_tokens, -1)), dim=-1)
        for layer in self.outcome:
            value = silu(layer(value, members))
        mean, log_var = self.head(value, members).view(num_members, *target.shape[1:], 2).unbind(dim=-1)
        return mean.to(torch.promote_types(mean.dtype, torch.float32)), bounded(log_var, *LOG_VAR_RANGE)
