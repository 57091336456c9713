"""Products of a few documents with U, which has a row for each of many labels, in native code where that is faster.

    logits   phi = f U^T + u0        add_slopes   df += dphi U        descend   U <- kept U + step dphi^T f

U is read once, and written once by the last. At F = 512 the first took 0.6 of the time of oneDNN's product at B = 16,
and as long at B = 128; the others half of the time of torch's, and 0.7 to 1 (two Zen 3 cores).
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from energynets.inference.engine.native import Double, Long, Pointer, library
from energynets.inference.engine.pages import new_empty
from energynets.products import addmm, may_fuse, mm

_LARGEST_BATCH = 128
# Bytes of U, below which starting threads and packing f cost more than they save.
_FROM = 1 << 20
_GROUP = 128
"""Bytes of the widest group of features."""
_ALIGNED = 16
"""Numbers: of a row on a GPU."""


class _RowProduct(ctypes.Structure):
    """`RowProduct` of row_products.c."""

    _fields_ = (
        *((name, Long) for name in ("batch", "labels", "features", "threads", "slopes_row")),
        *((name, Pointer) for name in ("slopes", "given", "bias", "weight", "sums", "logits")),
        ("kept", Double),
    )


def aligned(batch: int, labels: int, like: Tensor) -> Tensor:
    """New (B, L), its rows a multiple of 16 numbers apart, as the widest loads and stores want them."""
    return like.new_empty(batch, -(-labels // _ALIGNED) * _ALIGNED)[:, :labels]


def logits(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """phi = f U^T + u0 (B, L), of f (B, F), U (L, F) and u0 (L,) or None."""
    if not _takes(weight, features) or (bias is not None and not bias.is_contiguous()):
        if bias is None:
            return mm(features, weight.T)
        return addmm(bias, features, weight.T, out=features.new_empty(len(features), len(weight)))
    found = new_empty(features, len(features), len(weight))
    _run("row_logits", weight, found, given=features, bias=bias, logits=found)
    return found


def aligned_logits(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`logits`, `aligned`, on a GPU."""
    found = aligned(len(features), len(weight), features)
    if bias is not None:  # copied by whole rows: half of the time of a broadcast
        full = found.as_strided((len(found), found.stride(0)), found.stride())
        row = functional.pad(bias, (0, full.shape[1] - len(bias)))[None]
        torch.index_select(row, 0, torch.zeros(len(found), dtype=torch.long, device=found.device), out=full)
    # A product of an odd number of labels loads and stores them one by one: 6.4 ms and not 2 at L = 670,091 (H100).
    even = len(weight) // _ALIGNED * _ALIGNED
    for part in (slice(0, even), slice(even, len(weight))):
        out = found[:, part]
        if bias is None:
            torch.mm(features, weight[part].T, out=out)
        else:
            torch.addmm(out, features, weight[part].T, out=out)
    return found


def mm_slopes(slopes: Tensor, features: Tensor, out: Tensor) -> None:
    """dU (L, F) = dphi^T f, of dphi (B, L) and f (B, F), written to `out`."""
    if features.is_cuda:  # TF32's fast products sum along memory
        features = features.T.contiguous().T
    torch.mm(slopes.T, features, out=out)


def add_slopes(out: Tensor, slopes: Tensor, weight: Tensor) -> None:
    """df (B, F) += dphi (B, L) U (L, F)."""
    if _takes(weight, out, slopes):
        _run("row_slopes", weight, slopes, slopes=slopes, sums=out)
    else:
        out.addmm_(slopes, weight)


def descend(weight: Tensor, slopes: Tensor, features: Tensor, kept: float, step: float) -> None:
    """U (L, F) <- kept U + step dphi^T f, of dphi (B, L) and f (B, F)."""
    if _takes(weight, features, slopes):
        _run("row_descent", weight, slopes, kept=kept, slopes=slopes, given=features * step)
    else:
        weight.addmm_(slopes.T, features, beta=kept, alpha=step)


def _takes(weight: Tensor, other: Tensor, slopes: Tensor | None = None) -> bool:
    """U, f or df, and dphi."""
    return (
        weight.nbytes >= _FROM
        and 0 < len(other) <= _LARGEST_BATCH
        and weight.shape[1] * weight.element_size() % _GROUP == 0
        and may_fuse()
        and not (torch.is_grad_enabled() and (weight.requires_grad or other.requires_grad))
        and weight.device.type == other.device.type == "cpu"
        and weight.dtype == other.dtype
        and weight.is_contiguous()
        and other.is_contiguous()
        and weight.data_ptr() % 64 == 0
        and (slopes is None or (slopes.stride(1) == 1 and slopes.dtype == weight.dtype))
        and not torch.is_autocast_enabled("cpu")
        and not isinstance(library(weight.dtype), str)
    )


def _run(function: str, weight: Tensor, of_labels: Tensor, kept: float = 1.0, **tensors: Tensor | None) -> None:
    """One of the products; `of_labels` is its (B, L) tensor."""
    sizes = (len(of_labels), *weight.shape, torch.get_num_threads(), of_labels.stride(0))
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}
    product = _RowProduct(*sizes, kept=kept, weight=weight.data_ptr(), **addresses)
    native: Any = library(weight.dtype)
    if getattr(native, function)(ctypes.byref(product)):
        raise MemoryError("native product with the output layer: no memory for a tile of its rows")
