"""The product that all L-sized work is made of, by the fastest kernel at hand."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bf16"]
"""Of the factors of products with A; their sums and everything else keep the dtype of the model.

What bf16 costs and gains, measured on one Zen 4 core: SPEN, 128 documents, 10 steps of mirror descent, against float32;
norm of the difference over the norm, for the logits and for the worst gradient of a parameter.

    L x K        new weights: logits, gradient    speed of a training step
    159 x 16     1.1e-4, 2.2e-3                   0.5 times
    159 x 512    1.0e-4, 3.1e-3                   1.7 times
    4000 x 512   1.4e-4, 6.7e-3                   1.6 times

With an energy that moves the logits as far as they are large: 2e-3 and 4e-3 at L = 159. At 4000 x 512 the steps of so
strong an energy do not contract, and what they do to a rounding error shows: 2e-2 in the logits, gradients off by 0.8
(float32's own error grows as much, to 2e-4); at a tenth of that strength 5e-4 and 9e-3. So: for K of hundreds, and for
descents that converge.
"""

# Multiplications from which oneDNN's float32 product beats torch's default one (MKL) on an AMD Zen 4, form by form: by
# 1 to 20 % for y A^T, up to 40 % for m A where K >= 256, about a tenth for the stacked M^T X. Below, MKL does, by as
# much and more. A rule by size and not by the clock: two runs must give the same bits.
_FROM = {"y A^T": 1 << 24, "m A": 1 << 23, "M^T X": 1 << 29}
_LEAST_INNER = 256
# And where MKL leaves half of the processor's width unused, in any form: there oneDNN is 1.2 to 2.8 times as fast, by
# median twice (Zen 5, 84 shapes, one thread and two).
_FROM_HALVED = 1 << 22
_LEAST = min(_FROM_HALVED, *_FROM.values())
# oneDNN has no product that adds to a place: numbers of one that are made at a time before they are added to it.
_PART = 1 << 19
_ZEN_5 = 26  # its "cpu family"


_plain: ContextVar[bool] = ContextVar("plain_operations", default=False)


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Public torch operations alone, here and in `elementwise`: for a compiler, which fuses them itself."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def may_fuse() -> bool:
    """Whether kernels of one's own may stand for several operations."""
    return not _plain.get()


def rounded(factor: Tensor, precision: Precision) -> Tensor:
    """A factor as products are to see it: bfloat16 keeps 8 significant bits, an error of 2^-9 at most."""
    return factor.bfloat16() if precision == "bf16" else factor


def addmm(base: Tensor, x: Tensor, y: Tensor, *, out: Tensor | None = None) -> Tensor:
    """base + x y, (R, C) + (R, N) (N, C); base may be (C,).

    Args:
        base: what the product is added to; may be `out` itself.
        x, y: the factors, of one dtype, or y `rounded`: x is then rounded too.
        out: where the result may be written. It is only a place: use what is returned.

    Returns:
        The result, in `out` or in memory of its own.
    """
    if y.dtype == torch.bfloat16:
        return torch.add(base, _mm_bf16(x, y), out=out)
    if _onednn(x, y):
        if base.ndim == 1:
            return _linear(x, y.T, base, "none", [], "")
        if base is out and base.numel() > _PART:
            return _add_in_parts(base, x, y)
        return _linear.binary(x, base, y.T, None, "add")
    return torch.addmm(base, x, y, out=out)


def mm(x: Tensor, y: Tensor, *, out: Tensor | None = None) -> Tensor:
    """x y, (R, N) (N, C) -> (R, C); as `addmm`."""
    if y.dtype == torch.bfloat16:
        return _mm_bf16(x, y)
    if _onednn(x, y):
        return _linear(x, y.T, None, "none", [], "")
    return torch.mm(x, y, out=out)


def _add_in_parts(place: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """place += x y, some rows at a time: a whole second matrix costs more to find and to write."""
    some = max(16, _PART // place.shape[1] // 16 * 16)
    for rows, part in zip(x.split(some), place.split(some), strict=True):
        part.add_(_linear(rows, y.T, None, "none", [], ""))
    return place


def _mm_bf16(x: Tensor, y: Tensor) -> Tensor:
    """Sums in float32. On CUDA they come back so; a CPU's bfloat16 product rounds each once more when it is done."""
    if x.is_cuda and _HAS_OUT_DTYPE:
        return torch.mm(x.bfloat16(), y, out_dtype=torch.float32).to(x.dtype)
    return torch.mm(x.bfloat16(), y).to(x.dtype)


_HAS_OUT_DTYPE = "dtype" in torch.ops.aten.mm.overloads()

try:
    # Private, hence the guard: x, weight, bias, then a fused elementwise operation.
    _linear = torch.ops.mkldnn._linear_pointwise
    _linear.binary  # noqa: B018 - raises where it does not exist
    _HAS_ONEDNN = torch.backends.mkldnn.is_available()
except (AttributeError, RuntimeError):  # pragma: no cover - a torch without oneDNN
    _HAS_ONEDNN = False


def _onednn(x: Tensor, y: Tensor) -> bool:
    size = x.numel() * y.shape[1]
    return (
        size >= _LEAST  # first: small products are many
        and _HAS_ONEDNN
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and bool(torch.backends.mkldnn.enabled)
        and may_fuse()
        and (_mkl_is_halved() or _repays(x, y, size))
    )


def onednn_is_faster(x: Tensor, y: Tensor) -> bool:
    """Whether x y is large, and oneDNN's by far the faster library for it on this processor: `mm` then uses that."""
    return _mkl_is_halved() and _onednn(x, y)


def _repays(x: Tensor, y: Tensor, size: int) -> bool:
    form = _form(x, y)
    return size >= _FROM[form] and (form != "m A" or x.shape[1] >= _LEAST_INNER)


@functools.cache
def _mkl_is_halved() -> bool:
    """Whether MKL computes at half of this processor's width."""
    try:
        return _is_wide_amd(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return False


def _is_wide_amd(cpuinfo: str) -> bool:
    """On AMD MKL has vectors of 256 bits alone; those of 512 are no faster up to Zen 4, but twice as fast on Zen 5."""
    lines = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    said = {name.strip(): value.strip() for name, _, value in lines}
    wide = "avx512f" in said.get("flags", "").split()
    return wide and said.get("vendor_id") == "AuthenticAMD" and int(said.get("cpu family", 0)) >= _ZEN_5


def _form(x: Tensor, y: Tensor) -> str:
    """Which factor lies transposed in memory."""
    if x.stride(1) != 1:
        return "M^T X"
    return "y A^T" if y.stride(1) != 1 else "m A"
