"""A pass over the labels in native code: the CPU's `label_passes`, a tile of labels in cache at a time.

The C code is `label_native.c`. Against torch operations in chunks, which read and write z and y between products and
copy each chunk of A, two Zen 3 cores took a third of the time at L = 670,091, K = 128, B = 16.
"""

from __future__ import annotations

import ctypes
import math
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from energynets.inference.engine.label_passes import Packed
from energynets.inference.engine.native import Double, Long, Pointer, library
from energynets.inference.engine.pages import new_empty
from energynets.products import may_fuse

_LINE = 64


class _LabelPass(ctypes.Structure):
    """`LabelPass` of label_native.c."""

    _fields_ = (
        *((name, Long) for name in ("batch", "labels", "measurements", "steps", "threads")),
        *((name, Long) for name in ("unary_row", "rows_row", "rows_bar_row", "unary_bar_row")),
        *((name, Pointer) for name in ("unary", "rows", "n", "bars", "factors")),
        ("scale", Double),
        ("kept", Pointer),
        ("step", Long),
        *((name, Pointer) for name in ("sums", "rows_bar", "unary_bar", "losses", "shares")),
    )


def take(features: Tensor, rows: Tensor) -> bool:
    """Whether there is native code for f (B, F) and A (K, L)."""
    return (
        may_fuse()
        and rows.device.type == features.device.type == "cpu"
        and features.dtype == rows.dtype
        and not torch.is_autocast_enabled("cpu")
        and not isinstance(library(rows.dtype), str)
    )


def pack(phi: Tensor, rows: Tensor, steps: int = 0) -> Packed:
    """As they are: the pass copies a tile at a time."""
    phi, rows = (x if x.stride(1) == 1 else x.contiguous() for x in (phi, rows))
    return Packed(phi, rows, _kept(phi, steps) if steps else None)


def _kept(phi: Tensor, steps: int) -> Tensor:
    """A place for y_t and dz_t of all steps, (L / W, 2 T, B, W), on a cache line's boundary."""
    native: Any = library(phi.dtype)
    batch, labels = phi.shape
    width = native.label_group()
    shape = -(-labels // width), 2 * steps, batch, width
    spare = _LINE // phi.element_size()
    numbers = new_empty(phi, math.prod(shape) + spare)
    first = -numbers.data_ptr() % _LINE // phi.element_size()
    return numbers[first : first + math.prod(shape)].view(shape)


def measure(given: Packed, factor: float, n: Tensor | None, step: int = 0) -> Tensor:
    """`LabelPasses.measure`."""
    return _sums(given, factor, n, None, None, step)


def measure_and_loss(given: Packed, factor: float, n: Tensor) -> tuple[Tensor, Tensor]:
    """`LabelPasses.measure_and_loss`."""
    losses = torch.empty(len(given.phi), dtype=torch.float64)
    last = 0 if given.kept is None else given.kept.shape[1] // 2
    return _sums(given, factor, n, None, losses, last), losses


def pull(given: Packed, factor: float, n: Tensor, measurement_bars: Tensor, step: int = 0) -> Tensor:
    """`LabelPasses.pull`."""
    return _sums(given, factor, n, measurement_bars, None, step)


def gradients(
    given: Packed,
    factors: Sequence[float],
    n: Tensor,
    bars: Tensor,
    scale: Tensor,
    out: Tensor | None,
    *,
    wants_shares: bool,
) -> tuple[Tensor, Tensor | None]:
    """`LabelPasses.gradients`."""
    dphi = new_empty(given.phi, *given.phi.shape)
    shares = torch.empty(len(n) + 1, dtype=torch.float64) if wants_shares else None
    n, bars = n.contiguous(), bars.contiguous()
    pass_ = _given(given, factors, n, bars)
    pass_.steps, pass_.scale = len(n), float(scale)
    pass_.unary_bar, pass_.unary_bar_row = dphi.data_ptr(), dphi.stride(0)
    pass_.shares = _address(shares)
    if out is not None:
        pass_.rows_bar, pass_.rows_bar_row = out.data_ptr(), out.stride(0)
    _run("label_gradients", pass_, dphi.dtype)
    return dphi, None if shares is None else shares.to(dphi.dtype)


def _sums(
    given: Packed, factor: float, n: Tensor | None, bars: Tensor | None, losses: Tensor | None, step: int
) -> Tensor:
    sums = given.phi.new_empty(len(given.phi), len(given.rows))
    n, bars = (None if x is None else x.contiguous() for x in (n, bars))
    pass_ = _given(given, [factor], n, bars)
    pass_.sums, pass_.losses, pass_.step = sums.data_ptr(), _address(losses), step
    _run("label_sums", pass_, sums.dtype)
    return sums


def _given(given: Packed, factors: Sequence[float], n: Tensor | None, bars: Tensor | None) -> _LabelPass:
    """Of tensors that outlive the call."""
    phi, rows, kept = given
    steps = 0 if kept is None else kept.shape[1] // 2
    pass_ = _LabelPass(*phi.shape, len(rows), steps, torch.get_num_threads(), phi.stride(0), rows.stride(0))
    pass_.kept = _address(kept)
    pass_.unary, pass_.rows, pass_.n, pass_.bars = phi.data_ptr(), rows.data_ptr(), _address(n), _address(bars)
    pass_.numbers = array("d", factors)  # lives as long as what points to it
    pass_.factors, _ = pass_.numbers.buffer_info()
    return pass_


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _run(function: str, pass_: _LabelPass, dtype: torch.dtype) -> None:
    native: Any = library(dtype)
    if getattr(native, function)(ctypes.byref(pass_)):
        raise MemoryError("native pass over the labels: no memory for a tile of them")
