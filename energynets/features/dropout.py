"""Dropout with sixteen random bits a number."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from energynets.parallel import draws

_LEVELS = 1 << 16


def dropout(
    x: Tensor,
    p: float,
    training: bool,
    places: draws.Places | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x_i m_i / (1 - p), each m_i in {0, 1} and 0 with probability p; x itself where not in training.

    On a CPU torch draws 64 random bits for each m_i, one after another, which takes longer than a small network's
    products; here four m_i share them, a fifth of the time, and p is rounded to a multiple of 2^-16. The bits come from
    torch's generator, or from the one that is given.

    Args:
        x: any shape.
        p: in [0, 1].
        training: whether to drop.
        places: of the rows of x in those of a batch that is cut over processes; default: x has a row a document.
        generator: on a CPU; None is torch's own.

    Source: Srivastava et al., Dropout (JMLR 2014), section 4, scaled in training instead of afterwards.
    """
    places = (places or draws.documents()) if training and p > 0 else None
    shape = x.shape if places is None else (places.rows, *x.shape[1:])
    own = slice(None) if places is None else places.own
    if not training or not 0 < p < 1 or x.device.type != "cpu":
        if places is None:
            return functional.dropout(x, p, training)
        return x * functional.dropout(x.new_ones(shape), p, training)[own]
    level = min(round(p * _LEVELS), _LEVELS - 1)
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    kept = bits.view(torch.int16)[:count].view(shape)[own] >= level - _LEVELS // 2
    return x * kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - level))
