"""Whether the tensors of a descent fit each other: native code would read past the end of those that do not."""

from __future__ import annotations

import torch
from torch import Tensor

from energynets.energies import MeasuredEnergy
from energynets.energies.heads import head_width
from energynets.energies.measured import MeasuredContext
from energynets.errors import ShapeError


def check_fit(energy: MeasuredEnergy, context: MeasuredContext, initial: Tensor) -> None:
    """Raise `ShapeError` where A (K, L), the head, what is kept of x or z_0 (B, L) do not fit."""
    measurements, labels = energy.measure.shape
    unary, offset, gates, mask, _ = context
    width = head_width(energy.head)
    if width is not None and width != measurements:
        raise ShapeError(
            f"head: expected one of {measurements} measurements, the rows of A, got a {type(energy.head).__name__} "
            f"of {width}: make it with {measurements}"
        )
    shape = unary.shape
    if (
        len(shape) != 2
        or shape[1] != labels
        or not _measured(offset.shape, shape[0], measurements)
        or not (mask is None or _measured(mask.shape, shape[0], measurements))
    ):
        found = ", ".join(str(tuple(x.shape)) for x in (unary, offset, mask) if x is not None)
        raise ShapeError(
            f"context: expected phi (B, {labels}) and an offset and a mask (B, {measurements}) of the same B, "
            f"got {found}: make it by this energy's `condition`"
        )
    if len(gates) != len(energy.gate_widths) or any(gate.shape != shape for gate in gates):
        raise ShapeError(
            f"context: expected {len(energy.gate_widths)} gates {tuple(shape)}, "
            f"got {[tuple(gate.shape) for gate in gates]}: make it by this energy's `condition`"
        )
    if initial is not unary and initial.shape != shape:
        raise ShapeError(f"initial logits: expected {tuple(shape)}, got {tuple(initial.shape)}")


def _measured(shape: torch.Size, batch: int, measurements: int) -> bool:
    """Whether it is (K,), which all documents share, (1, K) or (B, K)."""
    return shape[-1:] == (measurements,) and (len(shape) == 1 or (len(shape) == 2 and shape[0] in (1, batch)))
