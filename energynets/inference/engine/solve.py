"""From a solver, an energy and a context to the engine's operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from energynets.energies import MeasuredEnergy
from energynets.energies.measured import MeasuredContext
from energynets.inference.engine.fused import Fused, FusedFunction, takes
from energynets.inference.engine.heads import slope_of
from energynets.inference.engine.mirror import MirrorFunction, MirrorPlan, StepLoss, descend
from energynets.inference.engine.schedule import Number, base_factors, stacked
from energynets.inference.observed import Observed

if TYPE_CHECKING:
    from energynets.inference.descent import Descent


def mirror_descent(
    solver: Descent,
    energy: MeasuredEnergy,
    context: MeasuredContext,
    initial: Tensor,
    observed: Observed | None,
    step_loss: StepLoss | None = None,
) -> tuple[Tensor, Tensor | None]:
    """z_T (B, L) of `MirrorDescent`, and the sum of the step losses.

    Args:
        solver: its steps, sizes and momentum.
        energy: what is minimised.
        context: `energy.condition(features)`.
        initial: z_0; where it is the context's unary itself, the two are one base.
        observed: checked known labels.
        step_loss: of t and z_t, t = 1 .. T.
    """
    weights, make_slope = slope_of(energy.head, context.head)
    sizes, tau = solver.step_sizes(), energy.tau
    learned = isinstance(tau, Tensor) or any(isinstance(size, Tensor) for size in sizes)
    if initial is context.unary:
        bases: tuple[Tensor, ...] = (context.unary,)
        steady = isinstance(tau, float) and tau == 1  # phi is then the fixed point of the scalars' recursion
        factors = [[1.0] * (solver.steps + 1)] if steady else [_sum(*base_factors(sizes, tau, solver.momentum)[:2])]
    else:
        bases = (initial, context.unary)
        factors = list(base_factors(sizes, tau, solver.momentum)[:2])
    inputs = (energy.measure, context.offset, *bases, *context.gates, *weights)
    plan = MirrorPlan(
        energy.domain,
        make_slope,
        energy.gate_widths,
        context.mask,
        observed,
        [_detached(size) for size in sizes],
        _detached(tau),
        solver.momentum,
        [[_detached(factor) for factor in row] for row in factors],
        learned,
        step_loss,
    )
    differentiated = torch.is_grad_enabled() and (learned or any(tensor.requires_grad for tensor in inputs))
    fused = Fused(energy, plan, len(bases)) if takes(energy, plan, context, inputs) else None
    if not differentiated:
        if fused is not None:
            return fused.forward([tensor.contiguous() for tensor in inputs], keep=False)[0], None
        run = descend(plan, energy.measure, context.offset, bases, context.gates, weights, keep=False)
        return run.logits, run.loss
    factors_tensor = numbers = None
    if learned:
        like = context.unary
        if any(isinstance(factor, Tensor) for row in factors for factor in row):
            factors_tensor = stacked(factors, like)
        numbers = stacked([[*sizes, tau, solver.momentum]], like)[0]
    if fused is not None:
        return FusedFunction.apply(fused, factors_tensor, numbers, *inputs), None
    return MirrorFunction.apply(plan, (len(bases), len(context.gates)), factors_tensor, numbers, *inputs)


def _sum(a: list[Number], b: list[Number]) -> list[Number]:
    return [x + y for x, y in zip(a, b, strict=True)]


def _detached(number: Number) -> Number:
    """The value: a float on the CPU, where reading it is free, else a tensor of one number."""
    if isinstance(number, float | int):
        return float(number)
    return number.item() if number.device.type == "cpu" else number.detach()
