"""Which labels a measured energy ties together: the second derivatives of h in y."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from energynets.energies.measured import MeasuredContext, MeasuredEnergy
from energynets.errors import ConfigError

# Numbers of one block of the (L, L) couplings.
_BLOCK = 1 << 21


class Pair(NamedTuple):
    """Two labels, first < second, and their coupling: d2 h / dy_first dy_second, in the energy's units."""

    first: int
    second: int
    coupling: float


def mean_curvature(energy: MeasuredEnergy, y: Tensor, context: MeasuredContext) -> Tensor:
    """H = 1/B sum_b d2 h / dm dm at m(y_b): how the slopes of the measurements change with the measurements.

    The mean of B second derivatives is one Jacobian: of the mean slope under one shift of all measurements.

    Args:
        energy: without gates.
        y: (B, L), where inference has arrived.
        context: `energy.condition(features)`.

    Returns:
        (K, K), symmetric.

    Raises:
        ConfigError: a gated energy: y is scaled anew for each document, so no one matrix couples its labels.
    """
    if context.gates:
        raise ConfigError("coupling: a gated energy couples labels anew for each document; there is no one matrix")
    measurements = energy.measurements(y, context).detach()

    # Row by row: K backward passes through a small network cost less than what `torch.func.jacrev` imports.
    with torch.enable_grad():
        shift = measurements.new_zeros(measurements.shape[1]).requires_grad_()
        slope = energy.slope(measurements + shift, context).mean(0)
    if not slope.requires_grad:  # h is linear in m
        return torch.zeros(len(shift), len(shift)).to(measurements)
    rows = [torch.autograd.grad(one, shift, retain_graph=True, materialize_grads=True)[0] for one in slope]
    curvature = torch.stack(rows)
    return (curvature + curvature.T) / 2


def strongest_pairs(measure: Tensor, curvature: Tensor, count: int) -> tuple[list[Pair], list[Pair]]:
    """The pairs of labels that attract and that repel each other most.

        coupling_ij = d2 h / dy_i dy_j = sum_kl A_ki H_kl A_lj,   i < j

    Mean-field inference sets z_i = (phi_i - dh/dy_i) / tau, so that to first order a label j that goes from 0 to 1
    moves the log-odds of label i by -coupling_ij / tau: a negative coupling attracts, a positive one repels.

    Args:
        measure: A (K, L).
        curvature: H (K, K), symmetric.
        count: of pairs of each kind, at most.

    Returns:
        Attracting and repelling pairs, strongest first, fewer than `count` where there are no more. The (L, L)
        couplings exist a block of rows at a time.
    """
    num_labels = measure.shape[1]
    rows = max(1, _BLOCK // max(1, num_labels))
    bent = curvature @ measure
    # Found so far, attraction and repulsion alike: positive values, their pairs as first * L + second.
    values = [measure.new_zeros(0) for _ in range(2)]
    places = [torch.zeros(0, dtype=torch.int64, device=measure.device) for _ in range(2)]
    for begin in range(0, num_labels - 1, rows):
        first = torch.arange(begin, min(begin + rows, num_labels), device=measure.device)
        # Labels before the block have been its partners already.
        coupling = measure[:, first].T @ bent[:, begin:]
        second = torch.arange(begin, num_labels, device=measure.device)
        coupling = coupling.masked_fill(second <= first[:, None], 0.0)
        for side, signed in enumerate((-coupling.flatten(), coupling.flatten())):
            best = signed.topk(min(count, len(signed)))
            at = first[best.indices // len(second)] * num_labels + second[best.indices % len(second)]
            merged = torch.cat((values[side], best.values)), torch.cat((places[side], at))
            keep = merged[0].topk(min(count, len(merged[0]))).indices
            values[side], places[side] = merged[0][keep], merged[1][keep]
    sides = []
    for sign, found, at in zip((-1.0, 1.0), values, places, strict=True):
        pairs = zip(found.tolist(), at.tolist(), strict=True)
        sides.append(
            [Pair(place // num_labels, place % num_labels, sign * value) for value, place in pairs if value > 0]
        )
    return sides[0], sides[1]
