"""How far from the minimum an answer is at most, without knowing the minimum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from energynets.energies import Energy
from energynets.errors import InferenceError
from energynets.inference.observed import Observed, observe

NO_CERTIFICATE = "no certificate: not convex"
"""What stands in a certificate's place for an energy that is not convex."""

# dE/dy is a sum of terms that cancel at the minimum, so near it what is computed is rounding, and the true slope may be
# this many units of rounding of the largest term away: n roundings of random sign add up to about sqrt(n) units
# (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 2.8). Measured in float32: at most 9 units for
# L x K = 4,000 x 512, a root mean square of 3 at most for 30,000 x 128, weights of size 1.
ROUNDING = 32


def certificate(energy: Energy, logits: Tensor, context: Any, observed: Observed | None = None) -> Tensor:
    """An upper bound on E(y) - min E, for each example, of a convex energy.

    With g = dE/dy and D the divergence of the regulariser, convexity of the potential alone gives

        E(y) - min E <= max over y' of <g, y - y'> - tau D(y', y),

    which falls apart into one problem a label (a group of labels for `Simplex`) and whose value is at most each of

        max(g_i y_i, -g_i (1 - y_i))                        the Frank-Wolfe gap,
        g_i^2 / (8 tau)                                     minus the binary entropy is 4-strongly convex,
        y_i (1 - y_i) g_i^2 exp(|g_i| / tau) / (2 tau)      its curvature changes by a factor exp(|dz|) at most.

    The certificate is the sum over labels of the smallest, so never above the sum of one of them, and tends to 0 as y
    tends to the minimum. For `Simplex`, with expectations under a group's y and r the range of its g: E g - min g,
    r^2 / (8 tau) and Var(g) exp(r / tau) / (2 tau). For `Euclidean` it is |g|^2 / (2 tau).

    Args:
        energy: a convex energy.
        logits: z (B, L) of the answer.
        context: `energy.condition(features)`.
        observed: labels that are known: neither y nor the minimum may move them.

    Returns:
        (B,), at least 0, in the energy's units (nats at tau = 1); infinite where the slope is not finite.

    Raises:
        InferenceError: the energy is not convex.
        ShapeError: `observed` is not (B, L).

    Source: Jaggi, Revisiting Frank-Wolfe (2013), section 2, for the duality gap; Beck & Teboulle (2003), section 4, for
    the strong convexity of the entropies; the third is the second derivative of the log-partition function, integrated.

    Example:
        >>> import torch
        >>> from energynets import ICNN, MirrorDescent
        >>> from energynets.inference import certificate
        >>> energy = ICNN(num_features=8, num_labels=5)
        >>> context = energy.condition(torch.randn(3, 8))
        >>> bool((certificate(energy, MirrorDescent(50).solve(energy, context), context) < 1e-6).all())
        True
    """
    if not energy.convex:
        raise InferenceError(f"{NO_CERTIFICATE}: {type(energy).__name__}.convex is False")
    observed = observe(observed, energy, logits)
    with torch.no_grad():
        y = energy.domain.labels(logits)
        slope = energy.gradient(y if observed is None else observed.labels(y), context) + energy.tau * logits
        return certificate_of_slope(energy, logits, slope, context, observed)


def certificate_of_slope(
    energy: Energy, logits: Tensor, slope: Tensor, context: Any, observed: Observed | None
) -> Tensor:
    """`certificate` from dE/dy (B, L) and checked labels."""
    regularizer = energy.tau * logits
    sizes = torch.maximum((slope - regularizer).abs(), torch.as_tensor(regularizer).abs())
    unary = energy.initial_logits(context)
    if unary is not None:
        sizes = torch.maximum(sizes, unary.abs())
    if observed is not None:
        slope, sizes = observed.free(slope), observed.free(sizes)
    slack = ROUNDING * torch.finfo(slope.dtype).eps * sizes.amax(-1, keepdim=True)
    slack = slack.expand_as(slope) if observed is None else observed.free(slack.expand_as(slope))
    bound = energy.domain.gap(logits, slope, slack, energy.tau)
    return bound.masked_fill(bound.isnan(), torch.inf)
