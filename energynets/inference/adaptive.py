"""Inference that stops for each document by itself: for prediction, where no graph is kept.

A document that has converged leaves the batch, so that what is left costs only what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from energynets.eager import under_vmap
from energynets.energies import Energy
from energynets.errors import InferenceError
from energynets.inference.observed import Observed, observe
from energynets.inference.solver import Solution

if TYPE_CHECKING:
    from energynets.inference.descent import Descent, State

ARMIJO = 1e-4
"""Share of the decrease that the slope promises which a step must keep (Nocedal & Wright, equation 3.4)."""
HALVINGS = 20
"""Of the step size, before an example counts as being where rounding lets no step go down."""


class ActiveSet:
    """The documents still at work, and what those that are done have found.

    Args:
        energy: what is minimised.
        context: of the whole batch.
        observed: checked known labels of the whole batch.
        logits: z_0 (B, L).

    Raises:
        InferenceError: under `torch.func.vmap`.
    """

    def __init__(self, energy: Energy, context: Any, observed: Observed | None, logits: Tensor) -> None:
        _check_no_vmap(logits)
        self.energy, self.context, self.observed = energy, context, observed
        self._rows = torch.arange(len(logits), device=logits.device)
        self._found = torch.empty_like(logits)
        self._steps = torch.zeros_like(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def visible(self, logits: Tensor) -> Tensor:
        """z of the active documents, known labels in their places."""
        return logits if self.observed is None else self.observed.logits(logits, self.energy.domain)

    def retire(self, done: Tensor, logits: Tensor, step: int) -> Tensor | None:
        """Keep what documents that are done have found, after `step` steps, and drop them.

        Args:
            done: of the active documents, (b,) bool.
            logits: theirs, (b, L).
            step: t.

        Returns:
            Positions of the others among the active, or None where none is done.
        """
        _check_no_vmap(done)
        if not done.any():
            return None
        finished = self._rows[done]
        self._found[finished] = self.visible(logits)[done]
        self._steps[finished] = step
        kept = (~done).nonzero().squeeze(1)
        self._rows = self._rows[kept]
        self.context = self.energy.select(self.context, kept)
        self.observed = None if self.observed is None else self.observed.select(kept)
        return kept

    def whole(self, logits: Tensor) -> Tensor:
        """z of all documents, those of the active ones given."""
        found = self._found.clone()
        found[self._rows] = self.visible(logits)
        return found

    def finish(self, logits: Tensor, step: int) -> Solution:
        """Retire whatever is left after the last step, and return everything."""
        self._found[self._rows] = self.visible(logits)
        self._steps[self._rows] = step
        return Solution(self._found, self._steps)


def _check_no_vmap(tensor: Tensor) -> None:
    if under_vmap(tensor):
        raise InferenceError(
            "documents that stop by themselves: not under torch.func.vmap, which takes the same steps for all; "
            "use MirrorDescent with Unroll()"
        )


@torch.no_grad()
def adaptive_descent(
    solver: Descent,
    energy: Energy,
    context: Any,
    initial: Tensor | None,
    observed: Observed | None,
    seen: list[Tensor] | None = None,
) -> Solution:
    """A descent in which each document stops by itself, and tries shorter steps where a whole one does not go down.

    A document is done when a mean-field step (projected, where the solver projects) would move none of its labels by
    more than `solver.tolerance`, or when the line search finds no step down. `seen` gets z_0, .. z_T of all documents.
    """
    logits = solver.start(energy, context, initial)
    active = ActiveSet(energy, context, observe(observed, energy, logits), logits)
    state: State = (solver._from_logits(logits, energy), None)
    # Where the descent stands: what is projected starts elsewhere than at z_0, and perhaps higher.
    height = energy(active.visible(solver._to_logits(state[0], energy)), context) if solver.line_search else None
    for step, size in enumerate(solver.step_sizes()):
        if seen is not None:
            seen.append(active.whole(solver._to_logits(state[0], energy)))
        if not len(active):
            break
        labels, slope = solver._slope(state[0], energy, active.context, active.observed)
        if solver.tolerance > 0:
            done = _movement(solver, active, state[0], labels, slope) <= solver.tolerance
            kept = active.retire(done, solver._to_logits(state[0], energy), step)
            if kept is not None:
                state, labels, slope = _select(state, kept), labels[kept], slope[kept]
                height = None if height is None else height[kept]
        if height is None:
            state = solver._move(state, labels, slope, size, energy)
        else:
            iterate, height, stuck = _line_search(solver, active, state[0], labels, slope, size, height)
            kept = active.retire(stuck, solver._to_logits(iterate, energy), step)
            state = (iterate if kept is None else iterate[kept], None)
            height = height if kept is None else height[kept]
    found = active.finish(solver._to_logits(state[0], energy), solver.steps)
    if seen is not None:
        seen += [found.logits] * (1 + solver.steps - len(seen))
    return found


def _select(state: State, rows: Tensor) -> State:
    iterate, velocity = state
    return iterate[rows], None if velocity is None else velocity[rows]


def _movement(solver: Descent, active: ActiveSet, iterate: Tensor, labels: Tensor, slope: Tensor) -> Tensor:
    """The most that a step of size 1 / tau moves a label, (b,)."""
    energy, observed = active.energy, active.observed
    logits = solver._to_logits(iterate, energy) - slope / energy.tau
    moved = solver._to_labels(solver._from_logits(logits, energy), energy) - labels
    return (moved if observed is None else observed.free(moved)).abs().amax(-1)


def _line_search(
    solver: Descent,
    active: ActiveSet,
    iterate: Tensor,
    labels: Tensor,
    slope: Tensor,
    size: float | Tensor,
    height: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Halve each document's step until E(y') <= E(y) + ARMIJO <dE/dy, y' - y>: its iterate, energy, and who found none.

    Only documents still searching enter the products.
    """
    energy = active.energy
    best, lowest = iterate.clone(), height.clone()
    rows = torch.arange(len(iterate), device=iterate.device)
    context, observed = active.context, active.observed
    # Near the minimum what a step gains is less than what rounding does to a sum of L terms.
    slack = 10 * torch.finfo(height.dtype).eps * (1 + height.abs())
    for halving in range(HALVINGS):
        trial, _ = solver._move((iterate[rows], None), labels[rows], slope[rows], size * 0.5**halving, energy)
        logits = solver._to_logits(trial, energy)
        moved = solver._to_labels(trial, energy) - labels[rows]
        if observed is not None:
            logits, moved = observed.logits(logits, energy.domain), observed.free(moved)
        found = energy(logits, context)
        promised = (slope[rows] * moved).sum(-1).clamp(max=0)
        good = found <= height[rows] + ARMIJO * promised + slack[rows]
        best[rows[good]], lowest[rows[good]] = trial[good], found[good]
        if good.all():
            return best, lowest, torch.zeros_like(height, dtype=torch.bool)
        left = (~good).nonzero().squeeze(1)
        rows, context = rows[left], energy.select(context, left)
        observed = None if observed is None else observed.select(left)
    stuck = torch.zeros_like(height, dtype=torch.bool)
    stuck[rows] = True
    return best, lowest, stuck
