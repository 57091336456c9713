"""Expected example-F1 of independent labels, exactly: no sampling, no quadratic cost in L."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

NODES = 32
"""Of the quadrature: exact up to L + |t| = 64, and beyond that to rounding."""
DECAY = 40.0
"""exp(-40) is as good as nothing."""


def expected_f1(logits: Tensor, targets: Tensor, nodes: int = NODES) -> Tensor:
    """E[2 <s, t> / (|s| + |t|)] over labels s drawn independently with probability y = sigmoid(z).

    With 1 / n = integral over u in (0, 1) of u^(n - 1) the expectation of the quotient becomes one of a product, which
    falls apart into factors of one label each,

        2 integral u^(|t| - 1) [sum over i in t of u y_i / (1 - y_i + u y_i)] prod_j (1 - y_j + u y_j) du:

    a polynomial of degree L + |t| - 1 in u, which n Gauss-Legendre nodes integrate exactly from n = (L + |t|) / 2 on.
    As 1 - x <= exp(-x) it is below |t| exp(-d (1 - u)) with d = |t| - 1 + sum_j y_j, so that all of it lies where
    d (1 - u) < 40: the nodes of each document do too, and leave an error of about (40 / (4 n))^(2 n), however large d
    and L are. The factors are computed as u + (1 - u) sigmoid(-z), where nothing cancels. Time and memory are n B L.

    Args:
        logits: z (B, L).
        targets: t (B, L), 0 or 1.
        nodes: n.

    Returns:
        (B,) in [0, 1]; 0 where there are no true labels, as f1_example is.

    Source: the identity is that of Chao & Strawderman, Negative moments of positive random variables (1972);
        Dembczynski et al., An exact algorithm for F-measure maximization (2011), have the expectation by dynamic
        programming, in O(L^2).
    """
    below, weight = (torch.tensor(part, dtype=logits.dtype, device=logits.device) for part in _rule(nodes))
    decay = targets.sum(-1) - 1 + torch.sigmoid(logits.detach()).sum(-1)
    width = DECAY / decay.clamp(min=DECAY)  # (B,): of the interval of u, up to 1
    below = below.unsqueeze(-1) * width  # (n, B): 1 - u
    factors = torch.sigmoid(-logits).mul(below.unsqueeze(-1)) + (1 - below).unsqueeze(-1)  # (n, B, L)
    found = (torch.sigmoid(logits) * targets / factors).sum(-1)
    powers = targets.sum(-1) * torch.log1p(-below)
    return 2 * width * (found * torch.exp(factors.log().sum(-1) + powers) * weight.unsqueeze(-1)).sum(0)


@cache
def _rule(nodes: int) -> tuple[list[float], list[float]]:
    """1 - u and weights of Gauss-Legendre on (0, 1)."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return ((1 - points) / 2).tolist(), (weights / 2).tolist()
