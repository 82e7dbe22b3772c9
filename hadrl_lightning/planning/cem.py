"""Planning by the cross-entropy method, for all networks in one call."""

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from hadrl_lightning.planning.free_energy import FreeEnergy, FreeEnergyForm, expected_free_energy
from hadrl_lightning.planning.measures import NO_DRAWS, Draws
from hadrl_lightning.planning.model import Members, PlanningModel, Prediction, require_outcomes, rollout
from hadrl_lightning.planning.proposal import (
    AnyProposal,
    CategoricalProposal,
    GaussianProposal,
    Plan,
    average,
    bin_centre,
    join_plans,
)
from hadrl_lightning.planning.refine import refine
from hadrl_lightning.planning.rounds import plan_by_sums
from hadrl_lightning.planning.settings import PlannerSettings
from hadrl_lightning.planning.starts import preferred_targets, random_targets, usual_action
from hadrl_lightning.planning.sums import SharingModel
from hadrl_lightning.simulator import Seen


class PlanFunction(Protocol):
    """How a planner plans, by itself or with others: see `plan_alone`."""

    def __call__(
        self,
        planner: "CEMPlanner",
        model: PlanningModel,
        view: Seen,
        generator: torch.Generator,
        warm_start: Plan | None,
        best_reward: float | None,
        /,
        *,
        alike: bool,
    ) -> Plan:
        """The plan of every network."""


class CEMPlanner:
    """Cross-entropy method over action sequences, scored by expected free energy, for all networks in one call.

    Each iteration draws candidates from the proposal, rolls them through the members of the model, keeps those of least
    free energy and refits the proposal to them. The action returned belongs to the last refit. Candidates whose score
    is not finite are the worst, never enter a refit, and are counted; where all are, the proposal stays as it is.

    Random numbers are drawn network by network and before the rows are split, so a plan does not depend on `max_rows`.
    One network's candidates (candidates × horizon × action numbers) are always held at once.

    Args:
        action_size: numbers in an action.
        settings: hyper-parameters.
        num_users: users U whose targets are the first U numbers of an action; for the proposal `categorical`.
        num_targets: servers a user can choose from; for the proposal `categorical`.

    Raises:
        ValueError: `categorical` without users and targets, or more users than an action has numbers.
    """

    def __init__(
        self,
        action_size: int,
        settings: PlannerSettings = PlannerSettings(),  # noqa: B008 (frozen)
        *,
        num_users: int | None = None,
        num_targets: int | None = None,
    ) -> None:
        if action_size < 1:
            raise ValueError(f"action_size must be at least 1, got {action_size}")
        self.action_size = action_size
        self.settings = settings
        self.num_users = num_users or 0
        self.num_targets = num_targets or 0
        if settings.proposal == "categorical":
            if self.num_targets < 1:
                raise ValueError(
                    f"num_targets must be at least 1 for proposal categorical, got {num_targets}"
                )
            if not 1 <= self.num_users <= action_size:
                raise ValueError(
                    f"num_users must be at least 1 and at most action_size ({action_size}) for proposal "
                    f"categorical, got {num_users}"
                )

    @torch.no_grad()
    def plan(
        self,
        model: PlanningModel,
        view: Seen,
        generator: torch.Generator,
        warm_start: Plan | None = None,
        best_reward: float | Tensor | None = None,
        networks: slice | None = None,
        alike: bool = False,
    ) -> Plan:
        """Plans for every network.

        Args:
            model: predicts a step.
            view: what is seen of each network at present.
            generator: the only source of randomness.
            warm_start: the plan of the previous slot of the same networks; used if the setting `warm_start` is on.
            best_reward: best reward seen so far; the form `gould` needs it.
            networks: those to plan for, one at least, where the others are planned for elsewhere; None: all. Draws are
                made for all, so that a plan does not depend on who else is planned for.
            alike: whether all networks draw the same numbers: each plan is then a function of what is seen of its
                network and of the generator's state.

        Raises:
            ValueError: no networks, a warm start of other sizes, more members or fewer rows than there are, the form
                `gould` without a best reward, the form `outcome` with a model that does not predict one outcome for
                each user.
        """
        if len(view) < 1:
            raise ValueError(f"view must be of at least 1 network, got {len(view)}")
        form = self.settings.make_form(None if best_reward is None else float(best_reward))
        first, end, _ = (networks or slice(None)).indices(len(view))
        if self.settings.by_sums and isinstance(model, SharingModel) and model.knows_sharing:
            members = self._members_of_sums(model, generator, view.device)
            return self._plan_by_sums(model, view[first:end], form, members)
        before, after = first, len(view) - end
        proposal = self._start(view, warm_start).group(slice(first, end))
        if self.settings.informed_candidates and isinstance(proposal, CategoricalProposal):
            proposal = self._inform(model, view, proposal, generator, slice(first, end), alike)
        view = view[first:end]
        usual = self._usual(proposal)
        num_nonfinite = torch.zeros(len(view), dtype=torch.int64, device=view.device)
        for _ in range(self.settings.optimisation_iters):
            round_ = self._round(model, form, view.device, generator, alike)
            self._skip(proposal, before, round_)
            groups = self._groups(len(view), round_.num_members)
            plan = join_plans([self._improve(round_, view[group], proposal.group(group)) for group in groups])
            self._skip(proposal, after, round_)
            proposal = plan.proposal
            num_nonfinite += plan.num_nonfinite
        if self.settings.refines:
            members = self._draw_members(model, generator, view.device)
            plan = self._refine(model, view, plan, form, members, usual)
        return plan._replace(num_nonfinite=num_nonfinite)

    def _round(
        self,
        model: PlanningModel,
        form: FreeEnergyForm,
        device: torch.device,
        generator: torch.Generator,
        alike: bool,
    ) -> "_Round":
        """What the next iteration shares, with the members that it asks."""
        return _Round(
            model=model,
            form=form,
            members=self._draw_members(model, generator, device),
            num_members=self.settings.members_used(model.num_members),
            seed=int(torch.randint(2**62, (1,), generator=generator, device=generator.device)),
            generator=generator,
            state=generator.get_state() if alike else None,
        )

    def _draw_members(
        self, model: PlanningModel, generator: torch.Generator, device: torch.device
    ) -> Members:
        """As many distinct members as are used; None where all are."""
        number = self.settings.members_used(model.num_members)
        if number == model.num_members:
            return None
        drawn = torch.randperm(model.num_members, generator=generator, device=generator.device)
        return drawn[:number].to(device)

    def _members_of_sums(
        self, model: PlanningModel, generator: torch.Generator, device: torch.device
    ) -> Members:
        """Those that choose targets: always the same, or one that is drawn where plans explore so."""
        if self.settings.follows_draws:
            return torch.randint(model.num_members, (1,), generator=generator, device=generator.device).to(
                device
            )
        number = self.settings.members_used(model.num_members)
        return None if number == model.num_members else torch.arange(number, device=device)

    def _plan_by_sums(self, model: SharingModel, view: Seen, form: FreeEnergyForm, members: Members) -> Plan:
        """The plan from what the model has learnt of sharing."""
        shares_by = members if self.settings.follows_draws else None
        size = max(1, self.settings.max_rows // (self.num_users * self.num_targets))
        actions, terms = [], []
        for part in view.split(size):
            found = plan_by_sums(
                model, part, members, shares_by, self.settings.start_margin, self.settings.max_rows
            )
            target = bin_centre(found.target, self.num_targets).to(found.share)
            actions.append(torch.cat((target, *found.share.unbind(dim=-1)), dim=-1))
            terms.append(expected_free_energy([found.prediction], form, NO_DRAWS))
        action = torch.cat(actions).to(torch.promote_types(view.dtype, torch.float32))
        free_energy = FreeEnergy(*(torch.cat(term) for term in zip(*terms)))
        usable = (action.sum(dim=1) + free_energy.total).isfinite()
        nothing = torch.where(usable, 0.0, torch.nan)
        return Plan(
            action,
            self._start(view, None).refit(action[:, None, None], usable[:, None]),
            FreeEnergy(*(term + nothing for term in free_energy)),
            nothing.to(action),
            (~usable).long(),
        )

    def _start(self, view: Seen, warm_start: Plan | None) -> AnyProposal:
        """The proposal of the first iteration."""
        settings, num_networks = self.settings, len(view)
        num_normal = self.action_size - (self.num_users if settings.proposal == "categorical" else 0)
        like = torch.empty(0, dtype=torch.promote_types(view.dtype, torch.float32), device=view.device)
        normal = GaussianProposal.initial(
            (num_networks, settings.plan_horizon, num_normal),
            like,
            settings.initial_std,
            settings.min_std,
            settings.clip_actions,
        )
        proposal: AnyProposal = normal
        if settings.proposal == "categorical":
            size = (num_networks, settings.plan_horizon, self.num_users, self.num_targets)
            proposal = CategoricalProposal.initial(size, normal)
        if warm_start is None or not settings.warm_start:
            return proposal
        expected, found = proposal.mean().shape, warm_start.proposal.mean().shape
        if type(warm_start.proposal) is not type(proposal) or found != expected:
            raise ValueError(
                f"warm_start must be a plan of the same settings for [networks, horizon, action] {list(expected)}, "
                f"got {list(found)}"
            )
        return warm_start.proposal.shifted()

    def _inform(
        self,
        model: PlanningModel,
        view: Seen,
        proposal: CategoricalProposal,
        generator: torch.Generator,
        networks: slice,
        alike: bool,
    ) -> CategoricalProposal:
        """The proposal of some networks with each user's own preference among targets at the first step."""
        settings, members = self.settings, self._draw_members(model, generator, view.device)
        num_members = settings.members_used(model.num_members)
        size = max(1, settings.max_rows // (num_members * settings.informed_candidates))
        drawn_for = 1 if alike else len(view)
        target = random_targets(
            (drawn_for, settings.informed_candidates, self.num_users), self.num_targets, generator
        )
        target = target.expand(len(view), -1, -1)[networks].to(view.device)
        scale, rows = settings.latency_scale_s, settings.max_rows
        parts = [
            preferred_targets(model, part, drawn, self.num_targets, scale, members, rows)
            for part, drawn in zip(view[networks].split(size), target.split(size))
        ]
        first = torch.cat(parts).to(proposal.probability)
        return proposal._replace(probability=torch.cat((first, proposal.probability[:, 1:]), dim=1))

    def _refine(
        self,
        model: PlanningModel,
        view: Seen,
        plan: Plan,
        form: FreeEnergyForm,
        members: Members,
        usual: Tensor | None,
    ) -> Plan:
        """The plan with its action refined, and everything else that of this action."""
        settings = self.settings
        sizes = (self.num_users, self.num_targets)
        action, terms = refine(
            model,
            view,
            plan.action,
            form,
            settings.refinement,
            *sizes,
            members,
            settings.max_rows,
            usual,
        )
        usable = terms.total.isfinite()
        nothing = torch.where(usable, 0.0, torch.nan)
        return plan._replace(
            action=action,
            proposal=plan.proposal.refit(action[:, None, None], usable[:, None]),
            free_energy=FreeEnergy(*(term + nothing for term in terms)),
            elite_spread=nothing.to(plan.elite_spread),
        )

    def _usual(self, proposal: AnyProposal) -> Tensor | None:
        """The usual action of each network, by the preferences that the first proposal holds."""
        if not (self.settings.target_sweeps and self.num_users and self.num_targets):
            return None
        first = proposal.mean()[:, 0]
        if isinstance(proposal, CategoricalProposal):
            return usual_action(proposal.probability[:, 0], first)
        return usual_action(first.new_ones(len(first), self.num_users, self.num_targets), first)

    def _groups(self, num_networks: int, num_members: int) -> Iterator[slice]:
        """Networks in groups that fit into `max_rows`; at least one at a time."""
        size = max(1, self.settings.max_rows // (num_members * self.settings.n_candidates))
        for first in range(0, num_networks, size):
            yield slice(first, first + size)

    def _improve(self, round_: "_Round", view: Seen, proposal: AnyProposal) -> Plan:
        """One iteration for a group of networks."""
        return self._refit(round_, view, proposal, *self._draw(proposal, round_))

    def _refit(
        self,
        round_: "_Round",
        view: Seen,
        proposal: AnyProposal,
        candidates: Float[Tensor, "networks candidates horizon action"],
        uniform: Float[Tensor, "networks candidates horizon"] | None,
    ) -> Plan:
        """What follows from the candidates that were drawn; no device is waited for."""
        free_energy = self._score(round_, view, candidates, uniform)
        finite = free_energy.total.isfinite()
        best = free_energy.total.sort(dim=1, stable=True).indices[:, : self.settings.top_candidates]
        elites = candidates[torch.arange(len(best), device=best.device)[:, None], best]
        usable = finite.gather(1, best)
        proposal = proposal.refit(elites, usable)
        blank = torch.where(usable.any(dim=1), 0.0, torch.nan)
        terms = FreeEnergy(*(average(term.gather(1, best), usable) + blank for term in free_energy))
        first = elites[:, :, 0]
        centre = average(first, usable)[:, None]
        spread = average((first - centre).square(), usable).sqrt().mean(dim=1) + blank
        return Plan(proposal.mean()[:, 0].clamp(-1, 1), proposal, terms, spread, (~finite).sum(dim=1))

    def _draw(self, proposal: AnyProposal, round_: "_Round") -> tuple[Tensor, Tensor | None]:
        """Candidates and, for measures that need them, their uniform numbers.

        One network after the other, so that grouping does not change them.
        """
        settings, generator = self.settings, round_.generator
        candidates, uniform = [], []
        for n in range(len(proposal.mean())):
            if round_.state is not None:
                generator.set_state(round_.state)
            candidates.append(proposal.group(slice(n, n + 1)).sample(settings.n_candidates, generator))
            if settings.needs_uniform:
                size = (1, settings.n_candidates, settings.plan_horizon)
                uniform.append(torch.rand(size, generator=generator, device=generator.device))
        return torch.cat(candidates), torch.cat(uniform) if uniform else None

    def _skip(self, proposal: AnyProposal, num_networks: int, round_: "_Round") -> None:
        """Makes the draws of networks that are planned for elsewhere: as many numbers for whatever proposal."""
        for _ in range(num_networks if round_.state is None else 0):
            self._draw(proposal.group(slice(0, 1)), round_)

    def _score(self, round_: "_Round", view: Seen, candidates: Tensor, uniform: Tensor | None) -> FreeEnergy:
        """Terms `[networks, candidates]`, split along the candidates where one network has too many."""
        num_networks, num_candidates = candidates.shape[:2]
        most = max(1, self.settings.max_rows // (round_.num_members * num_networks))
        size = ceil(num_candidates / ceil(num_candidates / most))  # of about the same size all
        parts = []
        for first in range(0, num_candidates, size):
            part = candidates[:, first : first + size]
            rows = None if uniform is None else uniform[:, first : first + size].flatten(0, 1)
            predictions = self._checked(rollout(round_.model, view, part, round_.members))
            terms = expected_free_energy(predictions, round_.form, Draws(round_.seed, rows))
            parts.append(FreeEnergy(*(term.reshape(num_networks, -1) for term in terms)))
        return FreeEnergy(*(torch.cat(terms, dim=1) for terms in zip(*parts)))

    def _checked(self, predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        for prediction in predictions:
            if self.settings.form == "outcome" and self.num_users:
                require_outcomes(prediction, self.num_users)
            yield prediction


def plan_alone(
    planner: CEMPlanner,
    model: PlanningModel,
    view: Seen,
    generator: torch.Generator,
    warm_start: Plan | None,
    best_reward: float | None,
    /,
    *,
    alike: bool,
) -> Plan:
    """What the planner plans with a model that is all here."""
    return planner.plan(model, view, generator, warm_start, best_reward, alike=alike)


class _Round(NamedTuple):
    """What one iteration shares among all networks."""

    model: PlanningModel
    form: FreeEnergyForm
    members: Members
    num_members: int
    seed: int
    generator: torch.Generator
    state: Tensor | None
    """Of the generator, that every network's draws start from; None: they follow each other."""
