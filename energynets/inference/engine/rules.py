"""What a solver iterates on and how it moves, between the two products of a step: elementwise, for any domain.

A rule makes of x_t the point u, its logits z and labels y, and of the drive w = phi - s A - tau z, minus the gradient,
the update: x_{t+1} = u + v_{t+1}, v_{t+1} = momentum v_t + eta update. On the box everything is hand-derived; what
other domains do between the products is differentiated by `torch.func`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from energynets.energies import Box, Domain
from energynets.inference.engine.schedule import Number, add_scaled
from energynets.inference.observed import Observed

_sigmoid_backward = torch.ops.aten.sigmoid_backward


class StepBars(NamedTuple):
    """What the backward pass of one step knows when it comes to x_t; all (B, L).

    Args:
        x, point, labels: x_t, u and y, known labels in their places.
        drive: w, or None where the rule has no use for it.
        drive_bar, velocity_bar: dw and dv_{t+1}.
        labels_bar: dm A; may be overwritten.
        size, tau: eta and tau.
    """

    x: Tensor
    point: Tensor
    labels: Tensor
    drive: Tensor | None
    drive_bar: Tensor
    velocity_bar: Tensor
    labels_bar: Tensor
    size: Number
    tau: Number


class Rule(Protocol):
    """The elementwise part of a solver."""

    needs_drive: bool
    """Whether `backward` reads w."""

    def start(self, logits: Tensor) -> Tensor:
        """x_0 of z_0, differentiable."""

    def point(self, x: Tensor) -> Tensor:
        """u of x, differentiable."""

    def logits(self, point: Tensor) -> Tensor:
        """z of u, differentiable."""

    def labels(self, point: Tensor, out: Tensor) -> Tensor:
        """y of u, known labels in their places; `out` is only a place for it."""

    def update(self, labels: Tensor, drive: Tensor, out: Tensor) -> Tensor:
        """The update of w, linear and symmetric in it, in `out` (which may be w)."""

    def backward(self, bar: Tensor, step: StepBars) -> Tensor:
        """du = dx_{t+1} -> dx_t; may be written over."""


class LogitRule:
    """Gradient descent on logits: x = u = z, update J(y) w, on the box y (1 - y) w.

    Args:
        domain: of y.
        observed: known labels, or None.
    """

    needs_drive = True

    def __init__(self, domain: Domain, observed: Observed | None) -> None:
        self._domain, self._observed = domain, observed
        self._box = type(domain) is Box

    def start(self, logits: Tensor) -> Tensor:
        return logits

    def point(self, x: Tensor) -> Tensor:
        return x

    def logits(self, point: Tensor) -> Tensor:
        return point

    def labels(self, point: Tensor, out: Tensor) -> Tensor:
        y = torch.sigmoid(point, out=out) if self._box else out.copy_(self._domain.labels(point))
        return y if self._observed is None else self._observed.labels(y, out=y)

    def update(self, labels: Tensor, drive: Tensor, out: Tensor) -> Tensor:
        if self._box:  # y (1 - y) is 0 where y is known
            return _sigmoid_backward.grad_input(drive, labels, grad_input=out)
        return out.copy_(self._domain.pullback(labels, drive))

    def backward(self, bar: Tensor, step: StepBars) -> Tensor:
        """dx_{t+1} + J (dm A + eta d<dv, J w>/dy) - tau dw; on the box eta J d<dv, J w>/dy = (1 - 2 y) w dw."""
        assert step.drive is not None
        if self._box:
            bar.add_(_sigmoid_backward.grad_input(step.labels_bar, step.labels, grad_input=step.labels_bar))
            factor = torch.addcmul(step.drive, step.drive, step.labels, value=-2, out=step.labels_bar).sub_(step.tau)
            return bar.addcmul_(factor, step.drive_bar)
        dv, w = step.velocity_bar, step.drive
        curvature = torch.func.grad(lambda y: (dv * self._domain.pullback(y, w)).sum())(step.labels)
        labels_bar = add_scaled(step.labels_bar, curvature, step.size)
        if self._observed is not None:
            self._observed.free(labels_bar, out=labels_bar)
        add_scaled(bar, step.drive_bar, -step.tau, out=bar)
        return bar.add_(self._domain.pullback(step.labels, labels_bar))


class LabelRule:
    """Projected gradient: u = y = project(x), z = z(y), update w. x is kept as it was before its projection.

    Args:
        domain: of y.
        observed: known labels, or None.
        margin: distance kept from the boundary.
    """

    needs_drive = False

    def __init__(self, domain: Domain, observed: Observed | None, margin: float) -> None:
        self._domain, self._observed, self._margin = domain, observed, margin
        self._box = type(domain) is Box

    def start(self, logits: Tensor) -> Tensor:
        return self._domain.labels(logits)

    def point(self, x: Tensor) -> Tensor:
        return self._domain.project(x, self._margin)

    def logits(self, point: Tensor) -> Tensor:
        return self._domain.logits(point)

    def labels(self, point: Tensor, out: Tensor) -> Tensor:
        if self._observed is None:
            return point
        return self._observed.labels(point, out=out)

    def update(self, labels: Tensor, drive: Tensor, out: Tensor) -> Tensor:
        return drive if out is drive else out.copy_(drive)

    def backward(self, bar: Tensor, step: StepBars) -> Tensor:
        """project'(x) (dx_{t+1} + dm A - tau z'(y) dw); on the box z' = 1 / (y (1 - y))."""
        bar.add_(step.labels_bar if self._observed is None else self._observed.free(step.labels_bar))
        if self._box:
            add_scaled(bar, torch.ops.aten.logit_backward(step.drive_bar, step.point), -step.tau, out=bar)
            return bar.masked_fill_(step.x != step.point, 0)
        pull = torch.func.vjp(self._domain.logits, step.point)[1]
        add_scaled(bar, pull(step.drive_bar)[0], -step.tau, out=bar)
        return torch.func.vjp(self.point, step.x)[1](bar)[0]
