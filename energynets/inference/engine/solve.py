"""From a solver, an energy and a context to the engine's operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from energynets.energies import MeasuredEnergy
from energynets.energies.measured import MeasuredContext
from energynets.inference.engine.compiled import compiling, directions, not_compiled
from energynets.inference.engine.fit import check_fit
from energynets.inference.engine.fused import Fused, FusedFunction, takes
from energynets.inference.engine.heads import slope_of
from energynets.inference.engine.iterates import Iterated, IterateFunction, IteratePlan, iterate
from energynets.inference.engine.measurements import linear_forward
from energynets.inference.engine.mirror import MirrorFunction, MirrorPlan, descend
from energynets.inference.engine.schedule import Number, base_factors, stacked
from energynets.inference.observed import Observed
from energynets.inference.solver import StepLoss

if TYPE_CHECKING:
    from energynets.inference.descent import Descent, GradientDescent, ProjectedGradient


def mirror_descent(
    solver: Descent,
    energy: MeasuredEnergy,
    context: MeasuredContext,
    initial: Tensor,
    observed: Observed | None,
    step_loss: StepLoss | None = None,
    constant: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """z_T (B, L) of `MirrorDescent`, and the sum of the step losses.

    Args:
        solver: its steps, sizes and momentum.
        energy: what is minimised.
        context: `energy.condition(features)`.
        initial: z_0; where it is the context's unary itself, the two are one base.
        observed: checked known labels.
        step_loss: of t and z_t, t = 1 .. T; differentiated in z_t alone.
        constant: the first steps, fewer than T, that keep no graph.

    Raises:
        ShapeError: the context, the head or z_0 do not fit the energy.
    """
    check_fit(energy, context, initial)
    weights, make_slope = slope_of(energy.head, context.head)
    velocity = loss = None
    if constant:
        initial, velocity, loss = _constant_steps(solver, energy, context, initial, observed, step_loss, constant)
        step_loss = _later(step_loss, constant)
    sizes, tau = solver.step_sizes()[constant:], energy.tau
    learned = isinstance(tau, Tensor) or any(isinstance(size, Tensor) for size in sizes)
    if initial is context.unary:
        bases: tuple[Tensor, ...] = (context.unary,)
        steady = isinstance(tau, float) and tau == 1  # phi is then the fixed point of the scalars' recursion
        factors = [[1.0] * (len(sizes) + 1)] if steady else [_sum(*base_factors(sizes, tau, solver.momentum)[:2])]
    else:
        bases = (initial, context.unary) if velocity is None else (initial, context.unary, velocity)
        factors = list(base_factors(sizes, tau, solver.momentum)[: len(bases)])
    symbolic = compiling()  # a learned number changes from call to call: a graph takes it as a tensor
    inputs = (energy.measure, context.offset, *bases, *context.gates, *weights)
    plan = MirrorPlan(
        energy.domain,
        make_slope,
        energy.gate_widths,
        context.mask,
        observed,
        [_detached(size, symbolic) for size in sizes] if learned else sizes,
        _detached(tau, symbolic),
        solver.momentum,
        [[_detached(factor, symbolic) for factor in row] for row in factors] if learned else factors,
        learned,
        step_loss,
        solver.precision,
        solver.memory,
    )
    differentiated = torch.is_grad_enabled() and (learned or any(tensor.requires_grad for tensor in inputs))
    # Native code has float32 products alone, and stands back where compilation is asked for.
    native = not symbolic and solver.precision == "float32" and solver.keeps_all and velocity is None
    fused = Fused(energy, plan, len(bases)) if native and takes(energy, plan, context, bases, inputs) else None
    if not differentiated:
        if fused is not None:
            return fused.forward([tensor.contiguous() for tensor in inputs], keep=False)[0], None
        run = descend(plan, energy.measure, context.offset, bases, context.gates, weights, keep=False)
        return run.logits, _total(loss, run.loss)
    factors_tensor = numbers = None
    if learned:
        like = context.unary
        if any(isinstance(factor, Tensor) for row in factors for factor in row):
            factors_tensor = stacked(factors, like)
        numbers = stacked([[*sizes, tau, solver.momentum]], like)[0]
    if fused is not None:
        return FusedFunction.apply(fused, factors_tensor, numbers, *inputs), None
    counts = (len(bases), len(context.gates))
    logits, live = MirrorFunction.apply(plan, directions(plan), counts, factors_tensor, numbers, *inputs)
    return logits, _total(loss, live)


@torch.no_grad()
def _constant_steps(
    solver: Descent,
    energy: MeasuredEnergy,
    context: MeasuredContext,
    initial: Tensor,
    observed: Observed | None,
    step_loss: StepLoss | None,
    steps: int,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """z_t, v_t (B, L) where there is momentum, and the sum of the step losses, after the first `steps`."""
    weights, make_slope = slope_of(energy.head, context.head)
    sizes, tau = [_detached(size) for size in solver.step_sizes()[:steps]], _detached(energy.tau)
    bases, factors = (initial, context.unary), base_factors(sizes, tau, solver.momentum)[:2]
    plan = MirrorPlan(
        energy.domain,
        make_slope,
        energy.gate_widths,
        context.mask,
        observed,
        sizes,
        tau,
        solver.momentum,
        factors,
        learned=False,
        step_loss=step_loss,
        precision=solver.precision,
    )
    run = descend(plan, energy.measure, context.offset, bases, context.gates, weights, keep=False)
    velocity = None
    if solver.momentum and run.velocity is not None:
        a, b = ((row[-1] - row[-2]) * base for row, base in zip(factors, bases, strict=True))
        linear = linear_forward(energy.measure, context.offset, context.gates, energy.gate_widths, solver.precision)
        velocity = linear.spread(a + b, run.velocity, torch.empty_like(a))
    return run.logits, velocity, run.loss


def iterate_descent(
    solver: GradientDescent | ProjectedGradient,
    energy: MeasuredEnergy,
    context: MeasuredContext,
    initial: Tensor,
    observed: Observed | None,
    step_loss: StepLoss | None = None,
    constant: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """The same of `GradientDescent` and `ProjectedGradient`, which keep x_t as their `memory` says.

    Args:
        As `mirror_descent`.
    """
    if compiling() and torch.is_grad_enabled():
        not_compiled(f"{type(solver).__name__}, whose engine is not traced")
    check_fit(energy, context, initial)
    weights, make_slope = slope_of(energy.head, context.head)
    rule, sizes, tau = solver.rule(energy.domain, observed), solver.step_sizes(), energy.tau

    learned = isinstance(tau, Tensor) or any(isinstance(size, Tensor) for size in sizes)

    def readout(x: Tensor) -> Tensor:
        logits = rule.logits(rule.point(x))
        return logits if observed is None else observed.logits(logits, energy.domain)

    def plan(sizes: Sequence[Number], velocity: Tensor | None, step_loss: StepLoss | None) -> IteratePlan:
        return IteratePlan(
            rule,
            make_slope,
            energy.gate_widths,
            context.mask,
            [_detached(size) for size in sizes],
            _detached(tau),
            solver.momentum,
            velocity,
            1 if solver.memory is None else math.ceil(len(sizes) / solver.memory),
            (rule.needs_drive or learned) and not context.gates,  # gates have it made again for their own gradient
            readout,
            step_loss,
            solver.precision,
        )

    inputs = Iterated(
        energy.measure, context.offset, context.unary, rule.start(initial), tuple(context.gates), tuple(weights)
    )
    velocity = loss = None
    if constant:
        with torch.no_grad():
            run = iterate(plan(sizes[:constant], None, step_loss), inputs, keep=False)
        inputs, velocity, loss = inputs._replace(start=run.x), run.velocity, run.loss
        sizes, step_loss = sizes[constant:], _later(step_loss, constant)
    live, tensors = plan(sizes, velocity, step_loss), inputs.tensors()
    if torch.is_grad_enabled() and (learned or any(tensor.requires_grad for tensor in tensors)):
        numbers = stacked([[*sizes, tau]], context.unary)[0] if learned else None
        x, live_loss = IterateFunction.apply(live, len(inputs.gates), numbers, *tensors)
    else:
        run = iterate(live, inputs, keep=False)
        x, live_loss = run.x, run.loss
    return readout(x), _total(loss, live_loss)


def _later(step_loss: StepLoss | None, constant: int) -> StepLoss | None:
    """The same loss where counting starts after the constant steps."""
    return None if step_loss is None else lambda step, logits: step_loss(constant + step, logits)


def _total(constant: Tensor | None, live: Tensor | None) -> Tensor | None:
    return live if constant is None or live is None else constant + live


def _sum(a: list[Number], b: list[Number]) -> list[Number]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _detached(number: Number, keep: bool = False) -> Number:
    """The value: a float on the CPU, where reading it is free, else (or to `keep` it) a tensor of one number."""
    if isinstance(number, float | int):
        return float(number)
    return number.item() if number.device.type == "cpu" and not keep else number.detach()
