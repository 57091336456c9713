"""Binary cross-entropy with logits: on a CPU one pass over (B, L) where torch takes nine.

    loss = scale sum_bl [ max(z, 0) - t z + log(1 + exp(-|z|)) ]        dz = scale (sigmoid(z) - t)

Both are made in the forward pass, by native code (cross_entropy.c).
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from energynets.inference.engine import compiling, under_transforms
from energynets.inference.engine.native import Double, Long, Pointer, library
from energynets.products import may_fuse


class _CrossEntropy(ctypes.Structure):
    """`CrossEntropy` of cross_entropy.c."""

    _fields_ = (
        *((name, Long) for name in ("count", "threads")),
        *((name, Pointer) for name in ("logits", "targets", "slope")),
        ("scale", Double),
    )


def cross_entropy(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """The sum over all labels of all documents, times `scale`; differentiable in the logits as often as wanted.

    Args:
        logits: z, of any shape.
        targets: t in [0, 1], of the same shape.
        scale: of the sum.
    """
    if _takes(logits, targets):
        return _OnePass.apply(logits, targets, scale)
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") * scale


def _takes(logits: Tensor, targets: Tensor) -> bool:
    return (
        not compiling()
        and not under_transforms()
        and logits.is_cpu
        and targets.is_cpu
        and logits.shape == targets.shape
        and logits.dtype == targets.dtype
        and logits.is_contiguous()
        and targets.is_contiguous()
        and not targets.requires_grad
        and may_fuse()
        and not torch.is_autocast_enabled("cpu")
        and not isinstance(library(logits.dtype), str)
    )


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, scale: float) -> Tensor:
        slope = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        native: Any = library(logits.dtype)
        given = _CrossEntropy(
            *(logits.numel(), torch.get_num_threads(), logits.data_ptr(), targets.data_ptr()),
            *(None if slope is None else slope.data_ptr(), scale),
        )
        loss = logits.new_tensor(native.cross_entropy(ctypes.byref(given)))
        if slope is not None:
            ctx.save_for_backward(slope, logits)
            ctx.scale = scale
        return loss

    @staticmethod
    def backward(ctx: Any, loss_bar: Tensor) -> tuple[Tensor, None, None]:
        slope, logits = ctx.saved_tensors
        if torch.is_grad_enabled():  # the slope as a function of z
            y = torch.sigmoid(logits)
            slope = slope + ctx.scale * (y - y.detach())
        return slope * loss_bar, None, None
