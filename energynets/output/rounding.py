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
    # One draw serves four values; its signed halves and 2^15 make 0 .. 2^16 - 1.
    draws = torch.empty(-(-bits.numel() // 4), dtype=torch.int64, device=bits.device).random_(-(2**63), None)
    bits.add_(draws.view(torch.int16)[: bits.numel()].view(bits.shape)).add_(1 << 15)
    return bits.bitwise_right_shift_(16).to(torch.int16).view(torch.bfloat16)
