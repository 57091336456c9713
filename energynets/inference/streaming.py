"""A batch whose labels come in chunks: which models can have it so, and what they ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from energynets.energies import Box, Energy, MeasuredEnergy
from energynets.errors import ConfigError, ShapeError
from energynets.inference.engine import (
    asked_for_general_path,
    general_reason,
    label_kernels,
    label_native,
    mirror_descent,
    unmeasured,
)
from energynets.inference.engine.autocast import full_precision
from energynets.inference.engine.heads import slope_of
from energynets.inference.engine.label_passes import LabelPasses
from energynets.inference.engine.schedule import Number, base_factors, stacked
from energynets.inference.engine.streamed import Inputs, StreamedBCE, StreamPlan, descend, final_logits
from energynets.inference.gradient import GradientMode, Unroll
from energynets.inference.solver import Solver
from energynets.parallel import WHOLE

if TYPE_CHECKING:
    from energynets.data.batches import SparseBatch
    from energynets.inference.descent import Descent


@dataclass(frozen=True)
class LabelStream:
    """One batch ready to be streamed.

    Args:
        plan: how.
        inputs: of the labels.
        weights: of the head.
        factors, numbers: c_0 .. c_T, and step sizes, tau and momentum, where they are learned.
    """

    plan: StreamPlan
    inputs: Inputs
    weights: tuple[Tensor, ...] = ()
    factors: Tensor | None = None
    numbers: Tensor | None = None

    @full_precision
    def bce(self, targets: SparseBatch) -> Tensor:
        """Binary cross-entropy of z_T, summed over labels, averaged over documents: a differentiable scalar.

        Args:
            targets: (B, L), sparse; of a shard of the labels, its own.

        Raises:
            ShapeError: targets of another shape.
        """
        shape = (len(self.inputs.features), len(self.inputs.weight))
        if (len(targets), targets.num_columns) != shape:
            raise ShapeError(f"targets: expected {shape}, got {(len(targets), targets.num_columns)}")
        parts = self.plan.cut(targets, self.inputs.features)
        differentiated = torch.is_grad_enabled()
        return StreamedBCE.apply(
            self.plan, parts, self.factors, self.numbers, differentiated, *self.inputs[:5], *self.weights
        )

    @torch.no_grad()
    @full_precision
    def logits(self) -> Iterator[Tensor]:
        """z_T (B, C) of labels 0 .. C - 1, of the next C, and so on."""
        inputs = self.plan.given(self.inputs)
        run = descend(self.plan, inputs, self.weights)
        for _, logits in final_logits(self.plan, inputs, run):
            yield logits


@full_precision
def energy_stream(
    solver: Descent, energy: MeasuredEnergy, features: Tensor, chunk: int, *, keep_unary: bool = False
) -> LabelStream:
    """Of a solver and an energy that `check_streamed` takes."""
    offset, mask, head = energy.condition_measured(features)
    weights, make_slope = slope_of(energy.head, head)
    sizes, tau = solver.step_sizes(), energy.tau
    learned = isinstance(tau, Tensor) or any(isinstance(size, Tensor) for size in sizes)
    a, b, _ = base_factors(sizes, tau, solver.momentum)
    if solver.initial == "uniform":
        factors = b
    elif isinstance(tau, float) and tau == 1:  # phi is then the fixed point of the scalars' recursion
        factors = [1.0] * len(a)
    else:
        factors = [x + y for x, y in zip(a, b, strict=True)]
    unary: Any = energy.unary  # a `ChunkedLinear`, where it keeps its gradient to itself
    plan = StreamPlan(
        chunk,
        make_slope,
        mask,
        [_value(size) for size in sizes],
        _value(tau),
        solver.momentum,
        [_value(factor) for factor in factors],
        solver.precision,
        keep_unary,
        getattr(energy.unary, "shard", WHOLE),
        output=unary if keep_unary and getattr(unary, "deferred", False) else None,
        passes=_passes(features, energy.measure, solver, keep_unary=keep_unary) if sizes else None,
    )
    inputs = Inputs(features, energy.unary.weight, energy.unary.bias, energy.measure, offset)
    if not learned:
        return LabelStream(plan, inputs, weights)
    numbers = stacked([[*sizes, tau, solver.momentum]], features)[0]
    return LabelStream(plan, inputs, weights, stacked([factors], features)[0], numbers)


def _passes(features: Tensor, rows: Tensor, solver: Descent, *, keep_unary: bool) -> LabelPasses | None:
    """What makes a pass over labels as one call."""
    if solver.precision == "float32" and label_native.take(features, rows):
        return label_native
    if solver.precision == "bf16" and keep_unary and label_kernels.take(features, rows):
        return label_kernels
    return None


@full_precision  # as whatever is streamed
def check_streamed(energy: Energy, solver: Solver, gradient: GradientMode) -> None:
    """Raise `ConfigError` where labels cannot be streamed, saying what is in the way."""
    method = type(solver)
    check_measured(energy)
    if not asked_for_general_path():
        _check_path(general_reason(energy, solver))
    assert isinstance(energy, MeasuredEnergy)
    refused = {
        f"solver {method.__name__}: use MirrorDescent": getattr(method, "engine", None) is not mirror_descent,
        f"domain {energy.domain}: use Box()": type(energy.domain) is not Box,
        f"gates of {type(energy).__name__}: use gate=False": bool(energy.gate_widths),
        f"gradient {type(gradient).__name__}: use Unroll()": not isinstance(gradient, Unroll),
        "a tolerance: set solver.tolerance 0": bool(getattr(solver, "tolerance", 0)),
        "a memory budget: set solver.memory null": getattr(solver, "memory", None) is not None,
        "a line search: set solver.line_search false": bool(getattr(solver, "line_search", False)),
    }
    for what, present in refused.items():
        if present:
            raise ConfigError(f"label_chunk: labels in chunks do not go with {what}")


def check_measured(energy: Energy) -> None:
    """The part of `check_streamed` that can change afterwards: an energy's head that draws in training alone."""
    _check_path(unmeasured(energy))


def _check_path(reason: str | None) -> None:
    if reason is not None:
        raise ConfigError(f"label_chunk: needs the engine's path, and {reason}")


def _value(number: Number) -> float:
    return float(number.detach()) if isinstance(number, Tensor) else float(number)
