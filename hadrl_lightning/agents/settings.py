"""Settings of the two levels by default: the structured world model, and the caching agent that looks ahead."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from hadrl_lightning.simulator import check_seed
from hadrl_lightning.typed import typed

Encoder = Literal["shared_resources", "deep_sets"]


@typed
@dataclass(frozen=True, kw_only=True)
class SetWorldModelSettings:
    """Settings of the structured world model; one set for all scenarios."""

    ensemble_size: int = 5
    """Models in the ensemble; at least 1."""

    encoder: Encoder = "shared_resources"
    """How users affect each other. `shared_resources`: by the law of sharing, demand × pooled weight ÷ own weight, with
    learnt demands and weights (`SharedResources`). `deep_sets`: by sums over the users of a server and plain layers,
    which know no law (`DeepSets`); to measure what the law is worth."""

    hidden_size: int = 32
    """Width of the two hidden layers that describe a user at a server, and of those of the outcome of `deep_sets`; at
    least 1."""

    weight_size: int = 16
    """Width of the hidden layer of the weights by which users share a resource, or numbers in a message of `deep_sets`;
    at least 1."""

    num_resources: int = 2
    """Encoder `shared_resources` only: resources that the users of a server share, as many as there are shares to ask
    for; at least 1."""

    num_common_resources: int = 0
    """Encoder `shared_resources` only: resources that all users share, whatever their server; 0 or more."""

    num_waits: int = 3
    """Encoder `shared_resources` only: terms that what a user waits for alone is a sum of; at least 1."""

    learning_rate: float = 2e-2
    """Adam's learning rate at its largest; above 0."""

    decay_steps: float | None = 300.0
    """Steps, after the first 100, in which the learning rate falls to half, to a third in as many again, and so on;
    above 0. None: it stays, from the first step on."""

    adam_epsilon: float = 1e-8
    """Adam's epsilon; above 0."""

    grad_clip_norm: float = 10.0
    """Norm that the gradient of all parameters together is clipped to; above 0."""

    change_weight: float = 0.1
    """Weight of the likelihood of the next view beside that of the latencies; 0 leaves it unlearnt, which does for
    plans of one slot."""

    discount: float | None = None
    """Where work carries over from slot to slot (process `queues`): what a later slot counts beside the one before, in
    the price of the work that a plan leaves at servers; below 1. 0: plans look at their slot alone. None: 0.95 where
    tasks can go elsewhere than to servers (process `device`), and 0 where they can't, and a price earns nothing."""

    def __post_init__(self) -> None:
        for name in ("ensemble_size", "hidden_size", "weight_size", "num_resources", "num_waits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_common_resources < 0:
            raise ValueError(f"num_common_resources must be at least 0, got {self.num_common_resources}")
        if self.encoder == "deep_sets":
            for name in ("num_resources", "num_common_resources", "num_waits"):
                value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
                if value != default:
                    raise ValueError(
                        f"{name} must be {default} unless encoder is shared_resources, got {value}"
                    )
        for name in ("learning_rate", "adam_epsilon", "grad_clip_norm"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if self.decay_steps is not None and not 0 < self.decay_steps < inf:
            raise ValueError(f"decay_steps must be above 0 and finite, got {self.decay_steps}")
        if not 0 <= self.change_weight < inf:
            raise ValueError(f"change_weight must be at least 0 and finite, got {self.change_weight}")
        if self.discount is not None and not 0 <= self.discount < 1:
            raise ValueError(f"discount must be at least 0 and below 1, got {self.discount}")


@typed
@dataclass(frozen=True, kw_only=True)
class LookaheadSettings:
    """Settings of the caching agent that looks ahead."""

    num_starts: int = 4
    """Random caches from which the search goes downhill, beside what is held now and one that is filled by what each
    service saves per bit; 0 or more."""

    num_finalists: int = 5
    """The best ends of the search that are compared on drawn slots; 0 or more, 0 and 1 leave this out. With many more
    there are fewer slots, and at last none."""

    num_slots: int = 32
    """Slots that they are compared on; at least 1. Large networks, in which chance matters less, get fewer."""

    switching_weight: float = 0.0
    """What a second of fetching counts beside a second of latency, summed over users and slots of a frame, and beside
    what the scenario's preferences say of it (`switching_s`); at least 0, where fetching costs nothing. Caches change
    when more is expected to be saved, by more than chance explains."""

    random_decisions: int = 5
    """Caching decisions at first, while experience is collected, that are drawn at random: so that every server is seen
    with and without every service; 0 or more."""

    seed: int = 0
    """Of the draws made without a generator; at least 0."""

    def __post_init__(self) -> None:
        for name in ("num_starts", "num_finalists", "random_decisions"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {self.num_slots}")
        if not 0 <= self.switching_weight < inf:
            raise ValueError(f"switching_weight must be at least 0 and finite, got {self.switching_weight}")
        check_seed("seed", self.seed)
