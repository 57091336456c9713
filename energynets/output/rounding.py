"""Stochastic rounding to bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor


def stochastically_rounded(values: Tensor) -> Tensor:
    """bfloat16 below or above each value, with the probabilities that make it right on average.

    bfloat16 is the upper half of a float32's bits. A uniform integer of 16 bits added to the lower half carries into
    the upper one with probability (lower half) / 2^16, then the lower half is cut off. Small steps of gradient descent,
    which rounding to nearest would lose each time, so count in the long run.

    Args:
        values: any shape, finite. Overwritten where float32.

    Source: Zamirai et al., Revisiting BFloat16 Training (2020), section 3.
    """
    bits = values.float().contiguous().view(torch.int32)
    # One draw serves two values.
    noise = torch.empty((bits.numel() + 1) // 2, dtype=torch.int32, device=bits.device).random_(-(2**31), 2**31)
    halves = noise.view(torch.uint8).view(torch.int16)[: bits.numel()].view(bits.shape).int() & 0xFFFF
    return (bits.add_(halves).bitwise_and_(-0x10000)).view(torch.float32).bfloat16()
