"""Whether the tensors of a descent fit each other: native code would read past the end of those that do not."""

from __future__ import annotations

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
    batch = unary.shape[0]
    rows = ((measurements,), (1, measurements), (batch, measurements))
    if unary.shape != (batch, labels) or offset.shape not in rows or (mask is not None and mask.shape not in rows):
        found = ", ".join(str(tuple(x.shape)) for x in (unary, offset, mask) if x is not None)
        raise ShapeError(
            f"context: expected phi (B, {labels}) and an offset and a mask (B, {measurements}) of the same B, "
            f"got {found}: make it by this energy's `condition`"
        )
    if len(gates) != len(energy.gate_widths) or any(gate.shape != unary.shape for gate in gates):
        raise ShapeError(
            f"context: expected {len(energy.gate_widths)} gates {tuple(unary.shape)}, "
            f"got {[tuple(gate.shape) for gate in gates]}: make it by this energy's `condition`"
        )
    if initial.shape != unary.shape:
        raise ShapeError(f"initial logits: expected {tuple(unary.shape)}, got {tuple(initial.shape)}")
