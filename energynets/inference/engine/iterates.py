"""Descents whose iterate is no linear function of what the slopes add up to, as one differentiable operation.

Gradient descent on logits and projected gradient put something nonlinear between s_t A and x_{t+1} (`rules`):

    w_t = phi - s_t A - tau z_t,   v_{t+1} = momentum v_t + eta_t update(w_t),   x_{t+1} = u_t + v_{t+1}

with u_t, z_t, y_t functions of x_t and s_t = dh/dm at m_t = y_t A^T + a0. The forward pass keeps m_t (B, K) of every
step and x_t and, where it is read again, w_t (B, L): of every step, or x_t (and v_t) at the start of every segment of
steps. The backward pass then makes those of a segment again, with one product a step since it has m_t.

Backward, from dx_T, for t = T-1 .. 0 (d is the gradient of the loss to what it stands before):

    dv = momentum dv + dx_{t+1}    dw_t = eta_t update(dv)    ds_t = -dw_t A^T    dm_t = (d^2h/dm^2) ds_t
    dphi += dw_t                   dA += -s_t^T dw_t + dm_t^T y_t     dx_t = the rule's, of dx_{t+1}, dw_t and dm_t A

Four products a step: dw_t A^T, dm_t A and two for A in one call; with gates a fifth, s_t A, for their gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from energynets.inference.engine.heads import MakeSlope
from energynets.inference.engine.measurements import linear_backward, linear_forward
from energynets.inference.engine.once import once
from energynets.inference.engine.rules import Rule, StepBars
from energynets.inference.engine.schedule import Number, add_scaled
from energynets.inference.solver import StepLoss
from energynets.products import Precision

Spread = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class IteratePlan:
    """Everything of one descent that is not differentiated.

    Args:
        rule: what x is and how it moves.
        make_slope: weights -> s = dh/dm and its backward.
        widths: of the gated slices of the measurements, or none.
        mask: dropout of the measurements (B, K), or None.
        step_sizes, tau, momentum: numbers, or tensors of one number where they are learned.
        velocity: v_0 (B, L), constant, or None.
        segment: steps from one kept iterate to the next.
        wants_drive: whether the backward pass reads w_t.
        readout: x_t -> logits, differentiable.
        step_loss: of t and the logits, added up over t = 1 .. T.
    """

    rule: Rule
    make_slope: MakeSlope
    widths: tuple[int, ...]
    mask: Tensor | None
    step_sizes: Sequence[Number]
    tau: Number
    momentum: float
    velocity: Tensor | None
    segment: int
    wants_drive: bool
    readout: Callable[[Tensor], Tensor]
    step_loss: StepLoss | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        self.steps = len(self.step_sizes)

    def move(
        self,
        step: int,
        unary: Tensor,
        point: Tensor,
        labels: Tensor,
        n: Tensor,
        velocity: Tensor | None,
        spread: Spread,
        keep: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x_{t+1}, v_{t+1} (None without momentum) and, if `keep`, w_t, in memory of their own."""
        w = self.drive(unary, point, n, spread)
        update = self.rule.update(labels, w, torch.empty_like(w) if keep else w)
        drive = w if keep else None
        if not self.momentum:
            return add_scaled(point, update, self.step_sizes[step], out=update), None, drive
        update.mul_(self.step_sizes[step])
        if velocity is not None:
            update.add_(velocity, alpha=self.momentum)
        return point + update, update, drive

    def drive(self, unary: Tensor, point: Tensor, n: Tensor, spread: Spread) -> Tensor:
        """w_t (B, L), n being -s_t."""
        base = add_scaled(unary, self.rule.logits(point), -self.tau)
        return spread(base, n, base)


class Iterated(NamedTuple):
    """What one descent is differentiated in: A (K, L), a0, phi (B, L), x_0 (B, L), the gates, the head's weights."""

    rows: Tensor
    offset: Tensor
    unary: Tensor
    start: Tensor
    gates: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them in a row."""
        return (*self[:4], *self.gates, *self.weights)

    @classmethod
    def of(cls, tensors: Sequence[Tensor], num_gates: int) -> Iterated:
        """Back from the row."""
        rows, offset, unary, start, *rest = tensors
        return cls(rows, offset, unary, start, tuple(rest[:num_gates]), tuple(rest[num_gates:]))


@dataclass
class IterateRun:
    """What the forward pass leaves for the backward.

    Args:
        x, velocity: x_T and v_T.
        states: (T, B, K), what the slope wants of m_t.
        iterates: x_t at the start of every segment but the first.
        others: v_t with each of them, where steps are made again; else w_t of every step, where it is wanted.
        loss: sum of the step losses.
    """

    x: Tensor
    velocity: Tensor | None
    states: Tensor
    iterates: list[Tensor]
    others: list[Tensor]
    loss: Tensor | None


def iterate(plan: IteratePlan, inputs: Iterated, *, keep: bool) -> IterateRun:
    """x_T from x_0, 2 T products; what the backward pass needs only if `keep`."""
    rows, offset, unary, start, gates, weights = inputs
    linear, slope = linear_forward(rows, offset, gates, plan.widths, plan.precision), plan.make_slope(weights)
    states = rows.new_empty(plan.steps if keep else 1, len(start), len(rows))
    places = states.unbind() if keep else states.unbind() * plan.steps
    buffer, n = torch.empty_like(start), torch.empty_like(states[0])
    x, velocity, loss = start, plan.velocity, None
    keep_drive = keep and plan.wants_drive and plan.segment == 1
    iterates: list[Tensor] = []
    others: list[Tensor] = []
    for step, place in enumerate(places):
        if keep and step and step % plan.segment == 0:
            iterates.append(x)
            if plan.segment > 1 and velocity is not None:
                others.append(velocity)
        point = plan.rule.point(x)
        labels = plan.rule.labels(point, buffer)
        m = linear.measure(labels, place)
        if plan.mask is not None:
            m = torch.mul(m, plan.mask, out=place)
        elif m is not place:
            m = place.copy_(m)
        slope.forward(m, -1.0, n)
        if plan.mask is not None:
            n.mul_(plan.mask)
        x, velocity, drive = plan.move(step, unary, point, labels, n, velocity, linear.spread, keep_drive)
        if drive is not None:
            others.append(drive)
        if plan.step_loss is not None:
            step_loss = plan.step_loss(step + 1, plan.readout(x))
            loss = step_loss if loss is None else loss + step_loss
    return IterateRun(x, velocity, states, iterates, others, loss)


class IterateGradients(NamedTuple):
    """Gradients of the inputs of `iterate`; `numbers` are eta_0 .. eta_{T-1} and tau."""

    rows: Tensor | None
    offset: Tensor
    unary: Tensor
    start: Tensor
    gates: Sequence[Tensor]
    weights: Sequence[Tensor | None]
    numbers: Tensor | None


def iterate_backward(
    plan: IteratePlan,
    inputs: Iterated,
    run: IterateRun,
    bar: Tensor,
    loss_bar: Tensor | None,
    *,
    wants_rows: bool,
    learned: bool,
) -> IterateGradients:
    """The equations on top of this file; `bar` is dx_T, and is written over."""
    rows, offset, unary, start, gates, weights = inputs
    rule, mask, batch = plan.rule, plan.mask, len(start)
    linear = linear_backward(rows, batch, wants_rows, gates, plan.widths, plan.precision)
    slope = plan.make_slope(weights)
    states, spread = run.states.unbind(), torch.empty_like(start)
    unary_bar, offset_bar = torch.zeros_like(unary), rows.new_zeros(batch, len(rows))
    numbers_bar = rows.new_zeros(plan.steps + 1) if learned else None
    dv: Tensor | None = None

    def recall(step: int, out: Tensor) -> Tensor:
        slope.recall(states[step], -1.0, out)
        return out if mask is None else out.mul_(mask)

    def step_loss_bar(step: int, x: Tensor) -> Tensor:
        assert plan.step_loss is not None
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(plan.step_loss(step, plan.readout(leaf)), leaf, loss_bar)
        return found

    if loss_bar is not None:
        bar.add_(step_loss_bar(plan.steps, run.x))
    for step, x, drive in _backwards(plan, unary, start, run, linear.rebuild, recall, torch.empty_like(offset_bar)):
        point = rule.point(x)
        labels = rule.labels(point, linear.labels)
        if labels is not linear.labels:
            linear.labels.copy_(labels)
        dv = bar if dv is None or not plan.momentum else dv.mul_(plan.momentum).add_(bar)
        size = plan.step_sizes[step]
        dw = rule.update(labels, torch.mul(dv, size, out=linear.logit_bars), linear.logit_bars)
        n = recall(step, linear.coordinates)
        if gates:
            drive = plan.drive(unary, point, n, linear.rebuild)
        unary_bar.add_(dw)
        if numbers_bar is not None:
            assert drive is not None
            numbers_bar[step] = (dw * drive).sum() / size
            numbers_bar[-1] -= (dw * rule.logits(point)).sum()
        dn, dm = linear.pull(None), linear.measurement_bars
        slope.backward(states[step], dn if mask is None else dn.mul_(mask), -1.0, dm)
        if mask is not None:
            dm.mul_(mask)
        offset_bar.add_(dm)
        labels_bar = linear.push(spread)
        linear.accumulate()
        if plan.momentum and dv is bar:
            bar = bar.clone()
        bar = rule.backward(bar, StepBars(x, point, labels, drive, dw, dv, labels_bar, size, plan.tau))
        if step and loss_bar is not None:
            bar.add_(step_loss_bar(step, x))
    offset_bar = offset_bar.sum(0) if offset.ndim == 1 else offset_bar
    return IterateGradients(
        linear.finish(), offset_bar, unary_bar, bar, linear.gate_gradients, slope.gradients(), numbers_bar
    )


def _backwards(
    plan: IteratePlan,
    unary: Tensor,
    start: Tensor,
    run: IterateRun,
    spread: Spread,
    recall: Callable[[int, Tensor], Tensor],
    n: Tensor,
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """t, x_t and, where it is wanted, w_t, from T - 1 to 0, a segment of them made again at a time."""
    heads = [start, *run.iterates]
    if plan.segment == 1:
        drives: Sequence[Tensor | None] = run.others or [None] * plan.steps
        yield from zip(range(plan.steps - 1, -1, -1), reversed(heads), reversed(drives), strict=True)
        return
    velocities = [plan.velocity]
    velocities += run.others or [None] * len(run.iterates)
    labels = torch.empty_like(start)
    for index in range(len(heads) - 1, -1, -1):
        first, end = index * plan.segment, min((index + 1) * plan.segment, plan.steps)
        x, velocity = heads[index], velocities[index]
        found: list[tuple[int, Tensor, Tensor | None]] = []
        for step in range(first, end):
            here, drive = x, None
            if plan.wants_drive or step < end - 1:
                point = plan.rule.point(x)
                y = plan.rule.labels(point, labels)
                x, velocity, drive = plan.move(
                    step, unary, point, y, recall(step, n), velocity, spread, plan.wants_drive
                )
            found.append((step, here, drive))
        while found:
            yield found.pop()


class IterateFunction(torch.autograd.Function):
    """`iterate` and `iterate_backward` as one node of the graph: (x_T, sum of step losses)."""

    @staticmethod
    def forward(
        ctx: Any, plan: IteratePlan, num_gates: int, numbers: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        run = iterate(plan, Iterated.of(tensors, num_gates), keep=True)
        ctx.plan, ctx.num_gates, ctx.num_inputs = plan, num_gates, len(tensors)
        # Step losses alone read x_T.
        last = run.x if plan.step_loss is not None else None
        ctx.num_iterates = len(run.iterates)
        ctx.save_for_backward(*tensors, run.states, last, *run.iterates, *run.others)
        ctx.set_materialize_grads(False)
        return run.x, run.loss

    @staticmethod
    @once
    def backward(ctx: Any, bar: Tensor | None, loss_bar: Tensor | None) -> tuple[Any, ...]:
        plan: IteratePlan = ctx.plan
        saved, num_iterates = ctx.saved_tensors, ctx.num_iterates
        inputs = Iterated.of(saved[: ctx.num_inputs], ctx.num_gates)
        states, last, *kept = saved[ctx.num_inputs :]
        bar = torch.zeros_like(inputs.start) if bar is None else bar.clone(memory_format=torch.contiguous_format)
        run = IterateRun(last, None, states, kept[:num_iterates], kept[num_iterates:], None)
        _, _, learned, wants_rows, *_ = ctx.needs_input_grad
        found = iterate_backward(plan, inputs, run, bar, loss_bar, wants_rows=wants_rows, learned=learned)
        return (
            *(None, None, found.numbers),
            *(found.rows, found.offset, found.unary, found.start, *found.gates, *found.weights),
        )
