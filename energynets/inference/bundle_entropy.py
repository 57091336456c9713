"""The bundle entropy method: cutting planes of the potential, minimised exactly with the entropy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from energynets.energies import Box, Energy
from energynets.errors import ConfigError, InferenceError
from energynets.inference.adaptive import ActiveSet
from energynets.inference.certificate import certificate_of_slope
from energynets.inference.gradient import GradientMode, Implicit, NoGradient, Truncated
from energynets.inference.implicit import fixed_point
from energynets.inference.observed import Observed, observe
from energynets.inference.solver import Solution, Solver

ROUNDING = 8
"""Units of rounding of P, at most, in a difference of two of its values."""
NEWTON_STEPS = 30
"""At most, of one dual problem; two or three are usual."""
SEARCHES = 8
"""At most, of the size of one Newton step."""


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
        if steps < 0 or not tolerance > 0:
            raise ConfigError(
                f"solver: expected steps of 0 or more and a positive tolerance, got {steps} and {tolerance}"
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
        bundle = _Bundle(energy, context, observed, logits)
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
        bundle = _Bundle(energy, context, active.observed, logits)
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


class _Point(NamedTuple):
    """Where the potential was evaluated last: y (B, L), P (B,), and dP/dy less the first one (B, L)."""

    labels: Tensor
    potential: Tensor
    slopes: Tensor


class _Bundle:
    """Tangents of the potential: gradients less the first one's G_0, and heights at the last point less P there.

    What all share plays no part in the weights, and without it sums are small near the minimum, and so is their
    rounding.
    """

    def __init__(self, energy: Energy, context: Any, observed: Observed | None, logits: Tensor) -> None:
        self.energy, self.context, self.observed = energy, context, observed
        self.tau = float(energy.tau)
        self.logits = logits
        self.labels = self._labels(logits)
        self._last: _Point | None = None
        self._first: Tensor  # gradient at y_0 (B, L)
        self._slopes: Tensor  # (B, k, L)
        self._heights: Tensor  # (B, k)
        self._weights: Tensor  # lambda (B, k)
        self._used: Tensor  # (B, k) bool: the tangents of the next bundle
        self._doubt = torch.zeros_like(logits[:, 0])  # what rounding may have added to heights so far
        self.stalled = torch.zeros_like(logits[:, 0], dtype=torch.bool)
        """Whether y is where it was: rounding lets it go no further, (B,)."""

    def visible(self) -> Tensor:
        """z with the known labels in their places."""
        return self.logits if self.observed is None else self.observed.logits(self.logits, self.energy.domain)

    def _labels(self, logits: Tensor) -> Tensor:
        y = torch.sigmoid(logits)
        return y if self.observed is None else self.observed.labels(y)

    def select(self, rows: Tensor, context: Any, observed: Observed | None) -> None:
        """Keep some documents."""
        self.context, self.observed = context, observed
        self.logits, self.labels = self.logits[rows], self.labels[rows]
        assert self._last is not None
        self._last = _Point(*(tensor[rows] for tensor in self._last))
        self._first, self._slopes, self._doubt = self._first[rows], self._slopes[rows], self._doubt[rows]
        self._heights, self._weights, self._used = self._heights[rows], self._weights[rows], self._used[rows]

    def evaluate(self) -> Tensor:
        """Take the tangent at y in; what E(y) - min E is at most, (B,)."""
        y, potential = self.labels, self.energy.potential(self.labels, self.context)
        gradient = self.energy.gradient(y, self.context)
        slope = gradient + self.tau * self.logits
        slope = slope if self.observed is None else self.observed.free(slope)
        bound = certificate_of_slope(self.energy, self.logits, slope, self.context, self.observed)
        if self._last is None:
            self._first = gradient
            self._last = _Point(y, potential, torch.zeros_like(y))
            self._slopes, self._heights = torch.zeros_like(y).unsqueeze(1), torch.zeros_like(potential).unsqueeze(1)
            self._weights, self._used = torch.ones_like(self._heights), torch.ones_like(self._heights).bool()
            return bound
        slopes, last = gradient - self._first, self._last
        move = y - last.labels
        linear = self._first * move
        low, high = (last.slopes * move).sum(-1), (slopes * move).sum(-1)
        change = (potential - last.potential - linear.sum(-1)).clamp(low, high)
        # Near the minimum P changes by less than its rounding; there the tangents at both ends know better.
        rounding = ROUNDING * torch.finfo(y.dtype).eps * (potential.abs() + last.potential.abs() + linear.abs().sum(-1))
        change = torch.where(high - low > rounding, change, (low + high) / 2)
        self._doubt = self._doubt + rounding
        self.stalled = (move == 0).all(-1)
        values = self._values(y) - change.unsqueeze(-1)
        self._last = _Point(y, potential, slopes)
        # No tangent is above P; one that is, is so by rounding.
        self._heights = values.clamp(max=0)
        gap = -(self._weights * values).sum(-1)
        self._add(slopes)
        return torch.minimum(gap + self._doubt, bound)

    def _values(self, y: Tensor) -> Tensor:
        """Of every tangent at y, less P at the last point and G_0 times the way from there, (B, k)."""
        assert self._last is not None
        return self._heights + (self._slopes @ (y - self._last.labels).unsqueeze(-1)).squeeze(-1)

    def _mixed(self, weights: Tensor) -> Tensor:
        """Sum of the tangents' gradients, weighted: (B, k) -> (B, L)."""
        return (weights.unsqueeze(1) @ self._slopes).squeeze(1)

    def _add(self, slopes: Tensor) -> None:
        """Put the last point's tangent, of weight 0, in the place of one without weight."""
        if (self._weights > 0).all(-1).any():
            self._slopes, self._heights, self._weights = (
                torch.cat((tensor, torch.zeros_like(tensor[:, :1])), 1)
                for tensor in (self._slopes, self._heights, self._weights)
            )
        rows, place = torch.arange(len(slopes), device=slopes.device), (self._weights > 0).int().argmin(-1)
        self._used = self._weights > 0
        self._used[rows, place] = True
        self._slopes[rows, place], self._heights[rows, place] = slopes, 0

    def minimise(self, tolerance: float) -> None:
        """lambda, z and y of the bundle, by Newton steps on the weights that are or become positive."""
        assert self._last is not None
        weights = self._weights
        logits = -(self._first + self._mixed(weights)) / self.tau
        y = self._labels(logits)
        enough: Tensor | None = None
        for _ in range(NEWTON_STEPS):
            values = self._values(y)
            level = (weights * values).sum(-1, keepdim=True)
            above = (values - level).masked_fill(~self._used, -torch.inf)
            best = above.amax(-1, keepdim=True)  # how far max_j (G_j y + h_j) - tau H(y) is above the dual
            if enough is None:
                enough = (best / 20).clamp(min=tolerance / 10)  # no better than this tangent deserves
            active = best > enough
            if not active.any():
                break
            free = (weights > 0) | (above >= best)
            direction, gain = self._newton(weights, values - level, free, y)
            # The largest step that keeps every weight at 0 or more.
            room = torch.where(direction < 0, -weights / direction, torch.inf).amin(-1, keepdim=True)
            size = room.clamp(max=1)
            change = -self._mixed(direction) / self.tau
            offset = (self._heights * direction).sum(-1, keepdim=True)
            for _ in range(SEARCHES):
                moved = self._labels(logits + size * change) - self._last.labels
                slope = offset - self.tau * (moved * change).sum(-1, keepdim=True)
                beyond = active & (slope < -gain / 4)
                if not beyond.any():
                    break
                size = torch.where(beyond, size * gain / (gain - slope), size)
            size = size.masked_fill(~active, 0)
            hit = (size >= room) & (direction < 0) & (weights <= -room * direction * (1 + 1e-6))
            weights = (weights + size * direction).clamp(min=0).masked_fill(hit, 0)
            weights = weights / weights.sum(-1, keepdim=True)
            logits = -(self._first + self._mixed(weights)) / self.tau
            y = self._labels(logits)
        self._weights, self.logits, self.labels = weights, logits, y

    def _newton(self, weights: Tensor, values: Tensor, free: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The step of `free` weights, adding up to 0, and the slope of the dual along it (B, 1)."""
        centred = self._slopes - self._mixed(weights).unsqueeze(1)
        curvature = (centred * (y * (1 - y) / self.tau).unsqueeze(1)) @ centred.mT
        # Tangents that depend on each other leave it singular: along those the dual is linear, the step then runs into
        # the boundary and drops one of them.
        diagonal = curvature.diagonal(dim1=-2, dim2=-1)
        ridge = 10 * torch.finfo(y.dtype).eps * diagonal.amax(-1, keepdim=True) + torch.finfo(y.dtype).tiny
        while True:
            pair = free.unsqueeze(1) & free.unsqueeze(2)
            matrix = torch.where(pair, curvature, 0)
            matrix = matrix + torch.diag_embed(torch.where(free, ridge, 1.0))
            column = free.to(y.dtype).unsqueeze(-1)
            right = torch.cat((torch.where(free, values, 0).unsqueeze(-1), column), -1)
            solved = torch.linalg.solve_ex(matrix, right)[0]  # a document that is not finite is no reason to stop
            newton, ones = solved.masked_fill(~free.unsqueeze(-1), 0).unbind(-1)
            direction = newton - ones * (newton.sum(-1, keepdim=True) / ones.sum(-1, keepdim=True))
            stuck = free & (weights == 0) & (direction < 0)
            if not stuck.any():
                return direction, (values * direction).sum(-1, keepdim=True)
            free = free & ~stuck
