"""Learning while deployed: what an agent makes of the latencies that its own decisions bring about."""

from collections import deque
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.agents.acting import Acting
from hadrl_lightning.agents.belief import Belief, Believed, Measured
from hadrl_lightning.agents.lookahead import LookaheadCaching
from hadrl_lightning.agents.set_predictions import UsersAtTargets
from hadrl_lightning.agents.set_world_model import MIN_LATENCY_S, SetWorldModel
from hadrl_lightning.errors import HadrlError, shown
from hadrl_lightning.nn.perceptrons import gaussian_nll
from hadrl_lightning.play import Episode, PlayedSlot, run_episode
from hadrl_lightning.simulator import (
    Allocation,
    CachingView,
    EdgeNetwork,
    OffloadingView,
    Use,
    log_weights,
    make_generator,
    rules,
)
from hadrl_lightning.simulator.decisions import MAX_SHARE, sum_per_server
from hadrl_lightning.simulator.fields import SERVER
from hadrl_lightning.simulator.physics.protocol import passed_on
from hadrl_lightning.simulator.service import check_allocation

Adapt = Literal["off", "heads", "all"]
"""What goes on learning: nothing, the factors of servers (`Belief`), or those and the weights of the world model."""

REMEMBERED = 64
"""Slots that weights are learnt from, the newest."""
STEPS = 2
"""Gradient steps a slot, each on"""
SLOTS_A_STEP = 8
LEARNING_RATE = 3e-4
"""Adam's. Weights learn slowly: what is sudden is for the factors of servers."""
PULL = 1e-3
"""Part of the way back to what they were when they came that weights go in each step, so that nothing is forgotten."""


class Lived(NamedTuple):
    """A slot that was decided on and served."""

    view: OffloadingView
    allocation: Allocation
    latency: Float[Tensor, "batch user"]
    """s; NaN where it was not measured."""


class Adaptation:
    """What is learnt of some networks while the agent is deployed in them.

    Args:
        model: the world model, whose weights change where `all` adapts.
        adapt: `heads` or `all`.
    """

    def __init__(self, model: SetWorldModel, adapt: Adapt) -> None:
        self.model = model
        self.adapt = adapt
        self.belief: Belief | None = None
        self._beyond = 0
        """Targets behind the servers, of which something is believed too."""
        self._lived: deque[tuple[Lived, Tensor]] = deque(maxlen=REMEMBERED)
        self._draws = make_generator(0, Use.ADAPTING)
        self._anchor = {name: value.detach().clone() for name, value in model.named_parameters()}
        self._optimizer: torch.optim.Adam | None = None

    def seen(self, view: OffloadingView) -> OffloadingView | Believed:
        """The view with what is believed of the servers beside it."""
        factor = self.log_factor(view)
        return view if factor is None else Believed(view, factor)

    def log_factor(self, view: Any) -> Float[Tensor, "batch server part"] | None:
        """What is believed of the servers of these networks, and of targets behind them that the view shows.

        None: nothing was measured yet.

        Raises:
            HadrlError: they are not those that was learnt of.
        """
        if self.belief is None:
            return None
        servers = view.sizes()[SERVER] - view.beyond
        shape, known = (len(view), servers), (len(self.belief.mean), self.belief.mean.shape[1] - self._beyond)
        if shape != known:
            raise HadrlError(
                f"view must be of the networks that the agent learns of, {known[0]} with {known[1]} servers "
                f"(agent.forget() begins anew), got {shape[0]} with {shape[1]}"
            )
        return self.belief.mean[:, : servers + view.beyond]

    def learn(self, lived: Lived) -> None:
        """Takes in a slot."""
        with torch.inference_mode(False):
            lived = Lived(
                lived.view.clone(),
                Allocation(*(one.clone() for one in lived.allocation)),
                lived.latency.clone(),
            )
            with torch.no_grad():
                self._believe(lived)
            if self.adapt == "all":
                assert self.belief is not None
                self._lived.append((lived, self.belief.mean.clone()))
                with torch.enable_grad():
                    self._step()

    def weights_before(self, prefix: str) -> dict[str, Tensor]:
        """The model's weights as they came, by names with a prefix."""
        return {prefix + name: value.clone() for name, value in self._anchor.items()}

    def forget(self) -> None:
        """Gives the model back the weights that it came with."""
        with torch.inference_mode(False), torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(self._anchor[name])

    def _believe(self, lived: Lived) -> None:
        measured = self._measured(lived)
        if self.belief is None:
            self._beyond = lived.view.beyond
            sizes = (len(lived.view), lived.view.sizes()[SERVER], measured.part.shape[-1])
            self.belief = Belief(*sizes, like=measured.part)
        else:
            self.log_factor(lived.view)
        self.belief.update(measured)

    def _step(self) -> None:
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)
        for _ in range(STEPS):
            drawn = torch.randint(len(self._lived), (SLOTS_A_STEP,), generator=self._draws)
            losses = [self._loss(*self._lived[one]) for one in drawn]
            self._optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            self.model.clip_gradients_of_all()
            self._optimizer.step()
            with torch.no_grad():
                for name, value in self.model.named_parameters():
                    value.lerp_(self._anchor[name], PULL)

    def _measured(self, lived: Lived) -> Measured:
        """What the model, without any belief, says of the slot, and what was measured."""
        users, action = self._served(lived, lived.view)
        mean = self.model.mean_over_members
        part = mean(users.parts(action)) * self.model.unit_s(action)
        prediction = users.predict(action, latency_alone=True)
        off = prediction.mean - mean(prediction.mean)
        spread = mean(prediction.log_var.exp() + off.square())
        latency = lived.latency.clamp(min=MIN_LATENCY_S).log()
        asking = lived.view.asking
        if asking is not None:
            part = torch.where(asking.unsqueeze(-1), part, 1.0)  # of the others no latency is known
        return Measured(lived.allocation.server, part, spread.log(), latency)

    def _loss(self, lived: Lived, log_factor: Float[Tensor, "batch server part"]) -> Float[Tensor, ""]:
        """The latency's part of the model's `loss`, of servers that one believes such factors of.

        Where no latency was measured nothing is lost.
        """
        users, action = self._served(lived, Believed(lived.view, log_factor))
        prediction = users.predict(action, latency_alone=True)
        known = lived.latency.isfinite()
        wanted = torch.where(known, lived.latency, 1.0).clamp(min=MIN_LATENCY_S).log()
        lost = gaussian_nll(prediction.mean, prediction.log_var, wanted) * known
        return (lost.sum(dim=(1, 2)) / known.sum().clamp(min=1)).sum()

    def _served(
        self, lived: Lived, seen: OffloadingView | Believed
    ) -> tuple[UsersAtTargets, Float[Tensor, "batch user 2"]]:
        """Users where they were served, and the share actions that they were served by."""
        server, *shares = lived.allocation
        num_servers = lived.view.sizes()[SERVER]
        action = torch.stack([log_weights(server, one, num_servers) for one in shares], dim=-1)
        return self.model.at_targets(seen, server), action.to(self.model.best_reward.dtype)


class Adapting(Acting):
    """Two levels that decide, and go on learning from what their decisions bring about while they are deployed."""

    adapt: Adapt = "off"
    """What goes on learning in episodes that are played without exploration."""
    _adaptation: Adaptation | None = None

    def learn(
        self,
        view: OffloadingView,
        decision: Allocation,
        latencies: Any,
        adapt: Adapt | None = None,
    ) -> None:
        """Learn from a slot that was served, while the agent is deployed; its next decisions go by it.

        From then on `decide` and `place` are about these networks, one belief each, until `forget`. The users of a slot
        may be others than those of the one before.

        Args:
            view: what was seen before the slot.
            decision: what was carried out, the agent's own or another's whose shares sum to 1 on every server.
            latencies: of every user in s, `[B, U]` or of one network `[U]`; NaN where it was not measured.
            adapt: `heads`: by which factors servers demand more than is expected; `all`: the world model's weights too;
                None: as before, at first as the setting `adapt` says, `heads` where that is off.

        Raises:
            HadrlError: other networks than those learnt of so far, shapes that don't fit, shares that don't sum to 1,
                latencies that are not above 0 or are infinite, or levels that can't learn so.
        """
        view = self.checked(view)
        latencies = _latencies(latencies, view)
        decision = _decision(decision, view)
        if not latencies.numel():
            return
        present = self.adapt if self._adaptation is None else self._adaptation.adapt
        adapt = adapt or ("heads" if present == "off" else present)
        if self._adaptation is None or self._adaptation.adapt != adapt:
            model = self._adaptable(adapt)
            self.forget()
            self._adaptation = Adaptation(model, adapt)
        self._adaptation.learn(Lived(view, decision, latencies))

    def make_lasting(self, state: dict[str, Any]) -> None:
        """Put the weights that the world model came with in place of those that it has learnt since."""
        if self._adaptation is not None:
            state |= self._adaptation.weights_before("world_model.")

    def forget(self) -> None:
        """Forget what was learnt since the agent was deployed."""
        if self._adaptation is not None:
            self._adaptation.forget()
        self._adaptation = None

    def _adaptable(self, adapt: Adapt) -> SetWorldModel:
        """The world model, if it can learn so.

        Raises:
            HadrlError: it can't.
        """
        if adapt not in ("heads", "all"):
            raise HadrlError(f"adapt must be heads or all to learn, got {shown(adapt)}")
        model, fit = self.world_model, self.planner.settings.by_sums and rules(self.physics).takes_any_shares
        if fit and isinstance(model, SetWorldModel) and model.knows_sharing:
            return model
        raise HadrlError(
            "adapt must be off unless fast_level is set with encoder shared_resources, plans are of one slot and "
            f"physics is strict, got {adapt} with a {type(model).__name__} under physics {self.physics}"
        )

    def believed(self, view: OffloadingView) -> OffloadingView | Believed:
        """See `Acting`."""
        return view if self._adaptation is None else self._adaptation.seen(view)

    def caching_action(self, view: CachingView, generator: torch.Generator) -> Float[Tensor, "..."]:
        """See `Acting`."""
        if self._adaptation is None or not isinstance(self.caching_agent, LookaheadCaching):
            return super().caching_action(view, generator)
        return self.caching_agent.act(view, generator, self._adaptation.log_factor(view))

    def play(self, network: EdgeNetwork) -> Episode:
        """Play one episode of the networks without exploration; by the setting `adapt` the agent learns on the way."""
        if self.adapt == "off":
            return super().play(network)
        caching, offloading = self.policies()
        self.forget()
        seen: list[OffloadingView] = []

        def deciding(network: EdgeNetwork) -> Allocation:
            seen[:] = [network.offloading_view()]
            return offloading(network)

        def learning(slot: PlayedSlot[Any, Any]) -> None:
            self.learn(seen[0], slot.allocation, slot.service.latency, self.adapt)

        try:
            return run_episode(network, caching, deciding, learning)
        finally:
            self.forget()


def _latencies(given: Any, view: OffloadingView) -> Float[Tensor, "batch user"]:
    """Latencies of the users of a view.

    Raises:
        HadrlError: they are none.
    """
    try:
        latencies = torch.as_tensor(given).to(view.device, view.dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise HadrlError(
            f"latencies must be numbers, NaN where nothing was measured, got {shown(given)}"
        ) from error
    if latencies.ndim == 1 and len(view) == 1:
        latencies = latencies[None]
    if list(latencies.shape) != list(view.requests.shape):
        raise HadrlError(
            f"latencies must have shape {list(view.requests.shape)}, got {list(latencies.shape)}"
        )
    if view.asking is not None:  # who has no task has no latency
        latencies = torch.where(view.asking, latencies, torch.nan)
    if bool(((latencies <= 0) | latencies.isinf()).any()):
        raise HadrlError("latencies must be above 0 and finite, or NaN where they were not measured")
    return latencies


def _decision(given: Any, view: OffloadingView) -> Allocation:
    """A decision on the users of a view, which gives away what servers have.

    Raises:
        HadrlError: it is none.
        ValueError: targets or shares out of range.
    """
    if not isinstance(given, Allocation) or not all(isinstance(one, Tensor) for one in given):
        raise HadrlError(f"decision must be an Allocation of tensors, got {type(given).__name__}")
    num_servers = view.sizes()[SERVER]
    check_allocation(given, list(view.requests.shape), num_servers)
    decision = Allocation(*(one.to(view.device) for one in given))
    taken, asking = decision, torch.ones_like(view.cycles)
    if view.asking is not None:
        taken, asking = passed_on(decision, ~view.asking, num_servers), view.asking.to(asking)
    users = sum_per_server(asking, decision.server, num_servers)
    for name in ("bandwidth_share", "compute_share"):
        load = sum_per_server(getattr(taken, name), decision.server, num_servers)
        wrong = (users > 0) & ((load - 1).abs() > MAX_SHARE - 1)
        # Shares of devices and of the cloud are shares of nothing.
        wrong[:, num_servers - view.beyond :] = False
        if bool(wrong.any()):
            raise HadrlError(
                f"{name} must sum to 1 on every server that has users, got {float(load[wrong][0]):g}"
            )
    return decision
