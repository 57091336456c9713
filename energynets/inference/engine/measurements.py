"""m = y A^T and what s = dh/dm means for y, forwards and backwards: the two products of a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from energynets.inference.engine.products import addmm, mm


class Measurements:
    """The linear maps between labels (B, L) and measurements (B, K).

    Args:
        rows: A (K, L).
        offset: (K,) or (B, K).
    """

    def __init__(self, rows: Tensor, offset: Tensor) -> None:
        self.rows, self.offset = rows, offset
        self._transposed = rows.T

    def measure(self, y: Tensor, out: Tensor) -> Tensor:
        """y A^T + offset, (B, K)."""
        return addmm(self.offset, y, self._transposed, out=out)

    def spread(self, base: Tensor, coordinates: Tensor, out: Tensor) -> Tensor:
        """base + n A, (B, L)."""
        return addmm(base, coordinates, self.rows, out=out)


class MeasurementsBackward:
    """What the backward pass of one step does with A, three calls for five products.

    The gradient of A takes two products a step, dm_t^T y_t and n_t^T dz_t. The second of step t + 1 is stacked on the
    first of step t: (2B, K)^T (2B, L). n_t, wanted to rebuild z_t, waits in the stack of the next step meanwhile.
    """

    gate_gradients: Sequence[Tensor] = ()

    def __init__(self, rows: Tensor, batch: int, needed: bool) -> None:
        self.rows = rows
        measurements, labels = rows.shape
        left, following = rows.new_empty(2, 2 * batch, measurements)
        self._left, self._following = (left, *left.tensor_split(2)), (following, *following.tensor_split(2))
        self._right = rows.new_empty(2 * batch, labels)
        self.logit_bars, self.labels = self._right.tensor_split(2)
        self._transposed = rows.T
        self._empty = True
        self.gradient = torch.empty_like(rows) if needed else None

    @property
    def coordinates(self) -> Tensor:
        """n_{t+1} (B, K)."""
        return self._left[1]

    @property
    def next_coordinates(self) -> Tensor:
        """n_t (B, K)."""
        return self._following[1]

    @property
    def measurement_bars(self) -> Tensor:
        """dm_t (B, K)."""
        return self._left[2]

    def pull(self, base: Tensor | None) -> Tensor:
        """base + dz A^T, (B, K): what a gradient of the logits means for n."""
        if base is None:
            return mm(self.logit_bars, self._transposed, out=torch.empty_like(self.coordinates))
        return addmm(base, self.logit_bars, self._transposed, out=base)

    def rebuild(self, base: Tensor, coordinates: Tensor, out: Tensor | None = None) -> Tensor:
        """base + n A, (B, L), in `out` or, without it, perhaps where the labels are to stand."""
        return addmm(base, coordinates, self.rows, out=self.labels if out is None else out)

    def push(self, out: Tensor) -> Tensor:
        """dm A, (B, L): what a gradient of the measurements means for y."""
        return mm(self.measurement_bars, self.rows, out=out)

    def accumulate(self) -> None:
        """dA += n_{t+1}^T dz_{t+1} + dm_t^T y_t, and on to the next step."""
        if self.gradient is not None:
            left = self._left[0].T
            if self._empty:
                self.gradient = mm(left, self._right, out=self.gradient)
            else:
                self.gradient = addmm(self.gradient, left, self._right, out=self.gradient)
        self._empty = False
        self._left, self._following = self._following, self._left


class GatedMeasurements(Measurements):
    """The same where slice i of the measurements sees y * g_i."""

    def __init__(self, rows: Tensor, offset: Tensor, gates: tuple[Tensor, ...], widths: tuple[int, ...]) -> None:
        super().__init__(rows, offset)
        self.gates, self.widths = gates, widths

    def measure(self, y: Tensor, out: Tensor) -> Tensor:
        offsets = self.offset.split(self.widths, dim=-1)
        for gate, rows, offset, part in zip(
            self.gates, self.rows.split(self.widths), offsets, out.split(self.widths, dim=-1), strict=True
        ):
            torch.addmm(offset, y * gate, rows.T, out=part)
        return out

    def spread(self, base: Tensor, coordinates: Tensor, out: Tensor) -> Tensor:
        if out is not base:
            out.copy_(base)
        parts = coordinates.split(self.widths, dim=-1)
        for gate, rows, part in zip(self.gates, self.rows.split(self.widths), parts, strict=True):
            out.addcmul_(gate, part @ rows)
        return out


class GatedMeasurementsBackward(MeasurementsBackward):
    """The same where slice i of the measurements sees y * g_i: the gates have gradients too."""

    def __init__(
        self, rows: Tensor, batch: int, needed: bool, gates: tuple[Tensor, ...], widths: tuple[int, ...]
    ) -> None:
        super().__init__(rows, batch, needed)
        self.gates, self.widths = gates, widths
        self.gate_gradients = [torch.zeros_like(gate) for gate in gates]
        self._spreads: list[Tensor] | None = None

    def _parts(self, numbers: Tensor) -> tuple[Tensor, ...]:
        return numbers.split(self.widths, dim=-1)

    def pull(self, base: Tensor | None) -> Tensor:
        if base is None:
            base = torch.zeros_like(self.coordinates)
        if self._spreads is None:
            self._spreads = self._products(self.coordinates)
        zipped = zip(self.gates, self.gate_gradients, self._spreads, self.rows.split(self.widths), strict=True)
        for (gate, gradient, spread, rows), part in zip(zipped, self._parts(base), strict=True):
            gradient.addcmul_(self.logit_bars, spread)
            part.addmm_(self.logit_bars * gate, rows.T)
        return base

    def _products(self, coordinates: Tensor) -> list[Tensor]:
        return [part @ rows for part, rows in zip(self._parts(coordinates), self.rows.split(self.widths), strict=True)]

    def rebuild(self, base: Tensor, coordinates: Tensor, out: Tensor | None = None) -> Tensor:
        self._spreads = self._products(coordinates)
        out = self.labels if out is None else out
        if out is not base:
            out.copy_(base)
        for gate, spread in zip(self.gates, self._spreads, strict=True):
            out.addcmul_(gate, spread)
        return out

    def push(self, out: Tensor) -> Tensor:
        out.zero_()
        products = self._products(self.measurement_bars)
        for gate, gradient, product in zip(self.gates, self.gate_gradients, products, strict=True):
            gradient.addcmul_(self.labels, product)
            out.addcmul_(gate, product)
        return out

    def accumulate(self) -> None:
        if self.gradient is not None:
            if self._empty:
                self.gradient.zero_()
            parts = zip(
                self.gates,
                self.gradient.split(self.widths),
                self._parts(self.coordinates),
                self._parts(self.measurement_bars),
                strict=True,
            )
            for gate, gradient, n, bars in parts:
                gradient.addmm_(n.T, self.logit_bars * gate).addmm_(bars.T, self.labels * gate)
        self._empty = False
        self._left, self._following = self._following, self._left


def linear_forward(rows: Tensor, offset: Tensor, gates: tuple[Tensor, ...], widths: tuple[int, ...]) -> Measurements:
    """The maps of the forward pass, gated where there are gates."""
    return GatedMeasurements(rows, offset, gates, widths) if gates else Measurements(rows, offset)


def linear_backward(
    rows: Tensor, batch: int, needed: bool, gates: tuple[Tensor, ...], widths: tuple[int, ...]
) -> MeasurementsBackward:
    """Those of the backward pass; `needed` says whether A wants a gradient."""
    if gates:
        return GatedMeasurementsBackward(rows, batch, needed, gates, widths)
    return MeasurementsBackward(rows, batch, needed)
