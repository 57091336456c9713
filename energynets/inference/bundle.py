"""A bundle of tangents of a convex potential, and the minimum of their maximum minus the entropy."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from energynets.energies import Energy
from energynets.energies.energy import one_each
from energynets.inference.certificate import certificate_of_slope
from energynets.inference.krylov import solved
from energynets.inference.observed import Observed

ROUNDING = 8
"""Units of rounding of P, at most, in a difference of two of its values."""
NEWTON_STEPS = 30
"""At most, of one dual problem; two or three are usual."""
SEARCHES = 8
"""At most, of the size of one Newton step."""


class _Point(NamedTuple):
    """Where the potential was evaluated last: y (B, L), P (B,), and dP/dy less the first one (B, L)."""

    labels: Tensor
    potential: Tensor
    slopes: Tensor


class Bundle:
    """Tangents of the potential: gradients less the first one's G_0, and heights at the last point less P there.

    What all share plays no part in the weights, and without it sums are small near the minimum, and so is their
    rounding. `evaluate` takes in the tangent at y, `minimise` moves y to the minimum of the bundle.

    Args:
        energy: convex, over `Box`.
        context: of the documents at hand.
        observed: checked known labels of theirs.
        logits: z_0 (B, L).
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
        y = self.labels
        potential = one_each("potential", self.energy.potential(y, self.context), y)
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
            # A step may do no more than exchange tangents: y where it was has no new one to offer.
            still = (y == self._last.labels).all(-1, keepdim=True)
            active = best > torch.where(still, tolerance / 10, enough)
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
        eps, tiny = torch.finfo(y.dtype).eps, torch.finfo(y.dtype).tiny
        # Where labels are 0 or 1 to rounding there is no curvature at all: a step of 1 / eps^2 is far beyond any
        # boundary, and one that overflows is none.
        floor = eps**2 * torch.where(free, values, 0).abs().amax(-1, keepdim=True) + tiny**0.5
        ridge = 10 * eps * diagonal.amax(-1, keepdim=True) + floor
        while True:
            pair = free.unsqueeze(1) & free.unsqueeze(2)
            matrix = torch.where(pair, curvature, 0)
            matrix = matrix + torch.diag_embed(torch.where(free, ridge, 1.0))
            column = free.to(y.dtype).unsqueeze(-1)
            right = torch.cat((torch.where(free, values, 0).unsqueeze(-1), column), -1)
            newton, ones = solved(matrix, right).masked_fill(~free.unsqueeze(-1), 0).unbind(-1)
            direction = newton - ones * (newton.sum(-1, keepdim=True) / ones.sum(-1, keepdim=True))
            stuck = free & (weights == 0) & (direction < 0)
            if not stuck.any():
                return direction, (values * direction).sum(-1, keepdim=True)
            free = free & ~stuck
