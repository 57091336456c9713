"""The product that all L-sized work is made of, by the fastest kernel at hand."""

from __future__ import annotations

import torch
from torch import Tensor

# Multiplications from which oneDNN's float32 product beats the default one (MKL), which on AMD CPUs reaches about half
# its rate. A rule by size and not by the clock: two runs must give the same bits.
ONEDNN_FROM = 1 << 23


def addmm(base: Tensor, x: Tensor, y: Tensor, *, out: Tensor) -> Tensor:
    """base + x y, (R, C) + (R, N) (N, C); base may be (C,).

    Args:
        base: what the product is added to; may be `out` itself.
        x, y: the factors, of one dtype.
        out: where the result may be written. It is only a place: use what is returned.

    Returns:
        The result, in `out` or in memory of its own.
    """
    if _onednn(x, y):
        if base.ndim == 1:
            return _linear(x, y.T, base, "none", [], "")
        return _linear.binary(x, base, y.T, None, "add")
    return torch.addmm(base, x, y, out=out)


def mm(x: Tensor, y: Tensor, *, out: Tensor) -> Tensor:
    """x y, (R, N) (N, C) -> (R, C); `out` as in `addmm`."""
    if _onednn(x, y):
        return _linear(x, y.T, None, "none", [], "")
    return torch.mm(x, y, out=out)


try:
    # Private, hence the guard: x, weight, bias, then a fused elementwise operation.
    _linear = torch.ops.mkldnn._linear_pointwise
    _linear.binary  # noqa: B018 - raises where it does not exist
    _HAS_ONEDNN = torch.backends.mkldnn.is_available()
except (AttributeError, RuntimeError):  # pragma: no cover - a torch without oneDNN
    _HAS_ONEDNN = False


def _onednn(x: Tensor, y: Tensor) -> bool:
    return (
        x.numel() * y.shape[1] >= ONEDNN_FROM  # first: small products are many
        and _HAS_ONEDNN
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and bool(torch.backends.mkldnn.enabled)
    )
