"""m = y A^T and what s = dh/dm means for y, forwards and backwards: the two products of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from energynets.products import Precision, addmm, may_fuse, mm, rounded

_STACKED = 1 << 22
"""Numbers of y and dz that are kept on a GPU, at most, for one product over several steps."""


class Measurements:
    """The linear maps between labels (B, L) and measurements (B, K).

    Args:
        rows: A (K, L).
        offset: (K,) or (B, K).
        precision: of the products with A.
    """

    def __init__(self, rows: Tensor, offset: Tensor, precision: Precision = "float32") -> None:
        self.rows, self.offset = rounded(rows, precision), offset
        self._transposed = self.rows.T

    def measure(self, y: Tensor, out: Tensor) -> Tensor:
        """y A^T + offset, (B, K)."""
        return addmm(self.offset, y, self._transposed, out=out)

    def spread(self, base: Tensor | None, coordinates: Tensor, out: Tensor) -> Tensor:
        """base + n A, (B, L)."""
        return mm(coordinates, self.rows, out=out) if base is None else addmm(base, coordinates, self.rows, out=out)


class _Stack(NamedTuple):
    """n_{t+1} and dm_t (B, K) in one tensor, dz_{t+1} and y_t (B, L) in another, both in the same order."""

    left: Tensor
    right: Tensor
    coordinates: Tensor
    measurement_bars: Tensor
    logit_bars: Tensor


class MeasurementsBackward:
    """What the backward pass of one step does with A, four calls for five products.

    The gradient of A takes two products a step, dm_t^T y_t and n_{t+1}^T dz_{t+1}: stacked they are one,
    (2B, K)^T (2B, L). Two stacks take turns, so that n_t and dz_t can be made while n_{t+1} and dz_{t+1} are still
    wanted; y_t lies between the two places of dz, where it is next to both.
    """

    gate_gradients: Sequence[Tensor] = ()

    def __init__(self, rows: Tensor, batch: int, needed: bool, precision: Precision = "float32") -> None:
        self.rows, self.precision = rounded(rows, precision), precision
        measurements, labels = rows.shape
        ring = rows.new_empty(3 * batch, labels)
        here, following = rows.new_empty(2, 2 * batch, measurements)
        self._here = _Stack(here.T, ring[: 2 * batch], here[:batch], here[batch:], ring[:batch])
        self._following = _Stack(following.T, ring[batch:], following[batch:], following[:batch], ring[2 * batch :])
        self.labels = ring[batch : 2 * batch]
        self._transposed = self.rows.T
        self._empty = True
        self.gradient = torch.empty_like(rows) if needed else None

    @property
    def coordinates(self) -> Tensor:
        """n_{t+1} (B, K)."""
        return self._here.coordinates

    @property
    def next_coordinates(self) -> Tensor:
        """n_t (B, K)."""
        return self._following.coordinates

    @property
    def measurement_bars(self) -> Tensor:
        """dm_t (B, K)."""
        return self._here.measurement_bars

    @property
    def logit_bars(self) -> Tensor:
        """dz_{t+1} (B, L)."""
        return self._here.logit_bars

    @property
    def next_logit_bars(self) -> Tensor:
        """dz_t (B, L)."""
        return self._following.logit_bars

    def pull(self, base: Tensor | None) -> Tensor:
        """base + dz A^T, (B, K): what a gradient of the logits means for n."""
        if base is None:
            return mm(self.logit_bars, self._transposed, out=torch.empty_like(self.coordinates))
        return addmm(base, self.logit_bars, self._transposed, out=base)

    def rebuild(self, base: Tensor | None, coordinates: Tensor, out: Tensor | None = None) -> Tensor:
        """base + n A, (B, L), in `out` or, without it, perhaps where the labels are to stand."""
        out = self.labels if out is None else out
        return mm(coordinates, self.rows, out=out) if base is None else addmm(base, coordinates, self.rows, out=out)

    def push(self, out: Tensor | None = None) -> Tensor:
        """dm A, (B, L), what a gradient of m means for y: in `out` or, without it, perhaps where dz_t is to stand."""
        return mm(self.measurement_bars, self.rows, out=self.next_logit_bars if out is None else out)

    def accumulate(self) -> None:
        """dA += n_{t+1}^T dz_{t+1} + dm_t^T y_t, and on to the next step."""
        if self.gradient is not None:
            left, right = self._here.left, rounded(self._here.right, self.precision)
            if self._empty:
                self.gradient = mm(left, right, out=self.gradient)
            else:
                self.gradient = addmm(self.gradient, left, right, out=self.gradient)
        self._step()

    def _step(self) -> None:
        self._empty = False
        self._here, self._following = self._following, self._here

    def finish(self) -> Tensor | None:
        """dA, once all steps are accumulated."""
        return self.gradient


class StackedMeasurementsBackward(MeasurementsBackward):
    """The same with the two products of several steps as one, (2SB, K)^T (2SB, L).

    For GPUs and small A: a product that sums over 2B documents alone keeps few of their processors busy (Bibtex's shape
    on an H100: 55 microseconds of every 110 that a step takes, forwards and backwards).

    Args:
        segment: S, at least 2.
    """

    def __init__(self, rows: Tensor, batch: int, segment: int, precision: Precision = "float32") -> None:
        self.rows, self.precision, self._batch = rounded(rows, precision), precision, batch
        measurements, labels = rows.shape
        # dz_{t+1}, y_t, dz_t, y_{t-1}, ...: what follows a step is where the next one begins. On the left, beside
        # them: n_{t+1}, dm_t, n_t, dm_{t-1}, ...
        places = (2 * segment + 1) * batch
        self._right, self._left = rows.new_empty(places, labels), rows.new_empty(places, measurements)
        self._last = 2 * segment * batch
        self._transposed = self.rows.T
        self._empty = True
        self._sum = torch.empty_like(rows)
        self._at(0)

    def _at(self, start: int) -> None:
        right, left = (x[start : start + 3 * self._batch].split(self._batch) for x in (self._right, self._left))
        self._start, self.labels = start, right[1]
        self._here = _Stack(self._left, self._right, left[0], left[1], right[0])
        self._following = _Stack(self._left, self._right, left[2], left[1], right[2])

    def accumulate(self) -> None:
        """On to the next step; the products once there is room for no more."""
        start = self._start + 2 * self._batch
        if start == self._last:
            self._add(start)
            for place in (self._right, self._left):
                place[: self._batch].copy_(place[start:])
            start = 0
        self._at(start)

    def finish(self) -> Tensor | None:
        if self._start:
            self._add(self._start)
        return self._sum

    def _add(self, stop: int) -> None:
        left, right = self._left[:stop].T, rounded(self._right[:stop], self.precision)
        add = mm(left, right, out=self._sum) if self._empty else addmm(self._sum, left, right, out=self._sum)
        self._sum, self._empty = add, False


class GatedMeasurements(Measurements):
    """The same where slice i of the measurements sees y * g_i."""

    def __init__(
        self,
        rows: Tensor,
        offset: Tensor,
        gates: tuple[Tensor, ...],
        widths: tuple[int, ...],
        precision: Precision = "float32",
    ) -> None:
        super().__init__(rows, offset, precision)
        self.gates, self.widths = gates, widths

    def measure(self, y: Tensor, out: Tensor) -> Tensor:
        offsets = self.offset.split(self.widths, dim=-1)
        for gate, rows, offset, part in zip(
            self.gates, self.rows.split(self.widths), offsets, out.split(self.widths, dim=-1), strict=True
        ):
            _put(part, addmm(offset, y * gate, rows.T, out=part))
        return out

    def spread(self, base: Tensor | None, coordinates: Tensor, out: Tensor) -> Tensor:
        if base is None:
            out.zero_()
        elif out is not base:
            out.copy_(base)
        parts = coordinates.split(self.widths, dim=-1)
        for gate, rows, part in zip(self.gates, self.rows.split(self.widths), parts, strict=True):
            out.addcmul_(gate, mm(part, rows))
        return out


class GatedMeasurementsBackward(MeasurementsBackward):
    """The same where slice i of the measurements sees y * g_i: the gates have gradients too."""

    def __init__(
        self,
        rows: Tensor,
        batch: int,
        needed: bool,
        gates: tuple[Tensor, ...],
        widths: tuple[int, ...],
        precision: Precision = "float32",
    ) -> None:
        super().__init__(rows, batch, needed, precision)
        self.gates, self.widths = gates, widths
        self.gate_gradients = [torch.zeros_like(gate) for gate in gates]
        self._spreads: list[Tensor] | None = None
        self._pushed: list[Tensor] = []

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
            _put(part, addmm(part, self.logit_bars * gate, rows.T, out=part))
        return base

    def _products(self, coordinates: Tensor) -> list[Tensor]:
        parts = zip(self._parts(coordinates), self.rows.split(self.widths), strict=True)
        return [mm(part, rows) for part, rows in parts]

    def rebuild(self, base: Tensor | None, coordinates: Tensor, out: Tensor | None = None) -> Tensor:
        self._spreads = self._products(coordinates)
        out = self.labels if out is None else out
        if base is None:
            out.zero_()
        elif out is not base:
            out.copy_(base)
        for gate, spread in zip(self.gates, self._spreads, strict=True):
            out.addcmul_(gate, spread)
        return out

    def push(self, out: Tensor | None = None) -> Tensor:
        self._pushed = self._products(self.measurement_bars)
        out = (self.next_logit_bars if out is None else out).zero_()
        for gate, product in zip(self.gates, self._pushed, strict=True):
            out.addcmul_(gate, product)
        return out

    def accumulate(self) -> None:
        for gradient, product in zip(self.gate_gradients, self._pushed, strict=True):
            gradient.addcmul_(self.labels, product)
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
                for left, right in ((n, self.logit_bars), (bars, self.labels)):
                    factor = rounded(right * gate, self.precision)
                    _put(gradient, addmm(gradient, left.T, factor, out=gradient))
        self._step()


def linear_forward(
    rows: Tensor,
    offset: Tensor,
    gates: tuple[Tensor, ...],
    widths: tuple[int, ...],
    precision: Precision = "float32",
) -> Measurements:
    """The maps of the forward pass, gated where there are gates."""
    if gates:
        return GatedMeasurements(rows, offset, gates, widths, precision)
    return Measurements(rows, offset, precision)


def linear_backward(
    rows: Tensor,
    batch: int,
    needed: bool,
    gates: tuple[Tensor, ...],
    widths: tuple[int, ...],
    precision: Precision = "float32",
    steps: int = 1,
) -> MeasurementsBackward:
    """Those of the backward pass; `needed` says whether A wants a gradient, `steps` how many there are at most."""
    if gates:
        return GatedMeasurementsBackward(rows, batch, needed, gates, widths, precision)
    segment = min(steps, _STACKED // max(1, 2 * batch * rows.shape[1]))
    if needed and segment > 1 and batch and rows.is_cuda and may_fuse():
        return StackedMeasurementsBackward(rows, batch, segment, precision)
    return MeasurementsBackward(rows, batch, needed, precision)


def _put(place: Tensor, found: Tensor) -> None:
    """What a product left in memory of its own, where it belongs."""
    if found is not place:
        place.copy_(found)
