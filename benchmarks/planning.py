"""How fast the published plan is, beside its own matrix products, plain code of the same maths, and other libraries.

    OMP_NUM_THREADS=1 python benchmarks/planning.py [--horizon 3] [--iterations 7] [--pairs 20] [--estimator bounded]

Sizes are the published ones: 116 numbers observed, 90 decided, 20 members 400 wide, 700 candidates. Every row is a
ratio of CPU times, ours over theirs, one thread, measured in turn (ours, theirs, ours, …): median and quartiles of the
pairs. Rows:

products   the matrix products of the plan alone, of the same shapes, into memory that is there.
plain      the same maths with the same weights and draws, as one would write it; the actions have to agree.
mbrl-lib   its cross-entropy method on its ensemble, every particle with one member (`pip install mbrl`); 4 hidden
           layers as is its default, 3 as ours has. No information gain; the reward is an output of the same network.
torchrl    its cross-entropy method (`pip install torchrl`) on the plain code's models, without the information gain.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from hadrl_lightning.agents.world_model import WorldModel
from hadrl_lightning.config_files import load_config
from hadrl_lightning.planning import CEMPlanner, PlannerSettings
from hadrl_lightning.simulator import Use, make_generator

OBSERVED, DECIDED, MEMBERS, HIDDEN = 116, 90, 20, 400
LOW, HIGH = -5.0, -1.0
"""Published bounds of the log-variance."""

Planner = Callable[[], Tensor]
"""Plans once, and gives the action."""


def main() -> None:
    """Measure, and print a row for each peer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--horizon", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=7)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--estimator", choices=("nearest_neighbour", "bounded"), default="nearest_neighbour")
    parser.add_argument("--only", nargs="*", help="names of rows")
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    published = load_config("published.yaml")["model"]["planner"]
    changes = {"plan_horizon": words.horizon, "optimisation_iters": words.iterations}
    settings = PlannerSettings(**{**published, **changes, "information_estimator": words.estimator})
    model, view = a_model(), torch.randn(1, OBSERVED, generator=torch.Generator().manual_seed(1))
    planner = CEMPlanner(DECIDED, settings)

    def ours() -> Tensor:
        return planner.plan(model, view, torch.Generator().manual_seed(2)).action[0]

    rows: dict[str, Callable[[], Planner]] = {
        "products": lambda: products(settings),
        "plain": lambda: plain_plan(PlainModel(model), view, settings),
        "mbrl-lib, 4 hidden layers": lambda: of_mbrl(view, settings, 4),
        "mbrl-lib, 3 hidden layers": lambda: of_mbrl(view, settings, 3),
        "torchrl": lambda: of_torchrl(PlainModel(model), view, settings),
    }
    print(
        f"horizon {words.horizon}, {words.iterations} iterations, {words.estimator}: ours ÷ …, {words.pairs} pairs"
    )
    for name, prepared in rows.items():
        if words.only and name.partition(",")[0] not in words.only:
            continue
        try:
            theirs = prepared()
        except ImportError as error:
            print(f"{name}: not measured, {error.name} is not installed")
            continue
        if name == "plain":
            torch.testing.assert_close(theirs(), ours(), rtol=0, atol=1e-3)
        print(f"{name}: {ratio(ours, theirs, words.pairs)}", flush=True)


def ratio(ours: Planner, theirs: Planner, pairs: int) -> str:
    """CPU time of ours over theirs, in words."""
    spent = [[taken(plan) for plan in (ours, theirs)] for _ in range(pairs + 1)][1:]
    ratios = torch.tensor(spent)[:, 0] / torch.tensor(spent)[:, 1]
    low, middle, high = ratios.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    own = sorted(first for first, _ in spent)[pairs // 2]
    return f"{middle:.2f} ({low:.2f} to {high:.2f}), ours {own:.2f} s"


def taken(plan: Planner) -> float:
    """CPU seconds of a plan."""
    begun = time.process_time()
    plan()
    return time.process_time() - begun


def a_model() -> WorldModel:
    """A flat model of the published sizes that has seen something."""
    draws = torch.Generator().manual_seed(0)
    model = WorldModel(OBSERVED, DECIDED, generator=draws).eval()
    for seen in (model.observation_normaliser, model.action_normaliser, model.change_normaliser):
        seen.update(1 + 2 * torch.randn(100, seen.size, generator=draws))
    model.reward_normaliser.update(torch.randn(100, 1, generator=draws))
    return model


# The products alone ------------------------------------------------------------------------------------------------


def products(settings: PlannerSettings) -> Planner:
    """All matrix products of a plan: of every iteration, part of the candidates and step."""
    size = min(settings.n_candidates, settings.max_rows // MEMBERS)
    full, rest = divmod(settings.n_candidates, size)
    parts = [list(products_of(size))] * full + [list(products_of(rest))] * (rest > 0)

    def plan() -> Tensor:
        for _ in range(settings.optimisation_iters):
            for first, later in parts:
                for step in range(settings.plan_horizon):
                    for left, right, out in first if step == 0 else later:
                        torch.matmul(left, right, out=out)
        return view

    view = torch.zeros(DECIDED)
    return plan


def products_of(rows: int) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """Those of the first step, in which members and candidates share what is seen, and of a later one."""
    for seen, members in ((1, 1), (rows, MEMBERS)):
        shapes = [(MEMBERS, seen, OBSERVED, HIDDEN), (MEMBERS, rows, DECIDED, HIDDEN)]
        shapes += [(MEMBERS, rows, HIDDEN, HIDDEN)] * 2 + [(MEMBERS, rows, HIDDEN, 2 * OBSERVED)]
        flat = [(members * rows, OBSERVED, HIDDEN), (rows, DECIDED, HIDDEN)]
        flat += [(members * rows, HIDDEN, HIDDEN), (members * rows, HIDDEN, 2)]
        yield [
            (torch.randn(*lead, n, k), torch.randn(*lead, k, m), torch.empty(*lead, n, m))
            for *lead, n, k, m in (*shapes, *flat)
        ]


# The same maths, plainly -------------------------------------------------------------------------------------------


class PlainModel(nn.Module):
    """An ensemble of dynamics models and a reward model, with the weights of another."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        layers = (model.dynamics.first, *model.dynamics.hidden, model.dynamics.head)
        self.layers: list[tuple[Tensor, Tensor]] = [
            (layer.weight.detach(), layer.bias.detach()) for layer in layers
        ]
        self.reward = nn.Sequential(
            model.reward.layers[0], nn.ReLU(), model.reward.layers[1], nn.ReLU(), model.reward.layers[2]
        )
        normalisers = (model.observation_normaliser, model.action_normaliser, model.change_normaliser)
        self.observation, self.action, self.change = (
            (one.centre.float(), one.scale.float()) for one in normalisers
        )
        one = model.reward_normaliser
        self.of_reward = (one.centre.float(), one.scale.float())

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and log-variance of the change, mean reward and next state of [member, row, …]."""
        state_in = (state - self.observation[0]) / self.observation[1]
        action_in = (action - self.action[0]) / self.action[1]
        inputs = torch.cat((state_in, action_in.expand(len(state), -1, -1)), dim=-1)
        value = inputs
        for weight, bias in self.layers[:-1]:
            value = silu(torch.baddbmm(bias, value, weight))
        weight, bias = self.layers[-1]
        mean, log_var = torch.baddbmm(bias, value, weight).chunk(2, dim=-1)
        log_var = LOW + (HIGH - LOW) * torch.sigmoid(log_var)
        reward = self.reward(inputs)[..., 0] * self.of_reward[1] + self.of_reward[0]
        return mean, log_var, reward, state + mean * self.change[1] + self.change[0]


def plain_plan(model: PlainModel, view: Tensor, settings: PlannerSettings) -> Planner:
    """The cross-entropy method with the published free energy."""
    gain = nearest_neighbour_gain if settings.information_estimator == "nearest_neighbour" else bounded_gain
    count, horizon = settings.n_candidates, settings.plan_horizon

    @torch.no_grad()
    def plan() -> Tensor:
        generator = torch.Generator().manual_seed(2)
        mean, std = torch.zeros(horizon, DECIDED), torch.ones(horizon, DECIDED)
        for _ in range(settings.optimisation_iters):
            seed = int(torch.randint(2**62, (1,), generator=generator))
            noise = torch.randn(count, horizon, DECIDED, generator=generator)
            actions = (mean + std * noise).clamp(-1, 1)
            state = view.expand(MEMBERS, count, -1)
            score = torch.zeros(count)
            for t in range(horizon):
                change, log_var, reward, state = model(state, actions[:, t])
                score += reward.mean(dim=0) + settings.expl_scale * gain(change, log_var, seed, t)
            best = actions[score.topk(settings.top_candidates).indices]
            mean, std = best.mean(dim=0), best.std(dim=0, unbiased=False)
        return mean[0]

    return plan


def nearest_neighbour_gain(mean: Tensor, log_var: Tensor, seed: int, t: int) -> Tensor:
    """Entropy of the mixture by the second neighbour of a sample of each member, less the members' mean entropy."""
    noise = torch.randn(
        len(mean), 1, mean.shape[-1], generator=make_generator(seed, Use.NEIGHBOUR_SAMPLES, t)
    )
    sample = (mean + noise * (0.5 * log_var).exp()).transpose(0, 1)
    distance = torch.cdist(sample, sample).topk(3, largest=False).values[..., 2]
    dims = mean.shape[-1]
    volume = 0.5 * dims * math.log(math.pi) - math.lgamma(0.5 * dims + 1)
    digamma = float(torch.digamma(torch.tensor(2.0)))
    mixture = math.log(len(mean) - 1) - digamma + volume + dims * distance.log().mean(dim=1)
    return mixture - 0.5 * (log_var + math.log(2 * math.pi * math.e)).sum(dim=-1).mean(dim=0)


def bounded_gain(mean: Tensor, log_var: Tensor, seed: int, t: int) -> Tensor:
    """Middle of the bounds by Bhattacharyya's distances and by divergences, one member against all at a time."""
    var = log_var.exp()
    gains = torch.zeros(mean.shape[1])
    for i in range(len(mean)):
        apart, both = (mean[i] - mean).square(), var[i] + var
        near = (0.25 * apart / both + 0.5 * (both / 2).log() - 0.25 * (log_var[i] + log_var)).sum(dim=-1)
        far = 0.5 * ((var[i] + apart) / var - 1 + log_var - log_var[i]).sum(dim=-1)
        for distance in (near, far):
            gains -= torch.logsumexp(-distance, dim=0) - math.log(len(mean))
    return (gains / (2 * len(mean))).clamp(0, math.log(len(mean)))


# Other libraries ---------------------------------------------------------------------------------------------------


def of_mbrl(view: Tensor, settings: PlannerSettings, layers: int) -> Planner:
    """The planner of mbrl-lib on its own ensemble."""
    from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel
    from mbrl.planning.trajectory_opt import CEMOptimizer

    activation = {"_target_": "torch.nn.SiLU"}
    network = GaussianMLP(
        OBSERVED + DECIDED,
        OBSERVED + 1,
        "cpu",
        num_layers=layers,
        ensemble_size=MEMBERS,
        hid_size=HIDDEN,
        propagation_method="fixed_model",
        activation_fn_cfg=activation,
    )
    model: Any = OneDTransitionRewardModel(network, target_is_delta=True, normalize=True)
    spaces: Any = SimpleNamespace(observation_space=None, action_space=None)
    env = ModelEnv(spaces, model, lambda action, seen: torch.zeros(len(action), 1, dtype=torch.bool))
    bound = [[1.0] * DECIDED] * settings.plan_horizon
    optimiser = CEMOptimizer(
        settings.optimisation_iters,
        settings.top_candidates / settings.n_candidates,
        settings.n_candidates,
        [[-1.0] * DECIDED] * settings.plan_horizon,
        bound,
        alpha=0.0,
        device=torch.device("cpu"),
        return_mean_elites=True,
        clipped_normal=True,
    )
    seen, begin = view[0].numpy(), torch.zeros(settings.plan_horizon, DECIDED)
    return lambda: optimiser.optimize(
        lambda tried: env.evaluate_action_sequences(tried, seen, MEMBERS), x0=begin
    )[0]


def of_torchrl(model: PlainModel, view: Tensor, settings: PlannerSettings) -> Planner:
    """The planner of TorchRL on the plain code's models; a state is of all members."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data import Composite, Unbounded
    from torchrl.envs.model_based import ModelBasedEnvBase
    from torchrl.modules import CEMPlanner as TheirPlanner

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        _, _, reward, after = model(state.transpose(0, 1), action)
        return after.transpose(0, 1), reward.mean(dim=0)[:, None]

    class Env(ModelBasedEnvBase):
        def __init__(self) -> None:
            world = TensorDictModule(step, in_keys=["state", "action"], out_keys=["state", "reward"])
            super().__init__(world, batch_size=[])
            self.observation_spec = Composite(state=Unbounded((MEMBERS, OBSERVED)))
            self.state_spec = self.observation_spec.clone()
            self.action_spec, self.reward_spec = Unbounded((DECIDED,)), Unbounded((1,))

        def _reset(self, tensordict: TensorDict, **_: object) -> TensorDict:
            raise NotImplementedError

        def _set_seed(self, seed: int | None) -> None:
            """Nothing here is drawn."""

    sizes = (
        settings.plan_horizon,
        settings.optimisation_iters,
        settings.n_candidates,
        settings.top_candidates,
    )
    planner = TheirPlanner(Env(), *sizes)
    state = TensorDict({"state": view.expand(MEMBERS, OBSERVED)}, [])
    return torch.no_grad()(lambda: planner.planning(state))


if __name__ == "__main__":
    main()
