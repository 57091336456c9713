"""The passes over (B, L) between two products, each one kernel: every number is read and written once.

    y = sigmoid(z),  z = P + sum_j c_j x_j        P a product, x_j the bases with their factors c_j
    dz = y (1 - y) g,  dx_j += c_j dz             g the gradient of the loss to y

On CUDA, float32 tensors go through Triton; on a CPU, float32 and float64 ones, from a size on, through passes.c. All
else (small tensors, other layouts, factors that are tensors) are torch operations with the same meaning, the oracle of
the kernels.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from energynets.inference.engine.native import Double, Long, Pointer, library
from energynets.inference.engine.schedule import Number
from energynets.products import may_fuse

try:
    import triton
    from triton import language as tl
except ImportError:  # a torch for CPUs comes without
    triton = None

Terms = Sequence[tuple[Number, Tensor]]
"""(c_j, x_j): what is added to a product, or (c_j, dx_j): where a gradient is added to."""

_sigmoid_backward = torch.ops.aten.sigmoid_backward
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_BLOCK = 1024
# Numbers from which a call of C costs less than the operations it stands for.
_C_FROM = 1 << 14


class _Pass(ctypes.Structure):
    """`Pass` of passes.c."""

    _fields_ = (
        *((name, Long) for name in ("count", "threads", "terms", "bars")),
        *((name, Pointer) for name in ("logits", "term_0", "term_1", "gradient", "labels", "out", "bar_0", "bar_1")),
        *((name, Double) for name in ("term_factor_0", "term_factor_1", "bar_factor_0", "bar_factor_1")),
    )


def fuses(like: Tensor, *terms: Terms) -> bool:
    """Whether the kernels take this: adding the bases is then their work and not the products'.

    Args:
        like: any (B, L) of the descent.
        terms: of at most two each, whose factors are numbers.
    """
    return (
        may_fuse()
        and (_by_triton(like) or _by_c(like))
        and like.is_contiguous()
        and all(len(some) <= 2 and all(_plain(*term) for term in some) for some in terms)
    )


def _from_end_to_end(*tensors: Tensor) -> bool:
    """Whether the kernels, which know no strides, may read and write these."""
    return all(tensor.is_contiguous() for tensor in tensors)


def _by_triton(like: Tensor) -> bool:
    return triton is not None and (like.is_cuda or _INTERPRETED) and like.dtype == torch.float32


def _by_c(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.numel() >= _C_FROM and not isinstance(library(like.dtype), str)


def labels(logits: Tensor, terms: Terms, out: Tensor) -> Tensor:
    """y = sigmoid(P + sum_j c_j x_j), (B, L).

    Args:
        logits: P (B, L).
        terms: (c_j, x_j), perhaps none.
        out: where y is written; may be P.
    """
    if not fuses(logits, terms) or not _from_end_to_end(out):
        return torch.sigmoid(add(logits, terms, out), out=out)
    (c_0, x_0), (c_1, x_1) = _two(terms, logits)
    if not _by_triton(logits):
        return _call(out, (logits, x_0, x_1, None, out, None, None, None), (c_0, c_1, 0, 0), len(terms), -1)
    return _launch(_labels_kernel, out, logits, x_0, x_1, out, c_0, c_1, terms=len(terms))


def pullback(labels: Tensor, gradient: Tensor, bars: Terms, out: Tensor) -> Tensor:
    """dz = y (1 - y) g, and dx_j += c_j dz.

    Args:
        labels: y (B, L).
        gradient: g (B, L).
        bars: (c_j, dx_j), perhaps none.
        out: where dz is written; may be g.
    """
    if not fuses(labels, bars) or not _from_end_to_end(gradient, out):
        _sigmoid_backward.grad_input(gradient, labels, grad_input=out)
        share(out, bars)
        return out
    return _adjoint(labels, None, gradient, bars, labels, out)


def labels_and_pullback(
    logits: Tensor, terms: Terms, gradient: Tensor, bars: Terms, labels_out: Tensor, out: Tensor
) -> Tensor:
    """`labels`, then `pullback` at them, in one pass: y in `labels_out`, dz in `out`."""
    if not fuses(logits, terms, bars) or not _from_end_to_end(gradient, labels_out, out):
        return pullback(labels(logits, terms, labels_out), gradient, bars, out)
    return _adjoint(logits, terms, gradient, bars, labels_out, out)


def add(logits: Tensor, terms: Terms, out: Tensor) -> Tensor:
    """P + sum_j c_j x_j; P itself where there is nothing to add."""
    for factor, term in terms:
        if isinstance(factor, Tensor):
            logits = torch.addcmul(logits, term, factor, out=out)
        else:
            logits = torch.add(logits, term, alpha=factor, out=out)
    return logits


def share(gradient: Tensor, bars: Terms) -> None:
    """dx_j += c_j dz."""
    for factor, bar in bars:
        if isinstance(factor, Tensor):
            bar.addcmul_(gradient, factor)
        elif factor:
            bar.add_(gradient, alpha=factor)


def _adjoint(
    logits: Tensor, terms: Terms | None, gradient: Tensor, bars: Terms, labels_out: Tensor, out: Tensor
) -> Tensor:
    (c_0, x_0), (c_1, x_1) = _two(terms or (), logits)
    (d_0, bar_0), (d_1, bar_1) = _two(bars, logits)
    tensors = (logits, x_0, x_1, gradient, labels_out, out, bar_0, bar_1)
    count = -1 if terms is None else len(terms)
    if not _by_triton(logits):
        return _call(out, tensors, (c_0, c_1, d_0, d_1), count, len(bars))
    return _launch(_adjoint_kernel, out, *tensors, c_0, c_1, d_0, d_1, terms=count, bars=len(bars))


def _call(out: Tensor, tensors: Sequence[Tensor | None], factors: Sequence[float], terms: int, bars: int) -> Tensor:
    """The pass in C, on all threads that torch has."""
    found = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    given = _Pass(out.numel(), torch.get_num_threads(), terms, bars, *found, *factors)
    native: Any = library(out.dtype)
    getattr(native, "pass")(ctypes.byref(given))
    return out


def _launch(kernel: Any, out: Tensor, *arguments: Any, **constants: int) -> Tensor:
    """One program a block of numbers, on the device they are on."""
    if count := out.numel():
        with torch.cuda.device_of(out):
            kernel[(triton.cdiv(count, _BLOCK),)](*arguments, count, block=_BLOCK, **constants)
    return out


def _plain(factor: Number, tensor: Tensor) -> bool:
    return isinstance(factor, float) and tensor.is_contiguous()


def _two(terms: Terms, filler: Tensor) -> list[tuple[Any, Tensor]]:
    """Two terms for a kernel that looks at no more than there are."""
    return [*terms, (0.0, filler), (0.0, filler)][:2]


if triton is not None:

    @triton.jit
    def _labels_kernel(  # type: ignore[no-untyped-def]
        logits, x_0, x_1, out, c_0, c_1, count, terms: tl.constexpr, block: tl.constexpr
    ):
        at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        inside = at < count
        z = tl.load(logits + at, mask=inside)
        if terms >= 1:
            z += c_0 * tl.load(x_0 + at, mask=inside)
        if terms >= 2:
            z += c_1 * tl.load(x_1 + at, mask=inside)
        tl.store(out + at, tl.sigmoid(z), mask=inside)

    @triton.jit
    def _adjoint_kernel(  # type: ignore[no-untyped-def]
        logits,
        x_0,
        x_1,
        gradient,
        labels_out,
        out,
        bar_0,
        bar_1,
        c_0,
        c_1,
        d_0,
        d_1,
        count,
        terms: tl.constexpr,
        bars: tl.constexpr,
        block: tl.constexpr,
    ):
        at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        inside = at < count
        y = tl.load(logits + at, mask=inside)
        if terms >= 0:  # what was loaded is P and not y
            if terms >= 1:
                y += c_0 * tl.load(x_0 + at, mask=inside)
            if terms >= 2:
                y += c_1 * tl.load(x_1 + at, mask=inside)
            y = tl.sigmoid(y)
            tl.store(labels_out + at, y, mask=inside)
        dz = y * (1 - y) * tl.load(gradient + at, mask=inside)
        tl.store(out + at, dz, mask=inside)
        if bars >= 1:
            tl.store(bar_0 + at, tl.load(bar_0 + at, mask=inside) + d_0 * dz, mask=inside)
        if bars >= 2:
            tl.store(bar_1 + at, tl.load(bar_1 + at, mask=inside) + d_1 * dz, mask=inside)
