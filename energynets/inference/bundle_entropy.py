"""The bundle entropy method: cutting planes of the potential, minimised exactly with the entropy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from energynets.energies import Box, Energy
from energynets.errors import ConfigError, InferenceError, counts
from energynets.inference.adaptive import ActiveSet
from energynets.inference.bundle import Bundle
from energynets.inference.gradient import GradientMode, Implicit, NoGradient, Truncated, gradient_mode
from energynets.inference.implicit import fixed_point
from energynets.inference.observed import Observed, observe
from energynets.inference.solver import Solution, Solver


class BundleEntropy(Solver):
    """Minimise a convex energy by a bundle of its potential's tangents, G_j y + h_j <= P(y), and the entropy itself.

        y_{t+1} = argmin over y of max_j (G_j y + h_j) - tau H(y) = sigmoid(-G^T lambda / tau),
        lambda  = argmax over the simplex of <lambda, h> - tau sum_i softplus(-(G^T lambda)_i / tau),

    the dual by projected Newton on all documents at once, in as many numbers a document as it has active tangents
    (k x k solves; memory (B, k, L)). The next tangent is the one at y_{t+1}, and those of weight 0 are dropped.
    P(y) - <lambda, G y + h> bounds E(y) - min E: a document is done, and leaves the batch, once that or its
    `certificate` is at most `tolerance`, or once rounding moves y no further.

    Gradient modes: `NoGradient`; `Unroll` and `Implicit` differentiate the optimality (KKT) conditions of the minimum
    itself, matrix-free on K numbers for a measured energy, as exactly as the minimum was found: `Unroll` to
    sqrt(tolerance). The paper differentiates those of the last bundle (k x k solves) with its points held fixed. That
    is exact for a piecewise linear potential, which the tangents are then pieces of; a smooth one, as softplus layers
    make, moves the points with the parameters, and leaving that out is an error that stays at convergence.

    Where it departs from the released code: that stops a document at the first tangent that depends linearly on others,
    where here the dual is solved all the same; it runs a fixed number of steps whatever the gap; and when testing it
    evaluates the network at the true labels.

    Args:
        steps: T >= 0, the most tangents that a document takes.
        tolerance: of E(y) - min E, > 0. Rounding of P(y) limits it, and labels are as exact as its square root.
        initial: `unary` starts at the energy's `initial_logits`, `uniform` at z_0 = 0.

    Raises:
        ConfigError: a value out of its range.
        InferenceError: at use, over an energy that is not convex or not over `Box`, or with `Truncated`.

    Source: Amos, Xu & Kolter, Input Convex Neural Networks (2017), section 4 (the bundle entropy method); Bertsekas,
    Projected Newton methods (1982), section 2.

    Example:
        >>> import torch
        >>> from energynets import ICNN, BundleEntropy, infer
        >>> energy = ICNN(num_features=8, num_labels=5)
        >>> result = infer(energy, energy.condition(torch.randn(3, 8)), solver=BundleEntropy(tolerance=1e-5))
        >>> bool((result.certificate <= 1e-5).all())
        True
    """

    def __init__(self, steps: int = 30, *, tolerance: float = 1e-6, initial: str = "unary") -> None:
        super().__init__(initial=initial)
        if not counts(steps, least=0) or not tolerance > 0:
            raise ConfigError(
                f"solver: expected whole steps, 0 or more, and a positive tolerance, got {steps!r} and {tolerance}"
            )
        self.steps = steps
        self.tolerance = tolerance

    def run(
        self,
        energy: Energy,
        context: Any,
        initial: Tensor | None = None,
        *,
        gradient: GradientMode | None = None,
        observed: Observed | None = None,
    ) -> Solution:
        gradient = gradient_mode(gradient)
        if isinstance(gradient, Truncated):
            raise InferenceError(
                "BundleEntropy has no last steps to differentiate: Truncated does not fit, use Unroll() or Implicit()"
            )
        found = self._minimise(energy, context, initial, observed)
        if isinstance(gradient, NoGradient):
            return found
        mode = gradient if isinstance(gradient, Implicit) else Implicit(tolerance=self.tolerance**0.5)
        return found._replace(logits=fixed_point(energy, context, found.logits, mode, observed))

    def trajectory(
        self, energy: Energy, context: Any, initial: Tensor | None = None, *, observed: Observed | None = None
    ) -> Iterator[Tensor]:
        """Yield z_0, z_1, ..., z_T, each (B, L), without gradients: only the minimum has one.

        Raises:
            InferenceError: gradients are enabled.
        """
        if torch.is_grad_enabled():
            raise InferenceError(
                "BundleEntropy has a gradient at its last step alone: let the loss read that, or use MirrorDescent"
            )
        _check(energy)
        logits = self.start(energy, context, initial)
        observed = observe(observed, energy, logits)
        bundle = Bundle(energy, context, observed, logits)
        yield bundle.visible()
        for _ in range(self.steps):
            bundle.evaluate()
            bundle.minimise(self.tolerance)
            yield bundle.visible()

    @torch.no_grad()
    def _minimise(self, energy: Energy, context: Any, initial: Tensor | None, observed: Observed | None) -> Solution:
        _check(energy)
        logits = self.start(energy, context, initial)
        active = ActiveSet(energy, context, observe(observed, energy, logits), logits)
        bundle = Bundle(energy, context, active.observed, logits)
        gaps, rows = logits.new_zeros(len(logits)), torch.arange(len(logits), device=logits.device)
        for step in range(self.steps + 1):
            gap = bundle.evaluate()
            gaps[rows] = gap
            kept = active.retire(~(gap > self.tolerance) | bundle.stalled, bundle.logits, step)
            if kept is not None:
                rows = rows[kept]
                bundle.select(kept, active.context, active.observed)
            if step == self.steps or not len(active):
                break
            bundle.minimise(self.tolerance)
        return Solution(*active.finish(bundle.logits, self.steps)[:2], gaps)


def _check(energy: Energy) -> None:
    name = type(energy).__name__
    if not energy.convex:
        raise InferenceError(
            f"BundleEntropy needs a convex energy, and {name} is not (its `convex` is False): use MirrorDescent"
        )
    if not isinstance(energy.domain, Box):
        raise InferenceError(
            f"BundleEntropy is for labels in Box(), {name} is over {type(energy.domain).__name__}: use MirrorDescent"
        )
